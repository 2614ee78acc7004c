"""Types of responses, generated from tests/service/openapi.json.

Update: python -m tests.vitascope.test_client_types
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class AddedVideo(TypedDict):
    """A video that was uploaded."""

    added_at: float
    """Unix seconds"""
    clips: int
    """how many clips it was cut into"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    notes: list[str]
    """remarks on how it was cut into clips"""
    thumbnail_url: str
    """JPEG; `t` in seconds may be changed"""
    title: str
    width: int
    """pixels"""


class Answer(TypedDict):
    """One entry of the model's answer vocabulary, or a candidate that is one."""

    probability: float
    """calibrated; among the vocabulary, or among the candidates that are in it"""
    text: str


class AnswerResponse(TypedDict):
    """Answers, likeliest first. A low first probability means that the model does not know."""

    abstained: bool
    """whether the best is below `abstain_below`, or no candidate is in the vocabulary"""
    answer: str | None
    """the likeliest; null where the model abstained"""
    answers: list[Answer]
    end: float
    """seconds"""
    question: str
    start: float
    """seconds"""
    unknown: list[str]
    """candidates that the model's vocabulary lacks: nothing is said of them"""
    video: Video | None
    """null for an uploaded file"""


class CaptionScore(TypedDict):
    """How one caption describes the clip."""

    caption: str
    clipscore: float | None
    """2.5 * max(similarity, 0) (Hessel and others, 2021); null where similarity is"""
    emscore: EmScore | None
    """null where no `frames` were asked for"""
    fused: float | None
    """similarity and match together, 0 to 1; null where either is"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null where the model cannot
    match"""
    refclipscore: float | None
    """harmonic mean of clipscore and max(reference_similarity, 0) (Hessel and others, 2021); null without
    references"""
    reference_similarity: float | None
    """cosine of the caption and the reference most like it"""
    similarity: float | None
    """cosine of the query's and the clip's vectors, -1 to 1; null where the model has no vectors of texts"""


class ClipSpan(TypedDict):
    """A span of a video: the unit that is indexed and found."""

    end: float
    """seconds"""
    id: str
    media_url: str
    start: float
    """seconds"""
    text: str
    """what is said in it; empty where nothing is known"""
    thumbnail_url: str


class Collection(TypedDict):
    """A collection of videos, filled by one model."""

    bundle: str
    """name and version of the model that fills it"""
    bytes: int
    """on disk, without media files"""
    clips: int
    compatible: bool
    """whether that model is loaded; if not: no search, no adding"""
    created_at: float
    """Unix seconds"""
    fingerprint: str
    """of that model"""
    index: IndexState
    index_kind: str
    """what is asked for: auto, flat, hnsw or ivfpq"""
    name: str
    token_encoding: Literal["int8", "float16"]
    """how what reranking reads is kept; float16 takes twice the room"""
    videos: int


class Collections(TypedDict):
    """All collections, by name."""

    collections: list[Collection]
    unreadable: list[str]
    """damaged ones; the log of the service says more"""


class Deliveries(TypedDict):
    """A page of messages, newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None


class Delivery(TypedDict):
    """A message to an endpoint."""

    attempts: int
    created_at: float
    error: str | None
    """why the last attempt failed"""
    id: str
    """`webhook-id`; the same at every attempt"""
    last_at: float | None
    """time of the last attempt"""
    next_at: float | None
    """time of the next attempt"""
    state: Literal["pending", "delivered", "failed"]
    status: int | None
    """HTTP status of the last attempt; null without a response"""
    type: Literal["job.succeeded", "job.failed", "job.cancelled"]


class DocumentRef(TypedDict):
    """A clip of the collection, or a video: the one of its clips that fits best."""

    clip_id: NotRequired[str | None]
    video_id: NotRequired[str | None]


class EmScore(TypedDict):
    """EMScore without references (Shi and others, 2022), of as many frames as were asked for."""

    coarse: float
    """as `similarity`"""
    f1: float
    """harmonic mean of both; 0 where one is not above 0"""
    precision: float
    """weighted mean over words: cosine with the frame that shows it best"""
    recall: float
    """mean over frames: cosine with its best word"""
    score: float
    """mean of coarse and f1"""
    words: list[WordEvidence]


class Embedding(TypedDict):
    """One vector, of length 1: the cosine of two is their inner product."""

    embedding: list[float] | str
    """numbers, or base64 of them"""
    index: int
    """of the input"""
    object: Literal["embedding"]


class Embeddings(TypedDict):
    """Vectors in the order of the inputs."""

    data: list[Embedding]
    fingerprint: str
    """of the model; vectors of two fingerprints cannot be compared"""
    model: str
    """name of the model"""
    object: Literal["list"]
    usage: Usage


class FilesSource(TypedDict):
    """Files named one by one."""

    files: list[str]
    """in an allowed root"""
    kind: Literal["files"]


class FolderSource(TypedDict):
    """All files of a folder."""

    folder: str
    """in an allowed root; relative: below incoming/"""
    kind: Literal["folder"]
    recursive: NotRequired[bool]
    """also the folders in it"""


class FoundClip(TypedDict):
    """A clip that was found, its scores and places each for itself."""

    clip_id: str
    end: float
    """seconds"""
    fused: float | None
    """similarity and match together, 0 to 1; null where it was not reranked"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null where it was not
    reranked"""
    media_url: str
    """plays the clip: the file with #t=start,end"""
    ranks: Ranks
    similarity: float
    """cosine of the query's and the clip's vectors, -1 to 1"""
    start: float
    """seconds"""
    text: str
    """what is said in it; empty where nothing is known"""
    thumbnail_url: str


