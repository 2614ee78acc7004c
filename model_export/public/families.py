"""Find a public model, detect its family and load it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_export.assemble import read_json, read_json_object
from model_export.public.blip import load_blip
from model_export.public.clap import load_clap
from model_export.public.clip import OPEN_CLIP_CONFIG, load_clip, load_open_clip, load_siglip
from model_export.public.embedding_gemma2 import load_embedding_gemma2
from model_export.public.model import PublicModel, ReferenceModel
from model_export.public.pe_audio_video import load_pe_audio_video
from model_export.public.released.clip_vip import load_clip_vip
from model_export.public.released.hd_vila import load_hd_vila
from model_export.public.released.soho import load_soho
from model_export.public.vilt import load_vilt
from model_export.public.weights import (
    PICKLE_PATTERNS,
    Weights,
    first_line,
    read_weight_names,
    read_weights,
    weight_files,
)
from model_export.public.xclip import load_xclip
from training import checkpoint
from vitascope.errors import InvalidInput, VitascopeError

FAMILIES: dict[str, Callable[..., PublicModel]] = {
    "clip": load_clip,
    "siglip": load_siglip,
    "xclip": load_xclip,
    "blip": load_blip,
    "vilt": load_vilt,
    "clap": load_clap,
    "embedding_gemma2": load_embedding_gemma2,
    "pe_audio_video": load_pe_audio_video,
}
"""Loaders (folder, config, frames, allow_pickle=) by `model_type` of transformers' configuration."""
RELEASED: dict[str, tuple[str, Callable[[Path, Weights], PublicModel]]] = {
    "clipmodel.": ("CLIP-ViP", load_clip_vip),
    "timesformer.": ("HD-VILA", load_hd_vila),
    "neck.": ("SOHO", load_soho),
}
"""Names and loaders of released checkpoints, by a prefix of weight names that is unique to the architecture."""
_RELEASED_PICKLES = (".pt", ".pth")
"""Suffixes of pickles that transformers does not read."""
_CONFIG_NAME = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]
_ANSWER_LIST = "a JSON list of strings, none of them blank, was expected"


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
            f"model: {name}: no such folder; the folder of a checkpoint or public model was expected, or the name of a "
            f"model on the Hugging Face Hub, which could not be downloaded: {first_line(error)}"
        ) from error
    return ModelSource(folder, name, revision=folder.name)


def read_licence(folder: Path) -> str | None:
    """Return `license` of the README.md's front matter; None if it is not stated."""
    try:
        text = (folder / "README.md").read_text("utf-8", "replace")
    except OSError:
        return None
    front_matter = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    if front_matter is None:
        return None
    licence = re.search(r"""^license:\s*["']?([\w.+-]+)["']?\s*(#.*)?$""", front_matter[1], re.MULTILINE)
    return licence[1] if licence else None


def read_answers(path: Path) -> list[str]:
    """Read the default answers of a model that scores any answer. Raises InvalidInput."""
    answers = read_json("answers", path, _ANSWER_LIST)
    if not (isinstance(answers, list) and answers and all(isinstance(a, str) and a.strip() for a in answers)):
        raise InvalidInput(f"answers: {path}: {_ANSWER_LIST}")
    return answers


def is_public(folder: Path) -> bool:
    """Return whether a folder contains a public model, judged by its files."""
    if (folder / OPEN_CLIP_CONFIG).is_file() or "model_type" in _read_config(folder):
        return True
    return bool(weight_files(folder)) and checkpoint.find(folder) is None


