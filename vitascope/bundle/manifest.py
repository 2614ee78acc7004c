"""The bundle's manifest: everything that the serving half knows about a model.

Shape letters: B videos, C clips, F frames, H height, W width (pixels), V visual tokens, L text tokens, D vector width.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
CHECKSUM_NAME = "manifest.json.sha256"
"""Beside the manifest, as `sha256sum` writes it. Bundles of earlier versions have none."""
SIGNATURE_NAME = "manifest.json.sig"
"""Beside the manifest of a bundle that was signed."""

Task = Literal["retrieval", "matching", "answering"]
GraphName = Literal["text", "video", "match", "answer"]
GRAPHS_OF_TASK: dict[str, tuple[str, ...]] = {
    "retrieval": ("text", "video"),
    "matching": ("video", "match"),
    "answering": ("video", "answer"),
}
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
"""Of a bundle's name."""
Resample = Literal["decoder", "bicubic", "bilinear", "lanczos"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, Field(min_length=1, max_length=255)]


def checksum_of(manifest: bytes) -> str:
    """What ``CHECKSUM_NAME`` holds for a manifest of these bytes."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_NAME}\n"


class Strict(BaseModel):
    """Unknown keys are errors: a typing mistake in a manifest must not pass unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Unwritten(Strict):
    """Leaves its fields ``_later`` out of what is written where they have their default values.

    They came after the first bundles: what does not need them is written, read by earlier versions, and
    fingerprinted as before.
    """

    _later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, written_by: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = written_by(self)
        fields = type(self).model_fields
        return {k: v for k, v in written.items() if k not in self._later or v != fields[k].default}


class FrameStream(Unwritten):
    """What the visual graph eats under this name: uint8 RGB, (B, C, frames, height, width, 3)."""

    _later: ClassVar[tuple[str, ...]] = ("resample", "shortest_edge", "margin", "longest_edge", "multiple", "shows")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    frames: Annotated[int, Field(ge=1, le=256)]
    height: Annotated[int, Field(ge=8, le=4096, description="pixels")]
    width: Annotated[int, Field(ge=8, le=4096, description="pixels")]
    placement: Literal["middle", "uniform"]
    """middle: around the middle of the clip; uniform: the centres of `frames` equal parts of the clip."""
    fit: Literal["stretch", "crop", "pad", "corner"] = "stretch"
    """stretch: ignore the aspect ratio; crop: cover and cut the centre; pad: contain, black borders; corner: all of it
    in the upper left corner, as large as `shortest_edge`, `longest_edge` and `multiple` say, black elsewhere."""
    resample: Resample = "decoder"
    """decoder: as quickly as the frame's decoder can, bicubic. Others: from the whole frame by Pillow's filter of that
    name, which averages where it makes smaller, as the processors of public models do."""
    shortest_edge: Annotated[int | None, Field(ge=8, le=4096, description="pixels")] = None
    """With crop: how long the frame's shorter edge is made before the centre is cut; as the target needs where null.
    With corner: how long it is made."""
    margin: Literal["down", "even"] = "down"
    """With crop: how the half pixels of an odd margin are rounded, down or to an even number of pixels."""
    longest_edge: Annotated[int | None, Field(ge=8, le=4096, description="pixels")] = None
    """With corner: what the longer edge may be; a frame that would be longer is made smaller as a whole."""
    multiple: Annotated[int, Field(ge=1, le=256, description="pixels")] = 1
    """With corner: both edges are rounded down to whole multiples of it."""
    shows: Literal["picture", "cover"] = "picture"
    """cover, with corner: white where the picture lies and black elsewhere, one pixel for each `multiple` of it, for
    models that must know where the picture ends."""

    @model_validator(mode="after")
    def _cuts_what_is_there(self) -> FrameStream:
        if self.fit == "corner" or self.shortest_edge is None:
            return self
        if self.fit != "crop" or self.shortest_edge < max(self.height, self.width):
            raise ValueError(
                f"shortest_edge: {self.shortest_edge} with fit {self.fit!r} and {self.width}x{self.height} pixels; "
                "fit 'crop' and at least the larger of both were expected"
            )
        return self

    @model_validator(mode="after")
    def _has_room_in_the_corner(self) -> FrameStream:
        if self.fit != "corner":
            if (self.longest_edge, self.multiple, self.shows) != (None, 1, "picture"):
                raise ValueError(f"fit: {self.fit!r} with longest_edge, multiple or shows; fit 'corner' was expected")
            return self
        if self.shortest_edge is None or self.longest_edge is None or self.shortest_edge > self.longest_edge:
            raise ValueError(
                f"shortest_edge: {self.shortest_edge} and longest_edge: {self.longest_edge} with fit 'corner'; both "
                "were expected, the shorter one first"
            )
        multiples = self.longest_edge // self.multiple
        side = multiples if self.shows == "cover" else multiples * self.multiple
        if (self.height, self.width) != (side, side):
            raise ValueError(
                f"size: {self.width}x{self.height} pixels; {side}x{side} was expected, for a longest_edge of "
                f"{self.longest_edge} in multiples of {self.multiple}, shown as a {self.shows}"
            )
        return self


