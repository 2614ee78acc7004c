"""Which family a public model's folder belongs to, and what opens it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_export.public import open_clip
from model_export.public.answers import check_answers
from model_export.public.blip import load_blip
from model_export.public.blip_answers import CLASS as BLIP_ANSWERS
from model_export.public.blip_answers import load_blip_answers
from model_export.public.folder import CONFIG_NAME, read_json
from model_export.public.model import PublicModel
from model_export.public.released.layouts import open_released
from model_export.public.released.weights import weight_files
from model_export.public.towers import load_clip, load_siglip
from model_export.public.vilt import load_vilt
from model_export.public.xclip import load_xclip
from training import checkpoint
from vitascope.errors import InvalidInput

Load = Callable[..., PublicModel]
"""(folder, config, frames, allow_pickle=) -> the model; raises InvalidInput."""


def _load_any_blip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    load = load_blip_answers if config.get("architectures") == [BLIP_ANSWERS] else load_blip
    return load(folder, config, frames, allow_pickle=allow_pickle)


FAMILIES: dict[str, Load] = {
    "clip": load_clip,
    "siglip": load_siglip,
    "xclip": load_xclip,
    "blip": _load_any_blip,
    "vilt": load_vilt,
}
"""By `model_type` of transformers' configuration."""


def is_public(folder: Path) -> bool:
    """Whether this looks like the folder of a public model."""
    if (folder / open_clip.CONFIG_NAME).is_file() or "model_type" in _stated(folder):
        return True
    return bool(weight_files(folder)) and checkpoint.find(folder) is None


def open_public(folder: Path, frames: int, *, allow_pickle: bool, answers: Sequence[str] | None = None) -> PublicModel:
    """The model in a folder; ``frames``: of a clip, for models of pictures; ``answers``: out of which models that weigh
    any answer choose where none are given to them. Raises InvalidInput.
    """
    model = _opened(folder, frames, allow_pickle=allow_pickle)
    if answers is None:
        return model
    if model.answer_length is None:
        raise InvalidInput(f"answers: {len(answers)}; none were expected, as {folder} weighs no answers but its own")
    check_answers(answers, model.original, model.answer_length)
    return replace(model, answers=list(answers))


def _opened(folder: Path, frames: int, *, allow_pickle: bool) -> PublicModel:
    config = _stated(folder)
    kind, of_open_clip = config.get("model_type"), (folder / open_clip.CONFIG_NAME).is_file()
    released = open_released(folder, allow_pickle=allow_pickle, stated=of_open_clip or kind is not None)
    if released is not None:
        return released
    if kind is None and of_open_clip:
        return open_clip.load_open_clip(folder, frames, allow_pickle=allow_pickle)
    if kind not in FAMILIES:
        raise InvalidInput(f"model: {folder}: model_type {kind!r}; one of {', '.join(FAMILIES)} was expected")
    return FAMILIES[kind](folder, config, frames, allow_pickle=allow_pickle)


def _stated(folder: Path) -> dict[str, Any]:
    """The configuration of transformers; empty where there is none."""
    return read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
