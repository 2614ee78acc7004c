"""Weights of a released checkpoint: read safely, mapped to the names of our modules, and sizes inferred from shapes.

Letters: D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from model_export.public.folder import PICKLE_PATTERNS, check_keys, has_pickled_weights
from vitascope.errors import InvalidInput

Weights = Mapping[str, Tensor]
"""Tensors by their names in the file."""

HEAD_WIDTH = 64
"""Width of an attention head in CLIP's ViT-B and ViT-L and in BERT; shapes do not determine it."""
HEADS_NOTE = "The {part} has {heads} heads of {width}: a guess; all published configurations have that."
LAYER_INDEX = "{n}"
"""Placeholder in rules for the index of a layer or block, which is equal on both sides."""
_STATE_DICT_KEYS = ("state_dict", "model_state_dict")
"""Keys of the weights in training checkpoints."""
_PARALLEL_PREFIX = "module."
"""Prefix of all names if the model was wrapped for data parallelism."""
_BATCH_COUNTER = ".num_batches_tracked"
"""Suffix of unused batch norm counters."""
_POSITION_IDS = "position_ids"
"""Suffix of constant buffers."""
_RESNETS: dict[tuple[int, ...], dict[bool, str]] = {
    (2, 2, 2, 2): {False: "resnet18"},
    (3, 4, 6, 3): {False: "resnet34", True: "resnet50"},
    (3, 4, 23, 3): {True: "resnet101"},
    (3, 8, 36, 3): {True: "resnet152"},
}
"""By blocks of the four stages, and whether a block has three convolutions."""


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files, or its pickles if there are none."""
    safe = sorted(folder.glob("*.safetensors"))
    return safe or sorted(path for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))


def read_weight_names(file: Path) -> list[str]:
    """Return the names in a safetensors file, reading only its header. Raises InvalidInput."""
    try:
        with safe_open(file, "pt") as opened:
            return [name.removeprefix(_PARALLEL_PREFIX) for name in opened.keys()]  # noqa: SIM118 - not a dict
    except Exception as error:  # the library's error types differ by version
        raise _read_error(file, error) from error


def read_weights(folder: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Read the tensors of the folder's one file of weights. Pickles are read by torch's restricted reader.

    Raises InvalidInput for no or several files, for pickles unless `allow_pickle` is set, and for anything but a
    mapping of tensors.
    """
    has_pickled_weights(folder, allow_pickle=allow_pickle)
    files = weight_files(folder)
    if len(files) != 1:
        raise InvalidInput(f"model: {folder} has weights in {[path.name for path in files]}; one file was expected")
    (file,) = files
    try:
        content: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise various errors
        raise _read_error(file, error) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _STATE_DICT_KEYS if key in content), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InvalidInput(
            f"model: {file} holds {_describe(content)}; tensors by name were expected, directly or under "
            f"{' or '.join(_STATE_DICT_KEYS)}"
        )
    return {str(name).removeprefix(_PARALLEL_PREFIX): values for name, values in content.items()}


def _read_error(file: Path, error: Exception) -> InvalidInput:
    first = str(error).partition("\n")[0]
    return InvalidInput(f"model: {file}: its weights cannot be read: {first}")


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    other = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
    return f"{len(content)} entries, {', '.join(other[:5]) or 'none'} not tensors"


@dataclass(frozen=True)
class Layout:
    """Mapping of module names to names in the file.

    Attributes:
        rules: (prefix of the module's name, prefix in the file); the first match applies. Prefixes end at a dot.
        unused: (prefix in the file, reason why no graph uses it).
    """

    rules: Sequence[tuple[str, str]]
    unused: Sequence[tuple[str, str]] = ()

    def name_in_file(self, name: str) -> str:
        """Return the file's name for a module's tensor. Raises LookupError without a matching rule."""
        for own_prefix, file_prefix in self.rules:
            pattern = re.escape(own_prefix).replace(re.escape(LAYER_INDEX), r"(\d+)")
            if match := re.match(rf"{pattern}(?=\.|$)", name):
                index = match[1] if match.groups() else ""
                return file_prefix.replace(LAYER_INDEX, index) + name[match.end() :]
        raise LookupError(f"{name}: no rule of the layout matches")

    def reason_unused(self, name: str) -> str | None:
        """Return why no graph uses a tensor of the file; None if one should, "" for counters."""
        if name.endswith((_BATCH_COUNTER, _POSITION_IDS)):
            return ""
        for prefix, reason in self.unused:
            pattern = re.escape(prefix).replace(re.escape(LAYER_INDEX), r"\d+")
            if re.match(rf"{pattern}(?=\.|$)", name):
                return reason
        return None


