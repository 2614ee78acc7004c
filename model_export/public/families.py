"""Which family a public model's folder belongs to, and what opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_export.public.folder import CONFIG_NAME, read_json
from model_export.public.model import PublicModel
from model_export.public.towers import load_clip, load_siglip
from vitascope.errors import InvalidInput

Load = Callable[..., PublicModel]
"""(folder, config, frames, allow_pickle=) -> the model; raises InvalidInput."""

FAMILIES: dict[str, Load] = {"clip": load_clip, "siglip": load_siglip}
"""By `model_type` of transformers' configuration."""


def is_public(folder: Path) -> bool:
    """Whether this looks like the folder of a public model."""
    return (folder / CONFIG_NAME).is_file() and "model_type" in _stated(folder)


def open_public(folder: Path, frames: int, *, allow_pickle: bool) -> PublicModel:
    """The model in a folder; ``frames``: of a clip, for models of pictures. Raises InvalidInput."""
    config = read_json(folder / CONFIG_NAME)
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise InvalidInput(f"model: {folder}: model_type {kind!r}; one of {', '.join(FAMILIES)} was expected")
    return FAMILIES[kind](folder, config, frames, allow_pickle=allow_pickle)


def _stated(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / CONFIG_NAME)
    except InvalidInput:
        return {}
