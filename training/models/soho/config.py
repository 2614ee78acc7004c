"""Configuration of SOHO in two sizes: `base`, as published, and `tiny`, which trains on two CPU cores.

Both sizes run the same code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.models.config import BERT_BASE, IMAGENET, LITE0, MINILM_STREAM, ConvConfig, middle_frame
from vitascope.bundle.manifest import FrameStream


class SohoConfig(ConvConfig):
    """Configuration of a SOHO model: one frame, one backbone, one stream of text and visual tokens."""

    masks_visual = True
    system: Literal["soho"] = "soho"
    image_height: int
    image_width: int
    neck_stride: Annotated[int, Field(ge=1, le=2)]
    """Stride of the max-pooling between backbone and neck: visual tokens are 32 * neck_stride pixels apart."""
    entries: Annotated[int, Field(ge=0)]
    """Number of entries of the visual dictionary. 0: no dictionary; visual tokens are the features of the neck."""
    decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the dictionary's exponential moving averages."""
    revive_below: Annotated[float, Field(ge=0)]
    """Entries whose running count falls below this are reset to a feature of the batch, against codebook collapse.
    0: never, as in the published model."""
    entry_temperature: Annotated[float, Field(gt=0)]
    """Temperature of the cosines in masked visual modelling; 1 in the published model."""

    @model_validator(mode="after")
    def _grid_fits(self) -> SohoConfig:
        for axis in ("height", "width"):
            size, grid = getattr(self, f"image_{axis}"), getattr(self, f"grid_{axis}")
            if -(-size // 32) // self.neck_stride != grid:
                raise ValueError(
                    f"grid_{axis}: {grid} given; image_{axis} {size} makes {-(-size // 32) // self.neck_stride}"
                )
        return self

    @property
    def visual_width(self) -> int:
        """The width of the Transformer, since dictionary entries are compared with fused states."""
        return self.text_width

    def streams(self) -> list[FrameStream]:
        return middle_frame(self.image_height, self.image_width)


def base(answers: int = 0) -> SohoConfig:
    """Return the published configuration (SOHO, section 4.1).

    From memory, not verified: ResNet-101 and twelve layers (the released configuration has ResNet-18 and three).
    """
    return SohoConfig(
        size="base",
        backbone="resnet101",
        **IMAGENET,
        frozen_stages=2,
        frozen_norm=False,
        image_height=640,
        image_width=1024,
        neck_stride=2,
        grid_height=10,
        grid_width=16,
        entries=2048,
        decay=0.4,
        revive_below=0.0,
        entry_temperature=1.0,
        answer_hidden=3072,
        answers=answers,
        **BERT_BASE,
    )


def tiny(answers: int = 0) -> SohoConfig:
    """Return the small configuration: EfficientNet-Lite0 as backbone, MiniLM-L6 as the six layers of the stream."""
    return SohoConfig(
        size="tiny",
        **LITE0,
        image_height=224,
        image_width=224,
        neck_stride=1,
        grid_height=7,
        grid_width=7,
        entries=512,
        decay=0.9,
        revive_below=0.05,
        entry_temperature=0.1,
        answers=answers,
        **MINILM_STREAM,
    )
