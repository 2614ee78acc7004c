"""Which family a public model's folder belongs to, and what opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_export.public import open_clip
from model_export.public.blip import load_blip
from model_export.public.folder import CONFIG_NAME, read_json
from model_export.public.model import PublicModel
from model_export.public.towers import load_clip, load_siglip
from model_export.public.xclip import load_xclip
from vitascope.errors import InvalidInput

Load = Callable[..., PublicModel]
"""(folder, config, frames, allow_pickle=) -> the model; raises InvalidInput."""

FAMILIES: dict[str, Load] = {"clip": load_clip, "siglip": load_siglip, "xclip": load_xclip, "blip": load_blip}
"""By `model_type` of transformers' configuration."""


def is_public(folder: Path) -> bool:
    """Whether this looks like the folder of a public model."""
    return (folder / open_clip.CONFIG_NAME).is_file() or "model_type" in _stated(folder)


def open_public(folder: Path, frames: int, *, allow_pickle: bool) -> PublicModel:
    """The model in a folder; ``frames``: of a clip, for models of pictures. Raises InvalidInput."""
    config = _stated(folder)
    kind = config.get("model_type")
    if kind is None and (folder / open_clip.CONFIG_NAME).is_file():
        return open_clip.load_open_clip(folder, frames, allow_pickle=allow_pickle)
    if kind not in FAMILIES:
        raise InvalidInput(f"model: {folder}: model_type {kind!r}; one of {', '.join(FAMILIES)} was expected")
    return FAMILIES[kind](folder, config, frames, allow_pickle=allow_pickle)


def _stated(folder: Path) -> dict[str, Any]:
    """The configuration of transformers; empty where there is none."""
    return read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
