"""Folder of a public model: download, configuration, strictly checked weights and licence."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vitascope.errors import InvalidInput

CONFIG_NAME = "config.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth")
NO_LICENCE = "Not stated by the model's folder; its authors' terms apply"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]
_POSITION_IDS = "position_ids"
"""Suffix of constant buffers that older versions of transformers stored among the weights."""
_MAX_LISTED = 12
"""Keys listed in an error."""


@dataclass(frozen=True)
class ModelSource:
    """A model's folder with its name and, if it was downloaded, its revision."""

    folder: Path
    name: str
    revision: str | None = None


def find_model(source: Path, *, allow_pickle: bool) -> ModelSource | None:
    """Return a local folder, or download the model of this name from the Hugging Face Hub; None if it is neither.

    Raises InvalidInput if the download fails.
    """
    name = source.as_posix()
    if source.is_dir():
        return ModelSource(source, source.resolve().name)
    if not _HUB_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        patterns = _DOWNLOADED + (list(PICKLE_PATTERNS) if allow_pickle else [])
        folder = Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of the hub, its client or the network
        raise InvalidInput(
            f"model: {name!r} is not a local folder, and could not be downloaded from the Hugging Face Hub: "
            f"{_first_line(error)}. Without a network, give the folder that contains the model"
        ) from error
    return ModelSource(folder, name, revision=folder.name)


def load_model(model_class: Any, folder: Path, *, allow_pickle: bool) -> Any:
    """Load a transformers model in evaluation mode and float32.

    Raises InvalidInput for missing, unexpected or mismatched weights, and for pickles unless `allow_pickle` is set.
    Pickles are read by torch's restricted reader, which runs no code.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    is_pickle = has_pickled_weights(folder, allow_pickle=allow_pickle)
    try:
        model, report = model_class.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=not is_pickle,
            weights_only=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise InvalidInput(f"model: {folder}: its weights cannot be read: {_first_line(error)}") from error
    mismatched = {key if isinstance(key, str) else str(key[0]) for key in report["mismatched_keys"]}
    check_keys(folder, set(report["missing_keys"]) - mismatched, report["unexpected_keys"], mismatched)
    return model.eval()


def has_pickled_weights(folder: Path, *, allow_pickle: bool) -> bool:
    """Return whether the weights are pickled. Raises InvalidInput if that is not allowed, or if there are none."""
    if list(folder.glob("*.safetensors")):
        return False
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if not pickles:
        raise InvalidInput(f"model: {folder} has no weights; *.safetensors was expected")
    if not allow_pickle:
        raise InvalidInput(
            f"model: {folder} has its weights as {', '.join(pickles)}, which are pickles; *.safetensors was expected, "
            "or --allow-pickle if you trust their source"
        )
    return True


def check_keys(where: Path, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = ()) -> None:
    """Raise InvalidInput listing missing, unexpected and mismatched weights; position ids are ignored."""
    parts = []
    for problem, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched)):
        relevant = sorted(key for key in keys if not key.endswith(_POSITION_IDS))
        if relevant:
            more = f" and {len(relevant) - _MAX_LISTED} more" if len(relevant) > _MAX_LISTED else ""
            parts.append(f"{len(relevant)} {problem}: {', '.join(relevant[:_MAX_LISTED])}{more}")
    if parts:
        raise InvalidInput(f"model: {where}: weights do not fit the configuration: {'; '.join(parts)}")


def read_licence(folder: Path) -> str | None:
    """Return `license` of the README.md's front matter; None if it is not stated."""
    try:
        text = (folder / "README.md").read_text("utf-8", "replace")
    except OSError:
        return None
    front_matter = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    licence = re.search(r"^license:\s*([\w.+-]+)\s*$", front_matter[1], re.MULTILINE) if front_matter else None
    return licence[1] if licence else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
