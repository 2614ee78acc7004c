"""Configuration of HD-VILA in two sizes: `base`, as published, and `tiny`, which trains on two CPU cores.

Both sizes run the same code.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from training.models.config import IMAGENET, LITE0, MINILM, ConvConfig, FusedConfig
from vitascope.bundle.manifest import FrameStream


class HdVilaConfig(ConvConfig):
    """Configuration of an HD-VILA model: two backbones without shared weights. The grid is the low resolution / 16."""

    _omit_if_default: ClassVar[tuple[str, ...]] = (
        *FusedConfig._omit_if_default,
        "depth",
        "early_fusion",
        "paired_frames",
    )
    system: Literal["hd-vila"] = "hd-vila"
    high_height: int
    """Height in pixels of the high-resolution frame: at least twice `low_height`, or equal to it for a model with one
    resolution."""
    high_width: int
    low_height: int
    low_width: int
    low_frames: Annotated[int, Field(ge=2)]
    """Number of low-resolution neighbours of the high-resolution frame."""
    frame_stride: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between low-resolution frames in training, around a random centre. The published value, 12 frames, is
    0.48 at 25 frames per second. 0: frames are spread evenly over the clip, as always in bundles."""
    temporal_shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Fraction of channels that the trained blocks of the low-resolution encoder take from the previous frame; the same
    fraction comes from the next frame. The published model has no temporal shift. Requires an EfficientNet."""
    hybrid_width: int
    hybrid_heads: int
    hybrid_layers: int
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    centre_weight: Annotated[float, Field(ge=0, le=1)]
    """Weight of the middle frame, which has the high resolution, in the mean over frames. The published model uses the
    plain mean: 1 / (low_frames + 1)."""
    paired_frames: bool = False
    """Whether the hybrid Transformer computes spatial attention and MLPs once for each pair of adjacent low-resolution
    frames, from their mean, which is faster. The published model computes them for each frame."""
    keep_pretrained: bool = False
    """Whether the model also has a copy of the pretrained CNN's later stages that is never trained. The copy reads the
    high-resolution frame, and preserves what the CNN has learned from photographs. Not in the published model."""
    early_fusion: Annotated[int, Field(ge=0)] = 0
    """Width of layers that compare early feature maps of all frames, and add details of motion to the visual tokens; 0:
    no such layers. They do not change embeddings. Not in the published model."""
    depth: bool = False
    """Whether the model also reads a depth map of the middle of the clip, from the second video track of a file, as one
    more frame of the sequence. Not in the published model."""

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
        if self.early_fusion and (self.frozen_stages < 3 or self.depth):
            raise ValueError(
                f"early_fusion: {self.early_fusion} with frozen_stages {self.frozen_stages} and depth {self.depth}; at "
                "least 3 frozen stages and no depth were expected"
            )
        if self.keep_pretrained and not 1 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages: {self.frozen_stages} with keep_pretrained; 1 to 4 were expected")
        return self

    @property
    def frames(self) -> int:
        """Number of frames of the hybrid sequence: the low-resolution frames and the middle frame."""
        return self.low_frames + 1

    @property
    def visual_width(self) -> int:
        return self.hybrid_width

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens: those of the grid and, with `keep_pretrained`, the pretrained CNN's summary."""
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
