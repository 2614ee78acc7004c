"""The manifest of a bundle: streams, graphs, files with their SHA-256, calibration.

Shape letters: B videos, texts or windows of sound, C clips, F frames, H height, W width (pixels), V visual tokens, K
their width, S samples, T audio tokens, A their width, L text tokens, D embedding dim, M tokens of an answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from vitascope.bundle.parts import (
    CaptionDecoder,
    GroundingGrid,
    MomentWindows,
    OmitDefaultsModel,
    RelativePath,
    StrictModel,
)
from vitascope.errors import InvalidInput

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
CHECKSUM_NAME = "manifest.json.sha256"
"""In the format of `sha256sum`. Bundles of early versions have none."""
SIGNATURE_NAME = "manifest.json.sig"
"""Present in signed bundles only."""

Task = Literal[
    "retrieval", "audio_retrieval", "matching", "answering", "moments", "captioning", "grounding", "entailment"
]
GraphName = Literal[
    "text",
    "video",
    "audio",
    "match",
    "answer",
    "moments",
    "caption_prefill",
    "caption_step",
    "grounding",
    "entailment",
]
InputType = Literal["query", "document"]
"""Purpose of a text: a search for documents, or a document to be searched for."""
GRAPHS_OF_TASK: dict[str, tuple[str, ...]] = {
    "retrieval": ("text", "video"),
    "audio_retrieval": ("text", "audio"),
    "matching": ("video", "match"),
    "answering": ("video", "answer"),
    "moments": ("text", "video", "moments"),
    "captioning": ("video", "caption_prefill", "caption_step"),
    "grounding": ("video", "grounding"),
    "entailment": ("video", "entailment"),
}
CAPTION_GRAPHS = ("caption_prefill", "caption_step")
ADDED_GRAPHS = ("moments", *CAPTION_GRAPHS, "grounding", "entailment")
"""Graphs that do not affect embeddings: a bundle that adds them can use existing indexes."""
PARTS: dict[str, tuple[str, ...]] = {
    "audio": ("audio",),
    "moments": ("moments",),
    "captions": CAPTION_GRAPHS,
    "grounding": ("grounding",),
}
"""Manifest fields that are required with these graphs, and null without them."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
Resample = Literal["decoder", "bicubic", "bilinear", "lanczos"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Prompt = Annotated[str, Field(max_length=1000)]


def checksum_of(manifest: bytes) -> str:
    """Return the content of ``CHECKSUM_NAME`` for a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_NAME}\n"


class FrameStream(OmitDefaultsModel):
    """An input of the video graph: RGB frames (B, C, F, H, W, 3) uint8."""

    _omit_if_default: ClassVar[tuple[str, ...]] = (
        *("resample", "shortest_edge", "margin"),
        *("longest_edge", "multiple", "shows", "track"),
    )

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    frames: Annotated[int, Field(ge=1, le=256)]
    height: Annotated[int, Field(ge=1, le=4096, description="pixels")]
    width: Annotated[int, Field(ge=1, le=4096, description="pixels")]
    placement: Literal["middle", "uniform"]
    """Temporal sampling. middle: around the middle of the clip; uniform: the centres of `frames` equal parts of it."""
    fit: Literal["stretch", "crop", "pad", "corner", "tiles"] = "stretch"
    """stretch: ignore the aspect ratio; crop: scale to cover, then centre crop; pad: scale to fit, with black borders;
    corner: scale to `shortest_edge`, `longest_edge` and `multiple`, placed top left, with black padding; tiles: scale
    to the largest frame of whole tiles, whose sides are `multiple`, with about its aspect ratio and at most as many
    tiles as `height` and `width` have, which its tiles fill in reading order, with black padding."""
    resample: Resample = "decoder"
    """decoder: bicubic, in the video decoder (fastest). Others: Pillow's filter of that name on the full frame, which
    antialiases as the image processors of public models do."""
    shortest_edge: Annotated[int | None, Field(ge=8, le=4096, description="pixels")] = None
    """With crop: length that the shorter edge is scaled to before cropping; null: the smallest that covers the crop.
    With corner: length that the shorter edge is scaled to."""
    margin: Literal["down", "even"] = "down"
    """Rounding of half a pixel when an odd margin is split into two: down, or to even."""
    longest_edge: Annotated[int | None, Field(ge=8, le=4096, description="pixels")] = None
    """With corner: maximum length of the longer edge; larger frames are scaled down."""
    multiple: Annotated[int, Field(ge=1, le=256, description="pixels")] = 1
    """With corner: both edges are rounded down to a multiple of this. With tiles: side of a tile."""
    shows: Literal["picture", "cover"] = "picture"
    """Content of the stream. picture: the pixels of the frame. cover: a mask of the picture, one pixel per `multiple`;
    with corner, white where the frame is; with tiles, white for the last tile of each row of the frame, grey for its
    other tiles, black for padding."""
    track: Annotated[int, Field(ge=0, le=15)] = 0
    """Video track of the file. 0: the main one, which players show; 1 and up: the others, in the order of the file."""

    @model_validator(mode="after")
    def _validate_tiles(self) -> FrameStream:
        side = 1 if self.shows == "cover" else 8 if self.fit != "tiles" else self.multiple
        if min(self.height, self.width) < side or (self.fit == "tiles" and (self.height % side or self.width % side)):
            raise ValueError(
                f"size: {self.width}x{self.height} pixels with fit {self.fit!r}; at least {side} each was expected, "
                "with tiles in multiples of it"
            )
        return self

    @model_validator(mode="after")
    def _validate_crop(self) -> FrameStream:
        if self.fit == "corner" or self.shortest_edge is None:
            return self
        if self.fit != "crop" or self.shortest_edge < max(self.height, self.width):
            raise ValueError(
                f"shortest_edge: {self.shortest_edge} with fit {self.fit!r} and {self.width}x{self.height} pixels; "
                "fit 'crop' and at least the larger side were expected"
            )
        return self

    @model_validator(mode="after")
    def _validate_top_left_padding(self) -> FrameStream:
        if self.fit != "corner":
            if self.longest_edge is not None or (self.fit != "tiles" and (self.multiple, self.shows) != (1, "picture")):
                raise ValueError(f"fit: {self.fit!r} with longest_edge, multiple or shows; fit 'corner' was expected")
            return self
        if self.shortest_edge is None or self.longest_edge is None or self.shortest_edge > self.longest_edge:
            raise ValueError(
                f"shortest_edge: {self.shortest_edge} and longest_edge: {self.longest_edge} with fit 'corner'; both "
                "were expected, shortest_edge no larger than longest_edge"
            )
        multiples = self.longest_edge // self.multiple
        side = multiples if self.shows == "cover" else multiples * self.multiple
        if (self.height, self.width) != (side, side):
            raise ValueError(
                f"size: {self.width}x{self.height} pixels; {side}x{side} was expected, for a longest_edge of "
                f"{self.longest_edge}, multiple {self.multiple} and shows {self.shows!r}"
            )
        return self


MirroredView = Annotated[float, Field(gt=0, le=1)]
"""Size of a second view of still pictures, as a fraction of width and height: a centre crop, mirrored left to right.
The embedding of a still picture is the normalized mean of the embeddings of both views."""


class AudioStream(OmitDefaultsModel):
    """The input of the audio graph: windows of mono sound (B, S) float32 from -1 to 1, and their lengths (B,) int64."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("fused",)

    name: Literal["audio"] = "audio"
    sample_rate: Annotated[int, Field(ge=8000, le=192_000, description="Hz")]
    seconds: Annotated[float, Field(gt=0, le=120, description="length of a window")]
    fill: Literal["silence", "repeat"] = "silence"
    """How a window is filled after a sound that is shorter. silence: with zeros; repeat: with whole repetitions of the
    sound, then zeros."""
    tokens: Annotated[int, Field(ge=0, le=4096)] = 0
    """Audio tokens of a window. 0: the graph has the embedding as its only output."""
    width: Annotated[int, Field(ge=0)] = 0
    """Values of a token."""
    fused: bool = False
    """Whether the graphs `match` and `answer` take `audio_tokens` (B, T, A) in addition to the visual tokens. For a
    clip without sound, the audio tokens are 0; without pictures, the visual tokens."""

    @model_validator(mode="after")
    def _validate_sizes(self) -> Self:
        if (self.tokens > 0) != (self.width > 0):
            raise ValueError(f"tokens, width: {self.tokens} and {self.width}; both or neither were expected to be 0")
        if self.fused and not self.tokens:
            raise ValueError("fused: true without tokens; some were expected")
        if not self.samples:
            raise ValueError(f"seconds: {self.seconds:g}, less than one sample; at least one was expected")
        return self

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.sample_rate * self.seconds)