class FrameStream(TypedDict):
    """Frames that the model looks at."""

    fit: str
    frames: int
    height: int
    """pixels"""
    longest_edge: NotRequired[int | None]
    """pixels, in a corner"""
    margin: NotRequired[str]
    """how half pixels of a margin are rounded: down or even"""
    multiple: NotRequired[int]
    """pixels that edges in a corner are whole multiples of"""
    name: str
    placement: str
    """where in the clip: middle or uniform"""
    resample: NotRequired[str]
    """decoder, or the filter that makes frames smaller"""
    shortest_edge: NotRequired[int | None]
    """pixels, before the centre is cut"""
    shows: NotRequired[str]
    """picture, or its cover: white where it lies"""
    width: int
    """pixels"""


class GraphEngine(TypedDict):
    """Where a graph of a model really runs."""

    card: str | None
    """the GPU; null on the CPU"""
    device: str
    """cpu, cuda, tensorrt, or remote"""
    engine: str
    """the library that runs it, and its version; or the server"""
    fallback: str | None
    """why it is not what was tried first; null if it is"""


class Health(TypedDict):
    """A sign of life."""

    status: str


class IndexState(TypedDict):
    """What finds the clips of a collection."""

    changed: int
    """clips that came or went since it was built; they are compared one by one"""
    serving: str
    """kind of the index that is searched: flat, hnsw or ivfpq"""


class Job(TypedDict):
    """An indexing job. It is `succeeded` even where files failed: `counts` and the items tell."""

    counts: JobCounts
    created_at: float
    """Unix seconds"""
    done: int
    """files that nothing more will happen to"""
    error: str | None
    """why the job itself, not one of its files, failed, or rests though nobody paused it"""
    finished_at: float | None
    """Unix seconds"""
    id: str
    metadata: dict[str, str | bool | int | float]
    progress: float
    """share that is done, with the parts of long files at hand"""
    rate: JobRate | None
    """null before the first file, or part of a long one, is done"""
    requested: Literal["cancel", "pause"] | None
    """what happens after the files at hand"""
    source: FolderSource | FilesSource | ListSource | ShardsSource | UrlSource | UploadSource
    started_at: float | None
    """Unix seconds"""
    state: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    total: int
    """files; 0 until the source has been listed"""


class JobCounts(TypedDict):
    """Files by state."""

    cancelled: int
    failed: int
    quarantined: int
    """put aside: the process died at them again and again"""
    queued: int
    running: int
    skipped: int
    succeeded: int


class JobItem(TypedDict):
    """One file of a job."""

    crashes: int
    """how often the process died meanwhile"""
    metadata: dict[str, str | bool | int | float]
    """that the source gives it"""
    path: str
    """or URL, or tar://MEMBER::ARCHIVE"""
    reason: str | None
    """why it failed, was skipped or put aside; remarks on one that was added"""
    state: Literal["queued", "running", "succeeded", "failed", "skipped", "cancelled", "quarantined"]
    title: str | None
    """that the source gives it"""
    tries: int
    """how often it was begun"""
    video_id: str | None
    """the video it became, or already was"""


class JobItems(TypedDict):
    """A page of a job's files, in order."""

    items: list[JobItem]
    next_cursor: str | None


class JobRate(TypedDict):
    """How fast the present or last run of a job is or was."""

    items: float
    """files that were tried, per second; of a long one the part that is done"""
    seconds_left: float | None
    """at this rate, while the job is running"""
    video_seconds: float
    """seconds of video that were added, per second"""


class Jobs(TypedDict):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None


