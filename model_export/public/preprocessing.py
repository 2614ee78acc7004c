"""Preprocessing of public models: a processor's settings as frame streams, pixel normalization and spectra of sound.

Shape letters: N images or samples, B videos or sounds, C clips, F frames, H height, W width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vitascope.bundle.manifest import FrameStream, Resample
from vitascope.errors import InvalidInput
from vitascope.text_format import format_validation_error

STREAM_NAME, MASK_NAME = "frames", "cover"
_LONGEST_EDGE, _SHORTEST_EDGE = 1333, 800
"""Edges whose ratio is the maximum aspect ratio of ViLT's processor (from COCO)."""
_RESAMPLE: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Resampling filters by Pillow's numbers."""


_PROCESSORS = {
    "image processor": "AutoImageProcessor",
    "feature extractor": "AutoFeatureExtractor",
    "processor": "AutoProcessor",
}
"""Classes of transformers: for pictures, for sounds, and for several kinds of inputs."""


class PixelNormalization(nn.Module):
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), rescaled and normalized as by the processor."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        """Create from mean and std of the three channels, in 0..255."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        normalized: Tensor = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return normalized

    def frames(self, stream: Tensor) -> Tensor:
        """Normalize all frames of a stream: (B, C, F, H, W, 3) -> (B * C * F, 3, H, W)."""
        batch, clips, count, height, width, _ = stream.shape
        normalized: Tensor = self(stream.reshape(batch * clips * count, height, width, 3))
        return normalized