class FileEntry(StrictModel):
    """Size and SHA-256 of one file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Calibration(OmitDefaultsModel):
    """Platt scaling (Platt, 1999) of raw scores, fitted on validation pairs.

    match = sigmoid(match_scale * match_logit + match_bias)
    fused = sigmoid(fused_similarity * similarity + fused_match * match_logit + fused_bias)
    relevance of a result that was not reranked = sigmoid(similarity_scale * similarity + similarity_bias), with the
    similarity of its pictures
    """

    _omit_if_default: ClassVar[tuple[str, ...]] = ("similarity_scale", "similarity_bias")

    match_scale: float = 1.0
    match_bias: float = 0.0
    fused_similarity: float = 0.0
    fused_match: float = 1.0
    fused_bias: float = 0.0
    answer_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divisor of answer logits before the softmax."""
    similarity_scale: float | None = None
    """None, together with `similarity_bias`: not fitted, so that results that were not reranked have no relevance."""
    similarity_bias: float | None = None

    @model_validator(mode="after")
    def _has_both_or_none(self) -> Self:
        if (self.similarity_scale is None) != (self.similarity_bias is None):
            raise ValueError("similarity_scale, similarity_bias: both or neither were expected")
        return self


MAX_RERANK = 1000
"""Largest number of search results that can be reranked."""
Percent = Annotated[float, Field(ge=0, le=100)]