class KeyInfo(TypedDict):
    """A key, without its text."""

    collections: list[str] | None
    """null: all"""
    concurrency: int | None
    """requests under way; null: as the settings say"""
    created_at: float
    expires_at: float | None
    id: str
    last_used_at: float | None
    """to ten minutes"""
    name: str
    rate: float | None
    """requests a second; null: as the settings say"""
    revoked_at: float | None
    scopes: list[Literal["read", "write", "admin"]]


class Keys(TypedDict):
    """All keys that were ever made, oldest first."""

    keys: list[KeyInfo]


class ListSource(TypedDict):
    """A CSV, TSV, JSON Lines or Parquet file with a row for each video; further columns become metadata."""

    file: str
    """in an allowed root; so must be the paths in it"""
    kind: Literal["list"]
    path_column: NotRequired[str]
    """paths, relative ones below the list's folder, or URLs"""
    title_column: NotRequired[str]
    """titles, where there are any"""


class MadeKey(TypedDict):
    """A key that was made just now."""

    collections: list[str] | None
    """null: all"""
    concurrency: int | None
    """requests under way; null: as the settings say"""
    created_at: float
    expires_at: float | None
    id: str
    key: str
    """the key's text, which is shown only here"""
    last_used_at: float | None
    """to ten minutes"""
    name: str
    rate: float | None
    """requests a second; null: as the settings say"""
    revoked_at: float | None
    scopes: list[Literal["read", "write", "admin"]]


class MadeWebhook(TypedDict):
    """An endpoint with its secret."""

    created_at: float
    events: list[Literal["job.succeeded", "job.failed", "job.cancelled"]]
    id: str
    previous_secret_until: float | None
    """until then messages are signed with the previous secret, too"""
    secret: str
    """that messages are signed with, which is shown only here"""
    url: str


class MediaNotIncluded(TypedDict):
    """Uploads and copies that a collection owns, and that its backup or export has not."""

    bytes: int
    files: int


class ModelInfo(TypedDict):
    """A model: whether it serves, what it can do, what it was trained on, how well it does, and under which
    terms."""

    answers: int | None
    """size of the answer vocabulary"""
    architecture: str | None
    default: bool
    """whether it serves requests that name no model"""
    engines: dict[str, GraphEngine]
    """by graph; empty until it is ready"""
    error: str | None
    """why it has failed, beginning with a code; null if it has not"""
    fingerprint: str | None
    """of all that decides a vector; collections remember it"""
    folder: str
    """where it was loaded from"""
    licence: str | None
    metrics: dict[str, float]
    model_card: str | None
    """Markdown"""
    name: str | None
    precision: str | None
    signed_by: NotRequired[str | None]
    """id of the trusted key whose signature was checked when it was opened; null where none was"""
    state: Literal["loading", "ready", "failed"]
    streams: list[FrameStream]
    tasks: list[str]
    text_length: int | None
    """tokens; longer texts are cut"""
    training_data: list[str]
    vector_width: int | None
    version: str | None


class Models(TypedDict):
    """All models, the default first."""

    models: list[ModelInfo]


class Operation(TypedDict):
    """Work on a collection, waiting, under way or done."""

    collection: str
    created_at: float
    """Unix seconds"""
    error: str | None
    """why it failed"""
    files: list[OperationFile]
    """once it has succeeded; they stay until it is deleted"""
    finished_at: float | None
    """Unix seconds"""
    id: str
    kind: Literal["backup", "export", "reembed"]
    media_not_included: MediaNotIncluded | None
    """of a backup or export that has succeeded; `vitascope backup` copies everything"""
    model: str | None
    """fingerprint of the model to embed with, only for reembed"""
    options: dict[str, bool]
    """as they were asked for"""
    progress: float
    """share that is done"""
    started_at: float | None
    """Unix seconds"""
    state: Literal["queued", "running", "succeeded", "failed"]


class OperationFile(TypedDict):
    """A file that an operation made."""

    bytes: int
    name: str
    url: str
    """with ranges, so that a download can go on where it broke off"""


class Operations(TypedDict):
    """All operations that are kept, newest first."""

    operations: list[Operation]


class Ranks(TypedDict):
    """Places from 1."""

    similarity: int | None
    """among the most similar clips; null: not in that list"""
    words: int | None
    """among those that have the words; null: not in that list"""


class Readiness(TypedDict):
    """A sign that work can be done."""

    failed_models: int
    """that should serve and could not be loaded; /v1/models says why"""
    status: str


class RerankResponse(TypedDict):
    """Results by relevance_score, best first; of equal ones the more similar, then the earlier."""

    id: str
    """of the request"""
    model: str
    results: list[RerankResult]


