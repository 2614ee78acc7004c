"""Parts of a manifest that only some bundles have, and the base of all its models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

RelativePath = Annotated[str, Field(min_length=1, max_length=255)]


class StrictModel(BaseModel):
    """Immutable model that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OmitDefaultsModel(StrictModel):
    """Model that does not serialize the fields in ``_omit_if_default`` while they have their defaults.

    These fields were added after the first bundles. Without them a manifest keeps its fingerprint, and earlier versions
    can read it.
    """

    _omit_if_default: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        omitted = {k for k in self._omit_if_default if getattr(self, k) == fields[k].default}
        return {k: v for k, v in values.items() if k not in omitted}


class MomentWindows(StrictModel):
    """The input of the graph `moments`: embeddings of consecutive windows of a video, each embedded as a clip."""

    window_seconds: Annotated[float, Field(gt=0, le=600, description="length of a window")] = 1.0
    max_windows: Annotated[int, Field(ge=2, le=4096)] = 256
    """Windows of one sequence; the runtime splits longer videos into sequences that overlap."""


class CaptionDecoder(OmitDefaultsModel):
    """The decoder of the graphs `caption_prefill` and `caption_step`: a Transformer that predicts the next token."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("weights", "context_tokens", "dynamic_audio")

    layers: Annotated[int, Field(ge=1, le=256)]
    heads: Annotated[int, Field(ge=1, le=256)]
    head_width: Annotated[int, Field(ge=1, le=4096)]
    vocabulary: Annotated[int, Field(ge=2, description="tokens that have logits")]
    start_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=64)]
    """Tokens that every caption starts with, and that are no part of its text."""
    end_id: Annotated[int, Field(ge=0)]
    """Token after which a caption is complete."""
    max_tokens: Annotated[int, Field(ge=2, le=4096, description="of a caption, with `end_id`")] = 40
    context_tokens: Annotated[int | None, Field(ge=1)] = None
    """Visual and audio tokens of a clip that captions read. Null: all that the graph `caption_prefill` gets."""
    dynamic_audio: bool = False
    """Whether the graphs take any number of audio tokens up to that of the audio stream. False: always all of them."""
    weights: RelativePath | None = None
    """File with weights that these graphs alone read; it may change without a new index. Null: there is none."""

    @model_validator(mode="after")
    def _validate_ids(self) -> Self:
        if (largest := max(*self.start_ids, self.end_id)) >= self.vocabulary:
            raise ValueError(f"start_ids, end_id: {largest}; less than the vocabulary, {self.vocabulary}, was expected")
        return self


class GroundingGrid(OmitDefaultsModel):
    """The heat map of the graph `grounding`, which has several cells for each visual token of a grid."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("weights",)

    rows: Annotated[int, Field(ge=1, le=256, description="of visual tokens")]
    columns: Annotated[int, Field(ge=1, le=256, description="of visual tokens")]
    cells: Annotated[int, Field(ge=1, le=64, description="of the heat map along each side of a token")]
    weights: RelativePath | None = None
    """File with weights that the graph alone reads; it may change without a new index. Null: there is none."""
