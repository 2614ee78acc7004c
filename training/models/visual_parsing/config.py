"""Configuration of Visual Parsing in two sizes: `base`, as published, and `tiny`, which trains on two CPU cores.

`tiny` and `base` run the same code; only what is written here differs. No code of the authors was ever released; what
is recalled and not verified is marked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.models.config import BERT_BASE, IMAGENET, MINILM_STREAM, FusedConfig, middle_frame
from vitascope.bundle.manifest import FrameStream


class VisualParsingConfig(FusedConfig):
    """Configuration of a model: a Swin Transformer as vision encoder, one stream of text and visual tokens."""

    masks_visual = True
    system: Literal["visual-parsing"] = "visual-parsing"
    image_height: int
    image_width: int
    patch: Annotated[int, Field(ge=1)]
    """Side of a first-level token (pixels)."""
    swin_width: Annotated[int, Field(ge=4)]
    """Width of the first level; it doubles with each level."""
    swin_depths: Annotated[list[int], Field(min_length=1)]
    """Blocks of each level; between two levels the grid halves."""
    swin_heads: list[int]
    window: Annotated[int, Field(ge=2)]
    """Side of an attention window (tokens). On the last level it is the whole grid, so that every visual token attends
    to every other before it meets the text."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    masked_with: Annotated[int, Field(ge=0)]
    """Number of tokens masked together with a sampled one: those it attends to most (K; not published)."""

    @model_validator(mode="after")
    def _grid_fits(self) -> VisualParsingConfig:
        cell = self.patch * 2 ** (len(self.swin_depths) - 1)
        for axis in ("height", "width"):
            size, grid = getattr(self, f"image_{axis}"), getattr(self, f"grid_{axis}")
            if grid * cell != size:
                raise ValueError(f"grid_{axis}: {grid} given; image_{axis} {size} / {cell} was expected")
            if grid > self.window:
                raise ValueError(f"grid_{axis}: {grid} given; at most the window of {self.window} was expected")
        if len(self.swin_heads) != len(self.swin_depths):
            raise ValueError(f"swin_heads: {self.swin_heads}; one per level of swin_depths {self.swin_depths}")
        return self

    @property
    def visual_width(self) -> int:
        width: int = self.swin_width * 2 ** (len(self.swin_depths) - 1)
        return width

    def streams(self) -> list[FrameStream]:
        return middle_frame(self.image_height, self.image_width)


def base(answers: int = 0) -> VisualParsingConfig:
    """Return the published size: Swin and BERT-base (which Swin, and its 384 pixels, from memory)."""
    return VisualParsingConfig(
        size="base",
        **IMAGENET,
        image_height=384,
        image_width=384,
        patch=4,
        swin_width=128,
        swin_depths=[2, 2, 18, 2],
        swin_heads=[4, 8, 16, 32],
        window=12,
        drop_path=0.2,
        masked_with=10,
        grid_height=12,
        grid_width=12,
        answer_hidden=1536,
        answers=answers,
        **BERT_BASE,
    )


def tiny(answers: int = 0) -> VisualParsingConfig:
    """Return the small configuration: a small Swin from scratch, MiniLM-L6 as the six layers of the stream."""
    return VisualParsingConfig(
        size="tiny",
        image_mean=(127.0, 127.0, 127.0),
        image_std=(128.0, 128.0, 128.0),
        image_height=224,
        image_width=224,
        patch=4,
        swin_width=48,
        swin_depths=[2, 2, 2, 2],
        swin_heads=[2, 4, 8, 16],
        window=7,
        drop_path=0.0,
        masked_with=8,
        grid_height=7,
        grid_width=7,
        answers=answers,
        **MINILM_STREAM,
    )
