"""Configuration of HD-VILA in two sizes: `base`, as published, and `tiny`, which trains on two CPU cores.

Both sizes run the same code.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from training.models.config import IMAGENET, LITE0, MINILM, ConvConfig, FusedConfig
from vitascope.bundle.manifest import FrameStream


class HdVilaConfig(ConvConfig):
    """Configuration of an HD-VILA model: two backbones without shared weights, on a grid of (low size / 16)."""

    _omit_if_default: ClassVar[tuple[str, ...]] = (*FusedConfig._omit_if_default, "depth", "paired_frames")
    system: Literal["hd-vila"] = "hd-vila"
    high_height: int
    """At least twice the low resolution; or equal to it, for a model with one resolution."""
    high_width: int
    low_height: int
    low_width: int
    low_frames: Annotated[int, Field(ge=2)]
    """Number of low-resolution neighbours of the high-resolution frame."""
    frame_stride: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between neighbours in training, around a random centre; published: 12 frames, at 25 frames per second
    0.48. 0: frames are spread evenly over the clip, as bundles always do."""
    temporal_shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Fraction of channels that the trained blocks of the low-resolution encoder take from the previous frame, and as
    many from the next. The published model has no temporal shift; only an EfficientNet supports it."""
    hybrid_width: int
    hybrid_heads: int
    hybrid_layers: int
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    centre_weight: Annotated[float, Field(ge=0, le=1)]
    """Weight of the middle frame, which has the high resolution, in the mean over frames. The published model uses the
    plain mean: 1 / (low_frames + 1)."""
    paired_frames: bool = False
    """Spatial attention and MLPs of the hybrid Transformer compute one change for each pair of adjacent low-resolution
    frames, from their mean, which takes less time. The published model computes one per frame."""
    keep_pretrained: bool = False
    """The pretrained CNN's stages after the frozen ones also read the high-resolution frame, in a copy that is never
    trained, so that what they know of photographs stays. The published model has none."""
    depth: bool = False
    """A depth map of the middle of the clip, from the second video track of a file, is one more neighbour. The
    published model has none."""

    @model_validator(mode="after")
    def _grid_fits(self) -> HdVilaConfig:
        for axis in ("height", "width"):
            grid, low = getattr(self, f"grid_{axis}"), getattr(self, f"low_{axis}")
            if grid * 16 != low:
                raise ValueError(f"grid_{axis}: {grid} given; low_{axis} {low} / 16 = {low / 16:g} was expected")
            high = getattr(self, f"high_{axis}")
            if high != low and high % (grid * 32):
                raise ValueError(
                    f"high_{axis}: {high} given; low_{axis} {low} or a multiple of 32 * grid_{axis} = {32 * grid} was "
                    "expected"
                )
        if self.depth and self.temporal_shift:
            raise ValueError(f"temporal_shift: {self.temporal_shift:g} with depth, which is no frame; 0 was expected")
        if self.keep_pretrained and not 1 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages: {self.frozen_stages} with keep_pretrained; 1 to 4 were expected")
        return self

    @property
    def frames(self) -> int:
        """Number of frames of the hybrid sequence: the low-resolution ones and the middle one."""
        return self.low_frames + 1

    @property
    def visual_width(self) -> int:
        return self.hybrid_width

    @property
    def visual_tokens(self) -> int:
        """With `keep_pretrained`, one more than the grid has: the summary of the pretrained CNN's map."""
        return self.grid_tokens + int(self.keep_pretrained)

    def streams(self) -> list[FrameStream]:
        high = FrameStream(name="high", frames=1, height=self.high_height, width=self.high_width, placement="middle")
        low = FrameStream(
            name="low",
            frames=self.low_frames,
            height=self.low_height,
            width=self.low_width,
            placement="uniform",
        )
        depth = low.model_copy(update={"name": "depth", "frames": 1, "placement": "middle", "track": 1})
        return [high, low, depth] if self.depth else [high, low]


def base(answers: int = 0) -> HdVilaConfig:
    """Return the published configuration (XPretrain `hd-vila`; HD-VILA, sections 3.2 and 4.1)."""
    return HdVilaConfig(
        size="base",
        backbone="resnet50",
        **IMAGENET,
        frozen_stages=0,
        frozen_norm=False,
        high_height=640,
        high_width=1024,
        low_height=160,
        low_width=256,
        low_frames=6,
        frame_stride=12 / 25,
        grid_height=10,
        grid_width=16,
        hybrid_width=1024,
        hybrid_heads=16,
        hybrid_layers=4,
        drop_path=0.1,
        centre_weight=1 / 7,
        text_width=1024,
        text_heads=16,
        text_layers=12,
        fused_layers=12,
        text_intermediate=4096,
        vocabulary=30522,
        max_positions=512,
        text_length=50,
        vector_width=1024,
        temperature=0.05,
        answer_hidden=2048,
        answers=answers,
    )


def tiny(answers: int = 0) -> HdVilaConfig:
    """Return the small configuration: EfficientNet-Lite0 encoders, MiniLM-L6 as text encoder, three fused layers."""
    return HdVilaConfig(
        size="tiny",
        **LITE0,
        high_height=224,
        high_width=224,
        low_height=112,
        low_width=112,
        low_frames=6,
        grid_height=7,
        grid_width=7,
        hybrid_width=256,
        hybrid_heads=4,
        hybrid_layers=2,
        drop_path=0.05,
        centre_weight=0.5,
        text_layers=6,
        fused_layers=3,
        answers=answers,
        visual_reads_text=False,
        **MINILM,
    )
