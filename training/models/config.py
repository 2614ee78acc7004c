"""Configuration shared by all architectures: text layers, fused layers and heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from training.data.example import EntailmentKind
from vitascope.bundle.manifest import AudioStream, FrameStream, MirroredView
from vitascope.bundle.parts import CaptionDecoder, GroundingGrid, OmitDefaultsModel, StrictModel

ClipMerge = Literal["mean", "logsumexp"]
HOP_SECONDS = 0.01
"""Time between frames of log-mel features."""
STACKED = 2
"""Adjacent feature frames that are stacked into one column of the audio CNN's input."""
START_TOKEN, END_TOKEN = "[CLS]", "[SEP]"
"""Tokens before and after a caption."""
MAX_CAPTION_TOKENS = 48
"""Maximum tokens of a generated caption, its end included."""
HEAT_CELLS = 4
"""Cells of a heat map along each side of a visual token."""
AST_PATCH, AST_STRIDE = 16, 10
"""Size and stride of the patches of the Audio Spectrogram Transformer, in frames."""


class AudioConfig(StrictModel):
    """Configuration of the audio encoder."""

    encoder: Literal["cnn", "ast"] = "cnn"
    """cnn: `backbone` on a picture of the features; ast: the Audio Spectrogram Transformer (Gong et al., 2021)."""
    backbone: str = "tf_efficientnet_lite0"
    """Name in timm of the CNN; a ResNet or EfficientNet."""
    sample_rate: Literal[16_000] = 16_000
    """Sample rate in Hz, the same as in packed corpora."""
    seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Length of a window; longer sounds are cut into several."""
    mel_bins: Annotated[int, Field(ge=16)] = 64
    frequencies: Annotated[int, Field(ge=64)] = 200
    """Number of frequency bins of the Fourier transform, from 0 to half of the sample rate."""
    width: int = 256
    """Width of the audio tokens; for `ast` also the width of all layers."""
    heads: int = 4
    layers: Annotated[int, Field(ge=0)] = 2
    """Number of Transformer layers: after the CNN, or of `ast`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    fused: bool = True
    """Whether the fused layers read the audio tokens, so that matching and answers use sound. False: sound is used for
    retrieval only."""

    @property
    def samples(self) -> int:
        """Number of samples of a window."""
        return round(self.sample_rate * self.seconds)

    @property
    def hop(self) -> int:
        """Number of samples between frames of features."""
        return round(self.sample_rate * HOP_SECONDS)

    @property
    def tokens(self) -> int:
        """Number of audio tokens of a window."""
        frames = -(-self.samples // self.hop)
        if self.encoder == "ast":
            return (frames - AST_PATCH) // AST_STRIDE + 1
        return -(-frames // self.token_frames)

    @property
    def token_frames(self) -> int:
        """Number of feature frames between the starts of two adjacent audio tokens."""
        return AST_STRIDE if self.encoder == "ast" else STACKED * 16

    def stream(self) -> AudioStream:
        """Return the input stream of the audio graph, as in the manifest of a bundle."""
        stream = AudioStream(sample_rate=self.sample_rate, seconds=self.seconds)
        tokens = {"tokens": self.tokens, "width": self.width, "fused": True}
        return stream.model_copy(update=tokens) if self.fused else stream


AUDIO_SIZES = {
    "tiny": AudioConfig(),
    "base": AudioConfig(encoder="ast", seconds=10.24, mel_bins=128, frequencies=512, width=768, heads=12, layers=12),
}
"""Sizes by name. `tiny`: EfficientNet-Lite0 and two Transformer layers (5.7 million parameters). `base`: the published
size of AST."""


class FusedConfig(OmitDefaultsModel):
    """Configuration of the layers after the video encoder. Stored as `config.json` in checkpoints."""

    _omit_if_default: ClassVar[tuple[str, ...]] = (
        "audio",
        "caption_layers",
        "caption_words",
        "grounding_layers",
        "entailment",
        "pooled_answers",
        "mirrored_view",
    )
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
    """Number of rows of visual tokens of a clip."""
    grid_width: int
    """Number of columns of visual tokens of a clip."""
    text_width: int
    text_heads: int
    text_layers: int
    """Number of text layers: the first layers of a BERT that is split in two."""
    fused_layers: int
    """Number of fused layers: the remaining layers of the BERT, over [text; visual tokens]."""
    text_intermediate: int
    vocabulary: int
    max_positions: int
    text_length: int
    """Maximum number of tokens of a text, special tokens included."""
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
    """Number of reference texts, and of reference videos, for the hubness correction of embeddings
    (`training.models.hubness`); 0: no correction."""
    object_classes: list[int] = Field(default_factory=list)
    """Number of classes of each attribute that the `objects` objective predicts for a visual token; empty: no head."""
    dropout: float = 0.1
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of attention weights in the text Transformer."""
    vector_from_fused: bool = False
    """Whether the model is single-stream, without a separate text encoder: text embeddings come from all layers, which
    then read text only."""
    visual_reads_text: bool = True
    """Whether visual tokens attend to text in the fused layers. True: the published joint self-attention. False: visual
    tokens attend to one another only, and are computed once for many texts about a video."""
    audio: AudioConfig | None = None
    """Encoder of sound, or the name of a size of `AUDIO_SIZES`; None: the model has no sound."""
    caption_layers: Annotated[int, Field(ge=0)] = 0
    """Number of layers of the caption decoder; 0: no decoder."""
    caption_words: Annotated[int, Field(ge=0)] = 0
    """Output vocabulary of the caption decoder: the most frequent tokens of its training captions; 0: all tokens."""
    grounding_layers: Annotated[int, Field(ge=0)] = 0
    """Number of layers of the grounding head, which locates the object of a phrase; 0: no head."""
    entailment: EntailmentKind | None = None
    """Classes of the entailment head. `video`: a video entails a sentence, contradicts it or neither (SNLI-VE);
    `pair`: a sentence about two pictures is true or false (NLVR2). None: no head."""
    pooled_answers: Annotated[int, Field(ge=0)] = 0
    """Width of the hidden layers of the pooled answer head, which complements the answer head; 0: no such head."""
    mirrored_view: MirroredView | None = None
    """Second view with which still pictures are embedded, as in the manifest of a bundle; not used in training."""

    @field_validator("audio", mode="before")
    @classmethod
    def _audio_of_size(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value not in AUDIO_SIZES:
            raise ValueError(f"{value!r}; one of {sorted(AUDIO_SIZES)}, or a table, was expected")
        return AUDIO_SIZES[value]

    @model_validator(mode="after")
    def _masked_visual_tokens_read_text(self) -> Self:
        if self.masks_visual and not self.visual_reads_text:
            raise ValueError("visual_reads_text: false; masked visual tokens read the text, true was expected")
        return self

    @model_validator(mode="after")
    def _text_heads_divide_the_width(self) -> Self:
        if self.text_width % self.text_heads:
            raise ValueError(
                f"text_width: {self.text_width}; a multiple of text_heads, {self.text_heads}, was expected"
            )
        return self

    @model_validator(mode="after")
    def _caption_words_are_of_the_vocabulary(self) -> Self:
        if self.caption_words > self.vocabulary:
            raise ValueError(
                f"caption_words: {self.caption_words}; {self.vocabulary}, the vocabulary, or less was expected"
            )
        return self

    @property
    def grid_tokens(self) -> int:
        """Number of visual tokens that have a position in the grid."""
        return self.grid_height * self.grid_width

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Return the rows and columns of a grid of `tokens` tokens, in the aspect ratio of the configured grid."""
        rows = round((tokens * self.grid_height / self.grid_width) ** 0.5)
        return rows, tokens // rows

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens of a clip; the tokens of the grid come first."""
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

    def audio_stream(self) -> AudioStream | None:
        """Return the input stream of the audio graph, as in a manifest; None for a model without sound."""
        return None if self.audio is None else self.audio.stream()

    def caption_decoder(self, vocabulary: Mapping[str, int]) -> CaptionDecoder | None:
        """Return the caption decoder's entry of a manifest; None for a model without a caption decoder.

        vocabulary: Token ids of the tokenizer, by token.
        """
        if not self.caption_layers:
            return None
        sound = self.audio_stream()
        audio_tokens = sound.tokens if sound is not None and sound.fused else 0
        return CaptionDecoder(
            layers=self.caption_layers,
            heads=self.text_heads,
            head_width=self.text_width // self.text_heads,
            vocabulary=self.vocabulary,
            start_ids=[vocabulary[START_TOKEN]],
            end_id=vocabulary[END_TOKEN],
            max_tokens=min(MAX_CAPTION_TOKENS, self.text_length - 1),  # longer ones were not trained
            context_tokens=None if self.visual_tokens == self.grid_tokens else self.grid_tokens + audio_tokens,
            dynamic_audio=audio_tokens > 0,
        )

    def grounding_grid(self) -> GroundingGrid | None:
        """Return the grounding head's entry of a manifest; None for a model without a grounding head."""
        if not self.grounding_layers:
            return None
        return GroundingGrid(rows=self.grid_height, columns=self.grid_width, cells=HEAT_CELLS)


class ConvConfig(FusedConfig):
    """Configuration of models with a convolutional backbone from timm."""

    backbone: str
    """Name of a ResNet or EfficientNet in timm. "": no convolutional backbone, which only Visual Parsing allows."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)]
    """Number of first backbone stages that are always frozen, together with their BatchNorm statistics."""
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
