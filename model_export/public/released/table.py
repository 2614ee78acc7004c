"""Whose names are whose: a system's own names, rule by rule, in the names that its released file uses, and a load
that leaves nothing unsaid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model_export.public.folder import check_keys
from model_export.public.released.weights import Weights

NUMBER = "{n}"
"""Stands in a rule for the number of a layer or block, the same on both sides."""
_COUNTER = ".num_batches_tracked"
"""Of a norm: how many batches its statistics come from. Files may lack it, and nothing reads it any more."""
_POSITIONS = "position_ids"
"""Positions 0, 1, 2 and so on, which older libraries stored among the weights."""


@dataclass(frozen=True)
class Layout:
    """A released file: where each tensor of a module here comes from, and which of its tensors nobody reads.

    ``rules``: (prefix of a name here, prefix of a name in the file), the first that fits decides; whole parts of
    names only. ``unread``: (prefix of a name in the file, why no graph reads it).
    """

    rules: Sequence[tuple[str, str]]
    unread: Sequence[tuple[str, str]] = ()

    def name_in_file(self, own: str) -> str:
        """Raises LookupError for a name that no rule is about."""
        for ours, theirs in self.rules:
            pattern = re.escape(ours).replace(re.escape(NUMBER), r"(\d+)")
            if found := re.match(rf"{pattern}(?=\.|$)", own):
                number = found[1] if found.groups() else ""
                return theirs.replace(NUMBER, number) + own[found.end() :]
        raise LookupError(f"{own}: no rule of the layout is about it")

    def reason_unread(self, name: str) -> str | None:
        """Why no graph reads a tensor of the file; None where one should."""
        if name.endswith((_COUNTER, _POSITIONS)):
            return "counters"
        for prefix, reason in self.unread:
            pattern = re.escape(prefix).replace(re.escape(NUMBER), r"\d+")
            if re.match(rf"{pattern}(?=\.|$)", name):
                return reason
        return None


def load_released(folder: Path, module: nn.Module, weights: Weights, layout: Layout) -> list[str]:
    """Fill every tensor of ``module`` from the file, float32; what was left unread, one sentence per reason.

    Raises InvalidInput naming, by the file's own names, every tensor that is missing, is left over without a reason,
    or has another shape than the module's.
    """
    own = {name: values for name, values in module.state_dict().items() if not name.endswith(_COUNTER)}
    sources = {name: layout.name_in_file(name) for name in own}
    missing = [source for source in sources.values() if source not in weights]
    left = sorted(set(weights) - set(sources.values()))
    reasons = {name: layout.reason_unread(name) for name in left}
    fitting = {name: _fitted(weights[source], own[name]) for name, source in sources.items() if source in weights}
    mismatched = [
        f"{sources[name]} {_shape(weights[sources[name]])} instead of {_shape(own[name])}"
        for name, values in fitting.items()
        if values is None
    ]
    check_keys(folder, missing, [name for name, reason in reasons.items() if reason is None], mismatched)
    module.load_state_dict({name: values for name, values in fitting.items() if values is not None}, strict=False)
    module.eval()
    return _unread(reasons)


def _fitted(values: Tensor, wanted: Tensor) -> Tensor | None:
    """As the module takes it; None for another shape. A kernel of 1x1 is a linear map."""
    if values.shape == (*wanted.shape, 1, 1):
        values = values.reshape(wanted.shape)
    if values.shape != wanted.shape:
        return None
    return values.to(torch.float32) if wanted.is_floating_point() else values


def _shape(values: Tensor) -> str:
    return str(tuple(values.shape))


def _unread(reasons: Mapping[str, str | None]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason is not None and reason != "counters":
            by_reason.setdefault(reason, []).append(name)
    return [f"Not read: {len(names)} tensors from {names[0]} on. {reason}" for reason, names in by_reason.items()]