class RerankingRecall(StrictModel):
    """Recall of searches for videos or clips of a validation split by their captions."""

    queries: Annotated[int, Field(ge=1)]
    recall: dict[Annotated[int, Field(ge=0, le=MAX_RERANK)], tuple[Percent, Percent, Percent]]
    """R@1, R@5 and R@10 by number of reranked results; 0: without reranking."""


class SoundReranking(StrictModel):
    """Reranking of searches by pictures and sound: by sigmoid(logit(search score) + match_weight * match_logit)."""

    candidates: Annotated[int, Field(ge=0, le=MAX_RERANK)]
    match_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    measured: dict[str, RerankingRecall] = {}
    """By validation split and the signals that its captions need, such as `sound_scenes/val (both)`."""


class Reranking(OmitDefaultsModel):
    """Default number of search results to rerank, and the measurements by which it was chosen."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("sound",)

    candidates: Annotated[int, Field(ge=0, le=MAX_RERANK)]
    """Default number of results to rerank. 0: reranking did not help on the validation splits."""
    measured: dict[str, RerankingRecall] = {}
    """By validation split."""
    sound: SoundReranking | None = None
    """Null: clips with sound are reranked by their pictures, like all others."""


class Prompts(StrictModel):
    """Prefixes that the model expects before texts, by input type."""

    query: Prompt = ""
    document: Prompt = ""


class Manifest(OmitDefaultsModel):
    """`manifest.json`. Paths are relative to the bundle's folder, with forward slashes."""

    _omit_if_default: ClassVar[tuple[str, ...]] = (
        "audio",
        "moments",
        "captions",
        "grounding",
        "matryoshka_dimensions",
        "logit_bias",
        "prompts",
        "answer_length",
        "reranking",
        "languages",
        "mirrored_view",
        "caption_matrix",
    )

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: str
    architecture: str
    tasks: Annotated[list[Task], Field(min_length=1)]
    streams: list[FrameStream]
    """Inputs of the `video` graph. Without that graph: empty, and `visual_tokens` and `visual_width` are 0."""
    mirrored_view: MirroredView | None = None
    """Null: still pictures have one view. Otherwise the runtime embeds a second view of them, too."""
    audio: AudioStream | None = None
    """Input of the `audio` graph; null without one."""
    moments: MomentWindows | None = None
    """Input of the `moments` graph; null without one."""
    captions: CaptionDecoder | None = None
    """The decoder of the `caption_prefill` and `caption_step` graphs; null without them."""
    grounding: GroundingGrid | None = None
    """Outputs of the `grounding` graph; null without one."""
    graphs: dict[GraphName, RelativePath]
    files: dict[RelativePath, FileEntry]
    vector_width: Annotated[int, Field(ge=0)]
    """Embedding dim. 0: the model has no embeddings, only visual tokens; it cannot fill a collection."""
    matryoshka_dimensions: list[Annotated[int, Field(ge=1)]] = []
    """Lengths, below `vector_width` and descending, to which embeddings may be truncated; a truncated embedding is
    normalized again (Matryoshka representation learning, Kusupati et al., 2022)."""
    visual_tokens: Annotated[int, Field(ge=0)]
    visual_width: Annotated[int, Field(ge=0)]
    text_length: Annotated[int, Field(ge=2, le=4096, description="tokens, special ones included")]
    temperature: Annotated[float, Field(gt=0, description="divisor of cosines in training")]
    logit_bias: float = 0.0
    """For models trained with a sigmoid loss (SigLIP): sigmoid(similarity / temperature + logit_bias) is the
    probability that a pair matches."""
    tokenizer: RelativePath = "tokenizer.json"
    prompts: Prompts = Prompts()
    """Prefixes that the runtime adds to texts before it embeds them. They count towards `text_length`."""
    caption_matrix: RelativePath | None = None
    """File with a matrix (D, D) in NumPy's format, float16 or float32. Text embeddings are multiplied by it and
    normalized before CLIPScore compares them with clips. Null: CLIPScore uses them unchanged."""
    answers: RelativePath | None = None
    """Answer vocabulary: a JSON list of strings in the order of the answer logits."""
    answer_length: Annotated[int | None, Field(ge=3, le=256, description="tokens, special ones included")] = None
    """Maximum tokens of a candidate, if the `answer` graph takes free-form candidates; then `answers` is optional.
    Null: the graph scores the answer vocabulary only."""
    model_card: RelativePath = "MODEL_CARD.md"
    parity_report: RelativePath = "parity.json"
    calibration: Calibration = Calibration()
    reranking: Reranking | None = None
    """Null: not measured; searches do not rerank by default."""
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] | None = None
    """Languages that the model understands, as ISO 639 codes. Null: unknown, so that queries are not checked."""
    precision: str = "float32"
    training_data: list[str] = []
    metrics: dict[str, float] = {}
    licence: str
    extra: dict[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _validate_paths(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise ValueError(f"files: {name!r} leaves the bundle; a relative path inside it was expected")
        known = {MANIFEST_NAME: MANIFEST_NAME}
        for name in files:
            # On case-insensitive file systems the file that was hashed could differ from the one that is read.
            other = known.setdefault(unicodedata.normalize("NFC", str(PurePosixPath(name))).casefold(), name)
            if other != name:
                raise ValueError(f"files: {other!r} and {name!r} differ in case or spelling alone; one was expected")
        return files

    @model_validator(mode="after")
    def _validate_completeness(self) -> Manifest:
        needed = {g for task in self.tasks for g in GRAPHS_OF_TASK[task]}
        missing = sorted(needed - set(self.graphs))
        if missing:
            raise ValueError(f"graphs: {missing} missing; tasks {self.tasks} need {sorted(needed)}")
        if "answering" in self.tasks and self.answers is None and self.answer_length is None:
            raise ValueError("answers: null; the task 'answering' needs an answer vocabulary")
        if not self.vector_width and (task := next((t for t in self.tasks if t.endswith("retrieval")), None)):
            raise ValueError(f"vector_width: 0; the task {task!r} needs vectors")
        if self.allowed_dimensions != sorted(set(self.allowed_dimensions), reverse=True):
            raise ValueError(
                f"matryoshka_dimensions: {self.matryoshka_dimensions}; numbers below {self.vector_width} in descending "
                "order were expected"
            )
        sound = self.sound_reranking
        if sound is not None and not (self.audio and self.audio.fused and "matching" in self.tasks):
            raise ValueError("reranking.sound: null was expected, as the graph 'match' does not read sound")
        if self.default_rerank and not {"retrieval", "matching"} <= set(self.tasks):
            raise ValueError(
                f"reranking.candidates: {self.default_rerank}; 0 was expected, as tasks {self.tasks} do not have both "
                "'retrieval' and 'matching'"
            )
        named = [*self.graphs.values(), self.tokenizer, self.model_card, self.parity_report]
        named += [self.answers] if self.answers else []
        named += self.added_weights
        if shared := sorted(name for name in self.added_weights if named.count(name) > 1):
            raise ValueError(f"weights: {shared}; a file that only the graphs of one task read was expected")
        unlisted = sorted(set(named) - set(self.files))
        if unlisted:
            raise ValueError(f"files: {unlisted} used but not listed with a SHA-256")
        if len({s.name for s in self.streams}) != len(self.streams):
            raise ValueError(f"streams: names {[s.name for s in self.streams]} repeat; unique names were expected")
        numbers = [*self.calibration.model_dump(exclude_none=True).values(), *self.metrics.values(), self.temperature]
        if not all(math.isfinite(n) for n in [*numbers, self.logit_bias]):
            raise ValueError("calibration, metrics, temperature, logit_bias: a number is not finite")
        return self

    @model_validator(mode="after")
    def _validate_inputs(self) -> Manifest:
        sizes = (len(self.streams), self.visual_tokens, self.visual_width)
        if {size > 0 for size in sizes} != {"video" in self.graphs}:
            expected = (
                "sizes above 0 were expected, of" if "video" in self.graphs else "0 was expected of each, without"
            )
            raise ValueError(
                f"streams, visual_tokens, visual_width: {len(self.streams)} streams, {self.visual_tokens} and "
                f"{self.visual_width}; {expected} a graph 'video'"
            )
        for name, graphs in PARTS.items():
            part: object = getattr(self, name)
            if {part is not None} != {graph in self.graphs for graph in graphs}:
                raise ValueError(
                    f"{name}: {'null' if part is None else 'set'} with graphs {sorted(self.graphs)}; it and "
                    f"{' and '.join(graphs)}, or none of them, were expected"
                )
        if self.caption_matrix is not None and not self.vector_width:
            raise ValueError(f"caption_matrix: {self.caption_matrix}; null was expected, as vector_width is 0")
        if not self.vector_width and (graph := next((g for g in ("audio", "moments") if g in self.graphs), None)):
            raise ValueError(f"vector_width: 0; the graph {graph!r} needs vectors")
        if self.mirrored_view is not None:
            if not self.vector_width:
                raise ValueError(f"mirrored_view: {self.mirrored_view:g}; null was expected, as vector_width is 0")
            if others := [s.name for s in self.streams if s.fit in ("corner", "tiles") or s.track]:
                raise ValueError(
                    f"mirrored_view: {self.mirrored_view:g}; null was expected, as a picture does not fill the frames "
                    f"of streams {others}"
                )
        return self

    @property
    def added_weights(self) -> dict[str, tuple[str, ...]]:
        """Weights that may change without a new index: by file, the only graphs that may read it.

        No graph may read the caption matrix.
        """
        parts = {name: getattr(self, name) for name in PARTS}
        weights = {part.weights: PARTS[name] for name, part in parts.items() if getattr(part, "weights", None)}
        return weights | ({self.caption_matrix: ()} if self.caption_matrix else {})

    @property
    def data_files(self) -> list[str]:
        """Files that the runtime reads beside the graphs: tokenizer, answer vocabulary and caption matrix."""
        return [name for name in (self.tokenizer, self.answers, self.caption_matrix) if name is not None]

    @property
    def default_rerank(self) -> int:
        """Default number of results that a text search reranks."""
        return 0 if self.reranking is None else self.reranking.candidates

    @property
    def sound_reranking(self) -> SoundReranking | None:
        """Reranking of searches by pictures and sound; None: the same as of other searches."""
        return None if self.reranking is None else self.reranking.sound

    @property
    def allowed_dimensions(self) -> list[int]:
        """Lengths that embeddings may have, largest first."""
        return [self.vector_width, *self.matryoshka_dimensions]

    def check_dimensions(self, dimensions: int | None) -> int:
        """Validate a number of dimensions of embeddings and return it; None gives all dimensions.

        Raises InvalidInput if the model's embeddings cannot be truncated to it.
        """
        if dimensions is None:
            return self.vector_width
        if dimensions not in self.allowed_dimensions:
            *others, last = map(str, self.allowed_dimensions)
            allowed = f"{', '.join(others)} or {last}" if others else last
            raise InvalidInput(f"dimensions: {dimensions}; {allowed} was expected for embeddings of {self.name}")
        return dimensions

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that affects embeddings: files, graphs, streams, views, text length and prompts.

        Bundles with equal fingerprints may add videos to the same collection. Excluded are the parity report, the model
        card and other `.md` files, the caption matrix, and `ADDED_GRAPHS` with the weights that no other graph reads,
        as they do not affect embeddings.

        Returns:
            64 hexadecimal digits.
        """
        added = {name: file for name, file in self.graphs.items() if name in ADDED_GRAPHS}
        excluded = {self.model_card, self.parity_report, *added.values(), *self.added_weights}
        excluded |= {name for name in self.files if name.endswith(".md")}
        parts: dict[str, Any] = {
            "files": {n: f.sha256 for n, f in sorted(self.files.items()) if n not in excluded},
            "graphs": {name: file for name, file in sorted(self.graphs.items()) if name not in added},
            "streams": [s.model_dump() for s in self.streams],
            "text_length": self.text_length,
            **({} if self.prompts == Prompts() else {"prompts": self.prompts.model_dump()}),
            **({} if self.mirrored_view is None else {"mirrored_view": self.mirrored_view}),
        }
        if self.audio is not None:
            parts["audio"] = self.audio.model_dump()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