def load_weights(folder: Path, module: nn.Module, weights: Weights, layout: Layout) -> list[str]:
    """Load every tensor of `module` from the file in float32; returns notes on unused tensors, one per reason.

    Raises InvalidInput listing, by the file's names, tensors that are missing, unexpected or of another shape.
    """
    own = {name: values for name, values in module.state_dict().items() if not name.endswith(_BATCH_COUNTER)}
    file_names = {name: layout.name_in_file(name) for name in own}
    missing = [name for name in file_names.values() if name not in weights]
    reasons = {name: layout.reason_unused(name) for name in sorted(set(weights) - set(file_names.values()))}
    unexpected = [name for name, reason in reasons.items() if reason is None]
    loaded, mismatched = {}, []
    for name, file_name in file_names.items():
        if file_name in weights:
            values = _fit(weights[file_name], own[name])
            if values is None:
                shapes = tuple(weights[file_name].shape), tuple(own[name].shape)
                mismatched.append(f"{file_name} {shapes[0]} instead of {shapes[1]}")
            else:
                loaded[name] = values
    check_keys(folder, missing, unexpected, mismatched)
    module.load_state_dict(loaded, strict=False)
    module.eval()
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            by_reason.setdefault(reason, []).append(name)
    return [f"Not used: {len(names)} tensors, {names[0]} first. {reason}" for reason, names in by_reason.items()]


def _fit(values: Tensor, target: Tensor) -> Tensor | None:
    """Convert to the target's shape and type; None if the shapes differ. A 1x1 kernel fits a linear layer."""
    if values.shape == (*target.shape, 1, 1):
        values = values.reshape(target.shape)
    if values.shape != target.shape:
        return None
    return values.to(torch.float32) if target.is_floating_point() else values


def size_of(folder: Path, weights: Weights, name: str, axis: int) -> int:
    """Return the size of a tensor along an axis. Raises InvalidInput if the tensor or the axis is missing."""
    if name not in weights:
        check_keys(folder, [name], ())
    shape = tuple(weights[name].shape)
    if not -len(shape) <= axis < len(shape):
        raise InvalidInput(f"model: {folder}: {name} has the shape {shape}; one with an axis {axis} was expected")
    return int(shape[axis])


def count_layers(weights: Weights, prefix: str) -> int:
    """Return the number of layers `prefix.0`, `prefix.1`, …; gaps are reported later as missing tensors."""
    matches = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in weights]
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def guess_heads(folder: Path, part: str, width: int) -> tuple[int, str]:
    """Return the number of heads of the usual width, and a note on the guess. Raises InvalidInput."""
    if width % HEAD_WIDTH:
        raise InvalidInput(
            f"model: {folder}: the {part} is {width} wide; a multiple of {HEAD_WIDTH}, a head's width, was expected"
        )
    heads = width // HEAD_WIDTH
    return heads, HEADS_NOTE.format(part=part, heads=heads, width=HEAD_WIDTH)


def detect_resnet(folder: Path, weights: Weights, prefix: str) -> str:
    """Return timm's name of the ResNet under `prefix`. Raises InvalidInput for other numbers of blocks."""
    blocks = tuple(count_layers(weights, f"{prefix}.layer{stage}") for stage in (1, 2, 3, 4))
    bottleneck = f"{prefix}.layer1.0.conv3.weight" in weights
    name = _RESNETS.get(blocks, {}).get(bottleneck)
    if name is None:
        raise InvalidInput(
            f"model: {folder}: {prefix} has {blocks} blocks in its four stages, {'three' if bottleneck else 'two'} "
            "convolutions each; a ResNet of 18, 34, 50, 101 or 152 layers was expected"
        )
    return name


def resnet_rules(own_prefix: str, file_prefix: str) -> list[tuple[str, str]]:
    """Return the layout rules of `training.models.convolution.ConvEncoder`."""
    return [
        (f"{own_prefix}.stages.0.0", f"{file_prefix}.conv1"),
        (f"{own_prefix}.stages.0.1", f"{file_prefix}.bn1"),
        (f"{own_prefix}.stages.1.1", f"{file_prefix}.layer1"),
        (f"{own_prefix}.stages.2.0", f"{file_prefix}.layer2"),
        (f"{own_prefix}.stages.3.0", f"{file_prefix}.layer3"),
        (f"{own_prefix}.stages.4.0", f"{file_prefix}.layer4"),
    ]