class RerankResult(TypedDict):
    """A document and its scores, each for itself."""

    clip: RerankedClip
    document: DocumentRef | str | None
    """with `return_documents`, else null"""
    fused: float | None
    """similarity and match together, 0 to 1; null where match is"""
    index: int
    """of the document in the request"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null for a clip without visual
    tokens"""
    relevance_score: float
    """fused; 0 for a clip without visual tokens, which nothing can be said of"""
    similarity: float
    """cosine of the query's and the clip's vectors, -1 to 1"""


class RerankedClip(TypedDict):
    """The clip that was judged: of a video the one that fits best."""

    clip_id: str
    end: float
    """seconds"""
    start: float
    """seconds"""
    video_id: str


class Rights(TypedDict):
    """What the caller may do."""

    asks_for_keys: bool
    """whether the service asks for keys; if not, everybody may do all"""
    collections: list[str] | None
    """null: all"""
    expires_at: float | None
    id: str | None
    """of the caller's key; null without one"""
    name: str | None
    """what the key is for"""
    scopes: list[Literal["read", "write", "admin"]]


class ScoreResponse(TypedDict):
    """Scores in the order of the captions."""

    end: float
    """seconds"""
    scores: list[CaptionScore]
    start: float
    """seconds"""
    video: Video | None
    """null for an uploaded file"""


class SearchResponse(TypedDict):
    """A page of results, best first: reranked ones by fused score, then the others."""

    changed: bool
    """whether the collection has changed since the page before: what was deleted is left out, and what was added
    appears in a new search"""
    next_cursor: str | None
    """`cursor` of the next page; null on the last"""
    results: list[SearchResult]
    text: str | None
    """as it was asked; null for a query of parts"""


class SearchResult(TypedDict):
    """A clip, an event or a video. Of the latter two `clip_id`, text, scores and places are those of the best clip;
    start and end are those of the whole event."""

    clip_count: int | None
    """how many it has, listed or not; null for a clip"""
    clip_id: str
    clips: list[FoundClip] | None
    """its clips, best first; null for a clip"""
    end: float
    """seconds"""
    fused: float | None
    """similarity and match together, 0 to 1; null where it was not reranked"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null where it was not
    reranked"""
    media_url: str
    """plays the clip: the file with #t=start,end"""
    ranks: Ranks
    similarity: float
    """cosine of the query's and the clip's vectors, -1 to 1"""
    start: float
    """seconds"""
    text: str
    """what is said in it; empty where nothing is known"""
    thumbnail_url: str
    video: Video


class ShardsSource(TypedDict):
    """WebDataset shards: tar archives of media files, with JSON and text beside them."""

    kind: Literal["shards"]
    shards: list[str]
    """in an allowed root"""


class UploadSource(TypedDict):
    """One file that was uploaded with `Prefer: respond-async`; it cannot be named, only sent."""

    file: str
    """what it was called where it came from"""
    kind: Literal["upload"]
    title: str


class UrlSource(TypedDict):
    """A file, all files below a folder, or those that match a pattern with `*`, by an fsspec URL below an allowed
    one; or, where the service fetches such, one file at any public host."""

    kind: Literal["url"]
    title: NotRequired[str | None]
    """of a single file"""
    url: str
    """https://… or below an allowed URL"""


class Usage(TypedDict):
    """Tokens that the model read of texts, special ones included; pictures and videos have none."""

    prompt_tokens: int
    total_tokens: int


class Video(TypedDict):
    """A whole file."""

    added_at: float
    """Unix seconds"""
    clips: int
    """how many clips it was cut into"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    thumbnail_url: str
    """JPEG; `t` in seconds may be changed"""
    title: str
    width: int
    """pixels"""


class VideoWithClips(TypedDict):
    """A video and its clips in order."""

    added_at: float
    """Unix seconds"""
    clips: int
    """how many clips it was cut into"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    spans: list[ClipSpan]
    thumbnail_url: str
    """JPEG; `t` in seconds may be changed"""
    title: str
    width: int
    """pixels"""


class Videos(TypedDict):
    """A page of videos, in the order in which they were added."""

    next_cursor: str | None
    """`cursor` of the next page; null on the last"""
    videos: list[Video]


class Webhook(TypedDict):
    """An endpoint, without its secret."""

    created_at: float
    events: list[Literal["job.succeeded", "job.failed", "job.cancelled"]]
    id: str
    previous_secret_until: float | None
    """until then messages are signed with the previous secret, too"""
    url: str


class Webhooks(TypedDict):
    """All endpoints, oldest first."""

    webhooks: list[Webhook]


class WordEvidence(TypedDict):
    """A word of a caption, and the frame that shows it best."""

    similarity: float
    """cosine of the word and that frame"""
    time: float
    """seconds: where that frame is"""
    weight: float
    """how much it counts: 0 for English words such as `the` and `of`, else 1"""
    word: str
