"""The one file of weights of a released checkpoint: found, read without running any code of it, and unwrapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from model_export.public.folder import PICKLES, pickled_weights
from vitascope.errors import InvalidInput

Weights = Mapping[str, Tensor]
"""The file's tensors by the names it gives them."""

_WRAPPERS = ("state_dict", "model_state_dict")
"""Where training programs keep the weights beside what else they store."""
_PARALLEL = "module."
"""Before every name where the model was wrapped for several devices."""


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files; where there are none, its pickles."""
    safe = sorted(folder.glob("*.safetensors"))
    return safe or sorted(path for kind in PICKLES for path in folder.glob(kind))


def names_in_file(file: Path) -> list[str]:
    """The names in a safetensors file, of which only the head is read. Raises InvalidInput where it cannot be."""
    try:
        with safe_open(file, "pt") as opened:
            return [_bare(name) for name in opened.keys()]  # noqa: SIM118 - it is no dictionary
    except Exception as error:  # of the library, whose errors differ by its version
        raise _unreadable(file, error) from error


def read_weights(folder: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of the folder's one file. Pickles are read by torch's restricted reader, which runs no code.

    Raises InvalidInput for none or several files, for pickles where ``allow_pickle`` is false, and for what is no
    dictionary of tensors.
    """
    pickled_weights(folder, allow_pickle=allow_pickle)
    files = weight_files(folder)
    if len(files) != 1:
        raise InvalidInput(f"model: {folder} has weights in {[path.name for path in files]}; one file was expected")
    (file,) = files
    try:
        held: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise nearly anything
        raise _unreadable(file, error) from error
    return _tensors(file, held)


def _unreadable(file: Path, error: Exception) -> InvalidInput:
    first = str(error).partition("\n")[0]
    return InvalidInput(f"model: {file}: its weights cannot be read: {first}")


def _tensors(file: Path, held: Any) -> dict[str, Tensor]:
    if isinstance(held, Mapping):
        held = next((held[name] for name in _WRAPPERS if name in held), held)
    if not isinstance(held, Mapping) or not held or not all(isinstance(one, Tensor) for one in held.values()):
        raise InvalidInput(
            f"model: {file} holds {_described(held)}; tensors by name were expected, alone or as "
            f"{' or '.join(_WRAPPERS)}"
        )
    return {_bare(str(name)): one for name, one in held.items()}


def _bare(name: str) -> str:
    return name.removeprefix(_PARALLEL)


def _described(held: Any) -> str:
    if not isinstance(held, Mapping):
        return f"a {type(held).__name__}"
    other = sorted(str(name) for name, one in held.items() if not isinstance(one, Tensor))
    return f"{len(held)} entries, {', '.join(other[:5]) or 'none'} not tensors"