class PowerSpectrum(nn.Module):
    """samples (B, N) -> power of each frequency (B, F, frequencies), of windows that begin every `hop` samples.

    Computed by convolutions, since some engines do not support Fourier transforms.
    """

    basis: Tensor

    def __init__(self, window: np.ndarray, fft_length: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.frequencies = fft_length // 2 + 1
        phases = 2 * np.pi * np.outer(np.arange(self.frequencies), np.arange(len(window))) / fft_length
        basis = np.concatenate([window * np.cos(phases), window * np.sin(phases)])[:, None]
        self.register_buffer("basis", torch.from_numpy(basis.astype(np.float32)), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        parts = nn.functional.conv1d(samples[:, None], self.basis, stride=self.hop)
        power: Tensor = parts[:, : self.frequencies] ** 2 + parts[:, self.frequencies :] ** 2
        return power.transpose(1, 2)


def select_clip_frames(stream: Tensor) -> Tensor:
    """Select F frames, evenly spaced over all clips: (B, C, F, H, W, 3) -> (B, F, H, W, 3)."""
    clips, frames = stream.shape[1], stream.shape[2]
    return stream.flatten(1, 2).index_select(1, torch.arange(frames) * clips + clips // 2)


def open_processor(folder: Path, kind: str = "image processor") -> Any:
    """Open the model's processor with transformers.

    Args:
        folder: Folder of the model.
        kind: A key of `_PROCESSORS`.

    Raises InvalidInput.
    """
    import transformers

    try:
        processor_class: Any = getattr(transformers, _PROCESSORS[kind])
        return processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries behind transformers raise different errors
        raise InvalidInput(f"model: {folder}: its {kind} cannot be opened: {error}") from error


def normalization_of(processor: Any) -> PixelNormalization:
    """Return the rescaling and normalization of a transformers image processor as one step."""
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, std = ([0.0] * 3, [1.0] * 3)
    if processor.do_normalize:
        mean, std = list(processor.image_mean), list(processor.image_std)
    return PixelNormalization([m / factor for m in mean], [s / factor for s in std])


def stream_of(processor: Any, folder: Path, image_size: int, frames: int) -> FrameStream:
    """Return the frame stream with the preprocessing of a transformers image processor.

    Raises InvalidInput for settings that a stream cannot express, and for a size other than the model's `image_size`.
    """
    size, where = _plain_size(processor.size), f"model: {folder}: its image processor"
    crop = _plain_size(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
    _check_resize(processor, where)
    if getattr(processor, "do_pad", None):
        raise InvalidInput(f"{where} pads; do_pad false was expected")
    fields: dict[str, Any]
    if set(size) == {"shortest_edge"} and crop is not None:
        fields = {**crop, "fit": "crop", "shortest_edge": size["shortest_edge"]}
    elif set(size) == {"height", "width"} and crop in (None, size):
        fields = {**size, "fit": "stretch"}
    else:
        raise InvalidInput(
            f"{where} has size {size} and crop {crop}; shortest_edge with a crop, or height and width, was expected"
        )
    if (fields["height"], fields["width"]) != (image_size, image_size):
        raise InvalidInput(
            f"{where} outputs {fields['width']}x{fields['height']} pixels; {image_size}x{image_size} was expected, "
            "as the model's configuration states"
        )
    resample = _RESAMPLE[int(processor.resample)]
    return _make_stream(where, name=STREAM_NAME, frames=frames, placement="uniform", resample=resample, **fields)


def padded_streams(processor: Any, folder: Path, patch: int, frames: int) -> tuple[list[FrameStream], int]:
    """Return the streams with the preprocessing of ViLT's processor, and the maximum patches of a frame.

    The streams are the frames, each in the top left corner of a square, and their masks with one value per patch.
    Raises InvalidInput.
    """
    where, size = f"model: {folder}: its image processor", _plain_size(processor.size)
    _check_resize(processor, where)
    if set(size) != {"shortest_edge"}:
        raise InvalidInput(f"{where} has size {size}; shortest_edge was expected")
    if processor.size_divisor != patch:
        raise InvalidInput(
            f"{where} has size_divisor {processor.size_divisor}; {patch} was expected, the pixels of a patch"
        )
    shortest = size["shortest_edge"]
    longest = int(_LONGEST_EDGE / _SHORTEST_EDGE * shortest)
    fields: dict[str, Any] = {
        "frames": frames,
        "placement": "uniform",
        "fit": "corner",
        "resample": _RESAMPLE[int(processor.resample)],
        "shortest_edge": shortest,
        "longest_edge": longest,
        "multiple": patch,
    }
    edge = longest // patch
    images = _make_stream(where, name=STREAM_NAME, height=edge * patch, width=edge * patch, **fields)
    mask = _make_stream(where, name=MASK_NAME, height=edge, width=edge, shows="cover", **fields)
    return [images, mask], shortest // patch * edge


def tile_streams(
    processor: Any, folder: Path, vision: Any, name: str, frames: int, placement: Literal["middle", "uniform"]
) -> list[FrameStream]:
    """Return the stream with the preprocessing of one of Gemma's processors, and its cover. Raises InvalidInput."""
    where = f"model: {folder}: its {type(processor).__name__}"
    _check_resize(processor, where)
    sizes = processor.patch_size, processor.pooling_kernel_size
    if sizes != (vision.patch_size, vision.pooling_kernel_size):
        raise InvalidInput(
            f"{where} has patch_size and pooling_kernel_size {sizes}; "
            f"{(vision.patch_size, vision.pooling_kernel_size)} was expected, as the model's configuration states"
        )
    side, count = sizes[0] * sizes[1], int(processor.max_soft_tokens)
    rows = max(divisor for divisor in range(1, math.isqrt(count) + 1) if count % divisor == 0)
    columns = count // rows
    fields: dict[str, Any] = {
        "frames": frames,
        "placement": placement,
        "fit": "tiles",
        "resample": _RESAMPLE[int(processor.resample)],
        "multiple": side,
    }
    return [
        _make_stream(where, name=name, height=rows * side, width=columns * side, **fields),
        _make_stream(where, name=f"{name}_cover", height=rows, width=columns, shows="cover", **fields),
    ]


def _make_stream(where: str, **fields: Any) -> FrameStream:
    try:
        return FrameStream(**fields)
    except ValidationError as error:
        raise InvalidInput(f"{where} is no frame stream: {format_validation_error(error)}") from error


def _check_resize(processor: Any, where: str) -> None:
    if not processor.do_resize:
        raise InvalidInput(f"{where} does not resize; do_resize true was expected")
    if int(processor.resample) not in _RESAMPLE:
        raise InvalidInput(f"{where} resamples by {processor.resample!r}; one of {sorted(_RESAMPLE)} was expected")


def _plain_size(size: Any) -> dict[str, int]:
    """Return {"height", "width"} or {"shortest_edge"} from the library's size object."""
    return {key: int(value) for key, value in dict(size).items() if value is not None}