class FileEntry(Strict):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Calibration(Strict):
    """How raw scores become probabilities, fitted on validation pairs (Platt, 1999).

    match = sigmoid(match_scale * match_logit + match_bias)
    fused = sigmoid(fused_similarity * similarity + fused_match * match_logit + fused_bias)
    """

    match_scale: float = 1.0
    match_bias: float = 0.0
    fused_similarity: float = 0.0
    fused_match: float = 1.0
    fused_bias: float = 0.0
    answer_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Answer logits are divided by it before the softmax."""


class Manifest(Unwritten):
    """`manifest.json`. Paths are relative to the bundle's folder, with forward slashes."""

    _later: ClassVar[tuple[str, ...]] = ("logit_bias", "answer_length")

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: str
    architecture: str
    tasks: Annotated[list[Task], Field(min_length=1)]
    streams: Annotated[list[FrameStream], Field(min_length=1)]
    graphs: dict[GraphName, RelativePath]
    files: dict[RelativePath, FileEntry]
    vector_width: Annotated[int, Field(ge=0)]
    """0: the model has no vectors, only visual tokens that its other graphs read. No collection can be made with it."""
    visual_tokens: Annotated[int, Field(ge=1)]
    visual_width: Annotated[int, Field(ge=1)]
    text_length: Annotated[int, Field(ge=2, le=4096, description="tokens, special ones included")]
    temperature: Annotated[float, Field(gt=0, description="cosines are divided by it in training")]
    logit_bias: float = 0.0
    """Added to the divided cosine in training, by models that judge each pair for itself (SigLIP): the sigmoid of
    similarity / temperature + logit_bias is the probability that a pair belongs together."""
    tokenizer: RelativePath = "tokenizer.json"
    answers: RelativePath | None = None
    """A JSON list of strings in the order of the answer logits."""
    answer_length: Annotated[int | None, Field(ge=3, le=256, description="tokens, special ones included")] = None
    """Where the `answer` graph is given the answers that it weighs: the most tokens of one. It may do without
    `answers` then. Null: it knows those, and no others."""
    model_card: RelativePath = "MODEL_CARD.md"
    parity_report: RelativePath = "parity.json"
    calibration: Calibration = Calibration()
    precision: str = "float32"
    training_data: list[str] = []
    metrics: dict[str, float] = {}
    licence: str
    extra: dict[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise ValueError(f"files: {name!r} leaves the bundle; a relative path inside it was expected")
        known = {MANIFEST_NAME: MANIFEST_NAME}
        for name in files:
            # Many file systems take these for one name: the file that was checked would be another one than is read.
            other = known.setdefault(unicodedata.normalize("NFC", str(PurePosixPath(name))).casefold(), name)
            if other != name:
                raise ValueError(f"files: {other!r} and {name!r} differ in case or spelling alone; one was expected")
        return files

    @model_validator(mode="after")
    def _is_complete(self) -> Manifest:
        needed = {g for task in self.tasks for g in GRAPHS_OF_TASK[task]}
        missing = sorted(needed - set(self.graphs))
        if missing:
            raise ValueError(f"graphs: {missing} missing; tasks {self.tasks} need {sorted(needed)}")
        if "answering" in self.tasks and self.answers is None and self.answer_length is None:
            raise ValueError("answers: null; the task 'answering' needs an answer vocabulary")
        if "retrieval" in self.tasks and not self.vector_width:
            raise ValueError("vector_width: 0; the task 'retrieval' needs vectors")
        named = [*self.graphs.values(), self.tokenizer, self.model_card, self.parity_report]
        named += [self.answers] if self.answers else []
        unlisted = sorted(set(named) - set(self.files))
        if unlisted:
            raise ValueError(f"files: {unlisted} used but not listed with a SHA-256")
        if len({s.name for s in self.streams}) != len(self.streams):
            raise ValueError(f"streams: names {[s.name for s in self.streams]} repeat; unique names were expected")
        numbers = [*self.calibration.model_dump().values(), *self.metrics.values(), self.temperature]
        if not all(math.isfinite(n) for n in [*numbers, self.logit_bias]):
            raise ValueError("calibration, metrics, temperature, logit_bias: a number is not finite")
        return self

    def fingerprint(self) -> str:
        """SHA-256 over all that decides a vector: graphs, weights, tokenizer, streams, text length.

        Two bundles with one fingerprint may fill one collection; metrics, the card, notices and other prose (`.md`)
        do not count.
        """
        prose = {self.model_card, self.parity_report} | {name for name in self.files if name.endswith(".md")}
        parts = {
            "files": {n: f.sha256 for n, f in sorted(self.files.items()) if n not in prose},
            "graphs": dict(sorted(self.graphs.items())),
            "streams": [s.model_dump() for s in self.streams],
            "text_length": self.text_length,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
