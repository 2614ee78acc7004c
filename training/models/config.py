"""Configuration shared by all architectures: text layers, fused layers and heads."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vitascope.bundle.manifest import FrameStream

ClipMerge = Literal["mean", "logsumexp"]


class FusedConfig(BaseModel):
    """Configuration of everything behind the video encoder. Stored as `config.json` in checkpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    masks_visual: ClassVar[bool] = False
    """Whether the architecture has masked visual modelling."""

    system: str
    """Name in `training.models.architectures.ARCHITECTURES`."""
    size: str
    image_mean: tuple[float, float, float]
    """Subtracted from pixel values in 0..255."""
    image_std: tuple[float, float, float]
    """Divisor of the pixel values after the mean is subtracted."""
    grid_height: int
    """Rows of visual tokens of a clip."""
    grid_width: int
    text_width: int
    text_heads: int
    text_layers: int
    """Number of layers of the text encoder, the first of one split BERT."""
    fused_layers: int
    """Number of layers of the multi-modal encoder, after the split, over [text; visual tokens]."""
    text_intermediate: int
    vocabulary: int
    max_positions: int
    text_length: int
    """Tokens per text, special ones included."""
    vector_width: int
    temperature: float
    clip_merge: ClipMerge = "mean"
    """Pooling of the clips of a video in ITC and retrieval. `mean`: into one embedding. `logsumexp`: pool the
    similarities of the clips, so that the best ones count most (HD-VILA's fine-tuning). The fused layers read the mean
    of the visual tokens in either case."""
    answer_hidden: int
    answers: int = 0
    """Size of the answer vocabulary; 0: no answer head."""
    hub_references: Annotated[int, Field(ge=0)] = 0
    """Texts, and videos, that embeddings are corrected for hubs by (`training.models.hubness`); 0: not corrected."""
    object_classes: list[int] = []
    """Classes of each attribute that the `objects` objective predicts of a visual token; empty: no such head."""
    dropout: float = 0.1
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of attention weights in the text Transformer."""
    vector_from_fused: bool = False
    """A single-stream model, without a text encoder: text embeddings come from all layers, run on text only."""
    visual_reads_text: bool = True
    """In the fused layers. True: the published joint self-attention. False: visual tokens attend to one another only
    and are computed once for many texts about a video."""

    @model_validator(mode="after")
    def _masked_visual_tokens_read_text(self) -> Self:
        if self.masks_visual and not self.visual_reads_text:
            raise ValueError("visual_reads_text: false; masked visual tokens read the text, true was expected")
        return self

    @property
    def grid_tokens(self) -> int:
        """Number of visual tokens with a place in the grid."""
        return self.grid_height * self.grid_width

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens of a clip; those of the grid come first."""
        return self.grid_tokens

    @property
    @abstractmethod
    def visual_width(self) -> int:
        """Width of the visual tokens."""

    @property
    def architecture(self) -> str:
        """Name and size, as in the manifest of a bundle."""
        return f"{self.system}-{self.size}"

    @abstractmethod
    def streams(self) -> list[FrameStream]:
        """Return the input streams of the visual graph, as in the manifest of a bundle."""


class ConvConfig(FusedConfig):
    """Configuration of models with a convolutional backbone from timm."""

    backbone: str
    """Name in timm; a ResNet or EfficientNet."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)]
    """Number of leading backbone stages that are always frozen, with the statistics of their BatchNorm."""
    frozen_norm: bool
    """Keep the backbone's BatchNorm at its pretrained statistics; needed for small batches."""


def middle_frame(height: int, width: int) -> list[FrameStream]:
    """Return the stream of an image model: the middle frame of a clip, named as in packed corpora."""
    return [FrameStream(name="high", frames=1, height=height, width=width, placement="middle")]


IMAGENET: dict[str, Any] = {"image_mean": (123.675, 116.28, 103.53), "image_std": (58.395, 57.12, 57.375)}
"""Pixel statistics of the backbones of every `base`."""
BERT_BASE: dict[str, Any] = {
    "text_width": 768,
    "text_heads": 12,
    "text_layers": 0,
    "fused_layers": 12,
    "text_intermediate": 3072,
    "vocabulary": 30522,
    "max_positions": 512,
    "text_length": 50,
    "vector_width": 768,
    "temperature": 0.05,
    "vector_from_fused": True,
}
"""BERT-base as the single stream of a published image model."""
MINILM: dict[str, Any] = {
    "text_width": 384,
    "text_heads": 12,
    "text_intermediate": 1536,
    "vocabulary": 30522,
    "max_positions": 512,
    "text_length": 64,
    "vector_width": 256,
    "temperature": 0.05,
    "answer_hidden": 384,
    "attention_dropout": 0.0,
}
"""Text layers, embeddings and heads of every `tiny`, for the pretrained MiniLM-L6."""
MINILM_STREAM: dict[str, Any] = MINILM | {"text_layers": 0, "fused_layers": 6, "vector_from_fused": True}
"""MiniLM-L6 as the single stream of an image model."""
LITE0: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "image_mean": (127.0, 127.0, 127.0),
    "image_std": (128.0, 128.0, 128.0),
    "frozen_stages": 3,
    "frozen_norm": True,
}
"""The pretrained EfficientNet-Lite0 as the backbone of every convolutional `tiny`."""