def open_public(folder: Path, frames: int, *, allow_pickle: bool, answers: Sequence[str] | None = None) -> PublicModel:
    """Load the model of a folder.

    Args:
        folder: The folder.
        frames: Number of frames per clip, for image models.
        allow_pickle: Read pickled weights, with a reader that runs no code.
        answers: Default answers of a model that scores any answer.

    Raises:
        InvalidInput: There is no supported model, or it does not accept `answers`.
    """
    try:
        model = _load(folder, frames, allow_pickle=allow_pickle)
    except (VitascopeError, OSError, MemoryError):
        raise
    except Exception as error:  # libraries check configurations in various ways, or not at all
        raise InvalidInput(f"model: {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if answers is None:
        return model
    if model.answer_length is None:
        raise InvalidInput(f"answers: {len(answers)}; none were expected, as {folder} does not score other answers")
    _check_answers(answers, model.reference, model.answer_length)
    return replace(model, answers=list(answers))


def _load(folder: Path, frames: int, *, allow_pickle: bool) -> PublicModel:
    config = _read_config(folder)
    model_type, is_open_clip = config.get("model_type"), (folder / OPEN_CLIP_CONFIG).is_file()
    has_config = is_open_clip or model_type is not None
    released = open_released(folder, allow_pickle=allow_pickle, has_config=has_config)
    if released is not None:
        return released
    if model_type is None and is_open_clip:
        return load_open_clip(folder, frames, allow_pickle=allow_pickle)
    if model_type not in FAMILIES:
        raise InvalidInput(f"model: {folder}: model_type {model_type!r}; one of {', '.join(FAMILIES)} was expected")
    return FAMILIES[model_type](folder, config, frames, allow_pickle=allow_pickle)


def open_released(folder: Path, *, allow_pickle: bool, has_config: bool) -> PublicModel | None:
    """Load a released checkpoint from a folder with one file of weights and a tokenizer.

    Args:
        folder: The folder.
        allow_pickle: Read pickled weights, with a reader that runs no code.
        has_config: Whether the folder has the configuration of another library. Then unknown weights are not an error.

    Returns:
        The model; None with `has_config` if the weights are not those of a released checkpoint.

    Raises:
        InvalidInput: The weights are not those of a released checkpoint, or the model cannot be loaded.
    """
    if has_config and not _may_be_released(folder, allow_pickle=allow_pickle):
        return None
    weights = read_weights(folder, allow_pickle=allow_pickle)
    load = _released_loader(weights)
    if load is not None:
        return load(folder, weights)
    if has_config:
        return None
    known = ", ".join(f"{prefix}* ({name})" for prefix, (name, _) in RELEASED.items())
    raise InvalidInput(
        f"model: {folder}: {len(weights)} tensors, {sorted(weights)[0]} first, of an unknown architecture; names like "
        f"{known} were expected, or a configuration with a model_type beside the weights (checkpoints of `vitascope "
        "train` have a state.json)"
    )


def _may_be_released(folder: Path, *, allow_pickle: bool) -> bool:
    files = weight_files(folder)
    if len(files) != 1:
        return False
    if files[0].suffix == ".safetensors":
        return _released_loader(read_weight_names(files[0])) is not None
    return allow_pickle and files[0].suffix in _RELEASED_PICKLES


def _released_loader(weight_names: Iterable[str]) -> Callable[[Path, Weights], PublicModel] | None:
    names = list(weight_names)
    for prefix, (_, load) in RELEASED.items():
        if any(name.startswith(prefix) for name in names):
            return load
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of transformers; empty if there is none."""
    path = folder / _CONFIG_NAME
    return read_json_object("model", path) if path.is_file() else {}


def _check_answers(answers: Sequence[str], reference: ReferenceModel, max_tokens: int) -> None:
    """Raise InvalidInput for a duplicate answer, and for one of more than `max_tokens`."""
    seen = set[str]()
    for answer in answers:
        if answer in seen:
            raise InvalidInput(f"answers: {answer!r} occurs twice; unique answers were expected")
        seen.add(answer)
        tokens = len(reference.token_ids(answer))
        if tokens > max_tokens:
            raise InvalidInput(f"answers: {answer[:40]!r} is {tokens} tokens long; at most {max_tokens} were expected")
