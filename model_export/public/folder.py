"""A public model's folder: its configuration, its weights without a key too few or too many, its terms."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from model_export.assemble import read_json_object
from vitascope.errors import InvalidInput

CONFIG_NAME = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
_COUNTERS = "position_ids"
"""Positions 0, 1, 2 and so on, which older versions of the library stored among the weights."""
_LISTED = 12
"""Keys that an error names."""
NO_TERMS = "Not stated by the model's folder; its authors' terms apply"


def read_json(path: Path) -> dict[str, Any]:
    """Of a public model. Raises InvalidInput when the file is missing or holds no JSON object."""
    return read_json_object("model", path)


def load_model(kind: Any, folder: Path, *, allow_pickle: bool) -> Any:
    """The model of class ``kind`` (of transformers) in evaluation mode, float32.

    Raises InvalidInput for weights that are missing, left over, of another shape, or not safetensors where
    ``allow_pickle`` is false. Pickled weights are read by torch's restricted reader, which runs no code.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    pickled = pickled_weights(folder, allow_pickle=allow_pickle)
    try:
        model, report = kind.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=not pickled,
            weights_only=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise InvalidInput(f"model: {folder}: its weights cannot be read: {first}") from error
    mismatched = {_name_of(key) for key in report["mismatched_keys"]}
    check_keys(folder, set(report["missing_keys"]) - mismatched, report["unexpected_keys"], mismatched)
    return model.eval()


def pickled_weights(folder: Path, *, allow_pickle: bool) -> bool:
    """Whether the weights are pickled. Raises InvalidInput where that is not allowed or there are none."""
    if list(folder.glob("*.safetensors")):
        return False
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if not pickles:
        raise InvalidInput(f"model: {folder} has no weights; *.safetensors was expected")
    if not allow_pickle:
        raise InvalidInput(
            f"model: {folder} has its weights as {', '.join(pickles)}, which are pickles; *.safetensors was expected, "
            "or --allow-pickle where you trust whoever made them"
        )
    return True


def check_keys(where: Path, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = ()) -> None:
    """Raises InvalidInput naming what is too little, too much or of another shape; counters of positions aside."""
    parts = []
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched)):
        found = sorted(key for key in keys if not key.endswith(_COUNTERS))
        if found:
            more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            parts.append(f"{len(found)} {what}: {', '.join(found[:_LISTED])}{more}")
    if parts:
        raise InvalidInput(f"model: {where}: weights do not fit the configuration: {'; '.join(parts)}")


def licence_of_folder(folder: Path) -> str | None:
    """`license` in the head of the folder's README.md; None where it does not say."""
    try:
        text = (folder / "README.md").read_text("utf-8", "replace")
    except OSError:
        return None
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*([\w.+-]+)\s*$", head[1], re.MULTILINE) if head else None
    return stated[1] if stated else None


def _name_of(key: Any) -> str:
    return key if isinstance(key, str) else str(key[0])
