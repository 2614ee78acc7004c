"""How a public model's pictures are prepared: its processor's settings as a frame stream and a scale of pixels.

Shape letters: N pictures, B videos, C clips, F frames, H height, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vitascope.bundle.manifest import FrameStream, Resample
from vitascope.errors import InvalidInput

STREAM_NAME, COVER_NAME = "frames", "cover"
_LONGEST_EDGE, _SHORTEST_EDGE = 1333, 800
"""ViLT's processor keeps edges within the ratio of these, those of pictures in COCO."""
_FILTERS: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


class PixelScale(nn.Module):
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), rescaled and normalized as the processor does."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        """``mean`` and ``std``: of the three channels, in 0..255."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        scaled: Tensor = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return scaled


def frames_of_one_clip(stream: Tensor) -> Tensor:
    """(B, C, F, H, W, 3) -> (B, F, H, W, 3): out of several clips as many frames as one has, evenly placed."""
    clips, frames = stream.shape[1], stream.shape[2]
    return stream.flatten(1, 2).index_select(1, torch.arange(frames) * clips + clips // 2)


def scale_of(processor: Any) -> PixelScale:
    """The arithmetic of an image processor of transformers, in one step."""
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, std = ([0.0] * 3, [1.0] * 3)
    if processor.do_normalize:
        mean, std = list(processor.image_mean), list(processor.image_std)
    return PixelScale([m / factor for m in mean], [s / factor for s in std])


def stream_of(
    processor: Any, folder: Path, image_size: int, frames: int, placement: Literal["middle", "uniform"]
) -> FrameStream:
    """The frame stream that prepares frames as an image processor of transformers does.

    Raises InvalidInput for settings that no stream can state and for a size other than the model's ``image_size``.
    """
    size, where = _plain(processor.size), f"model: {folder}: its image processor"
    crop = _plain(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
    _check_resizes(processor, where)
    if getattr(processor, "do_pad", None):
        raise InvalidInput(f"{where} pads; do_pad false was expected")
    stated: dict[str, Any]
    if set(size) == {"shortest_edge"} and crop is not None:
        stated = {**crop, "fit": "crop", "shortest_edge": size["shortest_edge"]}
    elif set(size) == {"height", "width"} and crop in (None, size):
        stated = {**size, "fit": "stretch"}
    else:
        raise InvalidInput(
            f"{where} has size {size} and crop {crop}; shortest_edge with a crop, or height and width, was expected"
        )
    if (stated["height"], stated["width"]) != (image_size, image_size):
        raise InvalidInput(
            f"{where} makes {stated['width']}x{stated['height']} pixels; {image_size}x{image_size} was expected, "
            "as the model's configuration states"
        )
    try:
        return FrameStream(
            name=STREAM_NAME,
            frames=frames,
            placement=placement,
            resample=_FILTERS[int(processor.resample)],
            **stated,
        )
    except ValidationError as error:
        raise InvalidInput(f"{where} cannot be stated as a frame stream: {error.errors()[0]['msg']}") from error


def corner_streams(processor: Any, folder: Path, patch: int, frames: int) -> tuple[list[FrameStream], int]:
    """The frame streams that prepare frames as ViLT's processor does, each in the corner of a square, and its cover;
    and how many patches of ``patch`` pixels a frame has at most. Raises InvalidInput.
    """
    where, size = f"model: {folder}: its image processor", _plain(processor.size)
    _check_resizes(processor, where)
    if set(size) != {"shortest_edge"}:
        raise InvalidInput(f"{where} has size {size}; shortest_edge was expected")
    if processor.size_divisor != patch:
        raise InvalidInput(
            f"{where} has size_divisor {processor.size_divisor}; {patch} was expected, the pixels of a patch"
        )
    shortest = size["shortest_edge"]
    longest = int(_LONGEST_EDGE / _SHORTEST_EDGE * shortest)
    stated: dict[str, Any] = {
        "frames": frames,
        "placement": "uniform",
        "fit": "corner",
        "resample": _FILTERS[int(processor.resample)],
        "shortest_edge": shortest,
        "longest_edge": longest,
        "multiple": patch,
    }
    edge = longest // patch
    try:
        pictures = FrameStream(name=STREAM_NAME, height=edge * patch, width=edge * patch, **stated)
        cover = FrameStream(name=COVER_NAME, height=edge, width=edge, shows="cover", **stated)
    except ValidationError as error:
        raise InvalidInput(f"{where} cannot be stated as a frame stream: {error.errors()[0]['msg']}") from error
    return [pictures, cover], shortest // patch * edge


def _check_resizes(processor: Any, where: str) -> None:
    if not processor.do_resize:
        raise InvalidInput(f"{where} does not resize; do_resize true was expected")
    if int(processor.resample) not in _FILTERS:
        raise InvalidInput(f"{where} resamples by {processor.resample!r}; one of {sorted(_FILTERS)} was expected")


def _plain(size: Any) -> dict[str, int]:
    """{"height", "width"} or {"shortest_edge"}, whatever the library wraps it in."""
    return {key: int(value) for key, value in dict(size).items() if value is not None}
