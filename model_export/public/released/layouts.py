"""Which system a file of weights is of, by the names in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from model_export.public.model import PublicModel
from model_export.public.released.clip_vip import load_clip_vip
from model_export.public.released.hd_vila.load import load_hd_vila
from model_export.public.released.soho import load_soho
from model_export.public.released.weights import Weights, names_in_file, read_weights, weight_files
from vitascope.errors import InvalidInput

_LAYOUTS: dict[str, tuple[str, Callable[[Path, Weights], PublicModel]]] = {
    "clipmodel.": ("CLIP-ViP", load_clip_vip),
    "timesformer.": ("HD-VILA", load_hd_vila),
    "neck.": ("SOHO", load_soho),
}
"""By what some names in the file begin with, and only of that system."""
_OWN_SUFFIXES = (".pt", ".pth")
"""Of pickles that transformers does not read, so that a configuration of its beside them says nothing of them."""


def open_released(folder: Path, *, allow_pickle: bool, stated: bool) -> PublicModel | None:
    """The released checkpoint in a folder, which holds one file of weights and a tokenizer.

    ``stated``: whether a configuration in the folder says that the weights are of another library. Then None is given
    unless the names in the file say otherwise. Raises InvalidInput.
    """
    if stated and not _may_be_released(folder, allow_pickle=allow_pickle):
        return None
    weights = read_weights(folder, allow_pickle=allow_pickle)
    found = _layout_of(weights)
    if found is not None:
        return found(folder, weights)
    if stated:
        return None
    known = ", ".join(f"{prefix}* ({system})" for prefix, (system, _) in _LAYOUTS.items())
    raise InvalidInput(
        f"model: {folder}: {len(weights)} tensors, {sorted(weights)[0]} first, of no system known here; names like "
        f"{known} were expected, or a configuration beside the weights that states their model_type (`train` leaves a "
        "state.json beside its own)"
    )


def _may_be_released(folder: Path, *, allow_pickle: bool) -> bool:
    files = weight_files(folder)
    if len(files) != 1:
        return False
    if files[0].suffix == ".safetensors":
        return _layout_of(names_in_file(files[0])) is not None
    return allow_pickle and files[0].suffix in _OWN_SUFFIXES


def _layout_of(names: Iterable[str]) -> Callable[[Path, Weights], PublicModel] | None:
    known = list(names)
    for prefix, (_, load) in _LAYOUTS.items():
        if any(name.startswith(prefix) for name in known):
            return load
    return None
