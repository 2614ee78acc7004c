"""The numbers of SOHO, in the published size and in one that two CPU cores can train.

`tiny` and `base` run the same code; only what is written here differs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.models.config import BERT_BASE, IMAGENET, LITE0, MINILM_STREAM, ConvConfig, middle_frame
from vitascope.bundle.manifest import FrameStream


class SohoConfig(ConvConfig):
    """Architecture of one SOHO model: one picture, one backbone, one stream of text and visual tokens."""

    masks_visual = True
    system: Literal["soho"] = "soho"
    image_height: int
    image_width: int
    neck_stride: Annotated[int, Field(ge=1, le=2)]
    """Of the max-pooling between backbone and neck: visual tokens are 32 * this many pixels apart."""
    entries: Annotated[int, Field(ge=0)]
    """Entries of the visual dictionary. 0: no dictionary, visual tokens are the neck's features as they are."""
    decay: Annotated[float, Field(ge=0, lt=1)]
    """Share of the dictionary's running sums that a step keeps."""
    revive_below: Annotated[float, Field(ge=0)]
    """Entries whose running count falls below this are placed on a token of the batch anew: the guard against
    collapse, which the published model does not have (0: no guard)."""
    entry_temperature: Annotated[float, Field(gt=0)]
    """Of the cosines that masked visual tokens are told by. The published model divides by none (1)."""

    @model_validator(mode="after")
    def _grid_fits(self) -> SohoConfig:
        for axis in ("height", "width"):
            given, grid = getattr(self, f"image_{axis}"), getattr(self, f"grid_{axis}")
            if -(-given // 32) // self.neck_stride != grid:
                raise ValueError(
                    f"grid_{axis}: {grid} given; image_{axis} {given} makes {-(-given // 32) // self.neck_stride}"
                )
        return self

    @property
    def visual_width(self) -> int:
        """That of the Transformer: dictionary entries are compared with fused states."""
        return self.text_width

    def streams(self) -> list[FrameStream]:
        return middle_frame(self.image_height, self.image_width)


def base(answers: int = 0) -> SohoConfig:
    """The published configuration (SOHO, section 4.1).

    Recalled, not verified: ResNet-101 and twelve layers (the released configuration has ResNet-18 and three).
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
    """Trains on two CPU cores: EfficientNet-Lite0 as backbone, MiniLM-L6 as the single stream's six layers."""
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
