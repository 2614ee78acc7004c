"""Optional parts of a manifest, and the base classes of all manifest models."""

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
    """Immutable model that rejects unknown keys, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OmitDefaultsModel(StrictModel):
    """Model that omits the fields in ``_omit_if_default`` from its serialization if they have their default values.

    These fields were added after the first bundles. Omitting their defaults keeps the fingerprints of older bundles,
    and lets earlier versions read new ones.
    """

    _omit_if_default: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        omitted = {k for k in self._omit_if_default if getattr(self, k) == fields[k].default}
        return {k: v for k, v in values.items() if k not in omitted}


class MomentWindows(StrictModel):
    """Windows of a video that the graph `moments` reads: each is embedded like a clip."""

    window_seconds: Annotated[float, Field(gt=0, le=600, description="length of a window")] = 1.0
    max_windows: Annotated[int, Field(ge=2, le=4096)] = 256
    """Maximum windows per run; the runtime splits longer videos into overlapping sequences."""


class CaptionDecoder(OmitDefaultsModel):
    """The decoder of the graphs `caption_prefill` and `caption_step`: a Transformer that predicts the next token."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("weights", "context_tokens", "dynamic_audio")

    layers: Annotated[int, Field(ge=1, le=256)]
    heads: Annotated[int, Field(ge=1, le=256)]
    head_width: Annotated[int, Field(ge=1, le=4096)]
    vocabulary: Annotated[int, Field(ge=2, description="tokens that have logits")]
    start_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=64)]
    """Tokens with which the decoder starts every caption. They are not part of the text."""
    end_id: Annotated[int, Field(ge=0)]
    """Token after which a caption is complete."""
    max_tokens: Annotated[int, Field(ge=2, le=4096, description="tokens of a caption, including `end_id`")] = 40
    context_tokens: Annotated[int | None, Field(ge=1)] = None
    """Number of visual and audio tokens of a clip that the decoder reads. Null: all inputs of `caption_prefill`."""
    dynamic_audio: bool = False
    """Whether the graphs accept fewer audio tokens than the audio stream has. False: they always take all of them."""
    weights: RelativePath | None = None
    """File with weights that only these graphs read; changing it needs no new index. Null: there is none."""

    @model_validator(mode="after")
    def _validate_ids(self) -> Self:
        if (largest := max(*self.start_ids, self.end_id)) >= self.vocabulary:
            raise ValueError(f"start_ids, end_id: {largest}; less than the vocabulary, {self.vocabulary}, was expected")
        return self


class GroundingGrid(OmitDefaultsModel):
    """Size of the heat map that the graph `grounding` returns: a grid of visual tokens with several cells each."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("weights",)

    rows: Annotated[int, Field(ge=1, le=256, description="rows of visual tokens")]
    columns: Annotated[int, Field(ge=1, le=256, description="columns of visual tokens")]
    cells: Annotated[int, Field(ge=1, le=64, description="cells of the heat map along each side of a token")]
    weights: RelativePath | None = None
    """File with weights that only this graph reads; changing it needs no new index. Null: there is none."""
