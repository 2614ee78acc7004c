"""Types of responses, generated from tests/service/openapi.json.

Update: python -m tests.vitascope.client.test_generated
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class AddedVideo(TypedDict):
    """A video that was uploaded."""

    added_at: float
    """Unix seconds"""
    clips: int
    """number of clips"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    missing: bool
    """the file is gone: moved, deleted, or on a drive that is not mounted; false where the drive does not answer
    within half a second"""
    notes: list[str]
    """notes on how it was segmented"""
    path: str | None
    """absolute path of the file on the machine that indexed it; the URL, or tar://MEMBER::ARCHIVE, where the file
    was copied from there; null for an upload"""
    thumbnail_url: str
    """JPEG; `t`: seconds"""
    title: str
    width: int
    """pixels"""


class Answer(TypedDict):
    """One entry of the model's answer vocabulary, or a candidate that is one."""

    probability: float
    """calibrated; among the vocabulary, or among the candidates that are in it"""
    text: str


class AnswerResponse(TypedDict):
    """Answers, the most probable first. If the first probability is low, the model does not know."""

    abstained: bool
    """whether the best is below `abstain_below`, or no candidate is in the vocabulary"""
    answer: str | None
    """the most probable; null if the model abstained"""
    answers: list[Answer]
    end: float
    """seconds"""
    modalities: list[Literal["visual", "audio"]]
    """what of the clip the model has used: its pictures and, if it has sound and the model matches and answers by
    sound, that; similarity and emscore are of the pictures alone"""
    out_of_vocabulary: list[str]
    """candidates that are not in the model's vocabulary, and not scored"""
    question: str
    start: float
    """seconds"""
    video: Video | None
    """null for an uploaded file"""


class AudioStream(TypedDict):
    """The windows of sound that the model takes."""

    fill: str
    """content of a window after a shorter sound: silence, or repeat"""
    fused: NotRequired[bool]
    """whether matching and answers take audio tokens"""
    name: str
    sample_rate: int
    """Hz"""
    seconds: float
    """of a window; a longer sound is the mean of several"""
    tokens: int
    """audio tokens of a window"""
    width: int
    """numbers of an audio token"""


class CaptionResponse(TypedDict):
    """Captions of clips in the order of time."""

    clips: list[CaptionedClip]
    video: Video | None
    """null for an uploaded file"""


class CaptionScore(TypedDict):
    """Scores of a caption of the clip."""

    caption: str
    clipscore: float | None
    """2.5 * max(similarity, 0) (Hessel and others, 2021); null if similarity is"""
    emscore: EmScore | None
    """null without `frames`"""
    fused: float | None
    """similarity and match combined, 0 to 1; null if either is"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null if the model has no task
    matching"""
    refclipscore: float | None
    """harmonic mean of clipscore and max(reference_similarity, 0) (Hessel and others, 2021); null without
    references"""
    reference_similarity: float | None
    """cosine of the caption and the most similar reference"""
    similarity: float | None
    """cosine of the embeddings of query and clip, -1 to 1; null if the model does not embed texts"""


class CaptionedClip(TypedDict):
    """Captions of one clip."""

    captions: list[GeneratedCaption]
    """most probable first; fewer than `count` if the search has no more"""
    end: float
    """seconds"""
    modalities: list[Literal["visual", "audio"]]
    """what of the clip the model has used: its pictures, and its sound if it can"""
    start: float
    """seconds"""


class ClipHit(TypedDict):
    """A clip of a result, with its scores, overall and by signal."""

    clip_id: str
    conditions: list[Condition] | None
    """the texts of the query; null where it has fewer than two, or the bundle has no calibration of similarity"""
    end: float
    """seconds"""
    fused: float | None
    """similarity and match combined, 0 to 1; null where it was not reranked"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null where it was not
    reranked"""
    media_url: str
    """plays the clip: the file with #t=start,end"""
    modalities: list[Literal["visual", "audio"]]
    """what it has embeddings of, by which it can be compared: pictures (visual), sound (audio)"""
    relevance: float | None
    """probability that the clip fits the query: fused if it was reranked, else the calibrated similarity; at least
    the word score of a clip that contains most words of the query; with several texts, that of the condition which
    it is least likely to meet; null if it was not reranked and the bundle has no calibration of similarity, or the
    query has clips or files"""
    screen_text: str
    """what is written in its pictures; empty where nothing is known"""
    signals: dict[str, SignalScore]
    """why it was returned: its ranks by signal"""
    similarity: float
    """cosine of the embeddings of query and clip, -1 to 1"""
    start: float
    """seconds"""
    text: str
    """what is said in it; empty where nothing is known"""
    thumbnail_url: str


class ClipSpan(TypedDict):
    """A span of a video, the unit that is indexed."""

    end: float
    """seconds"""
    id: str
    media_url: str
    modalities: list[Literal["visual", "audio"]]
    """what it has embeddings of, by which it can be compared: pictures (visual), sound (audio)"""
    screen_text: str
    """what is written in its pictures; empty where nothing is known"""
    start: float
    """seconds"""
    text: str
    """what is said in it; empty where nothing is known"""
    thumbnail_url: str


class Collection(TypedDict):
    """A collection of videos, embedded by one model."""

    bundle: str
    """name and version of its model"""
    bytes: int
    """on disk, without media files"""
    clips: int
    created_at: float
    """Unix seconds"""
    default_rerank: int
    """number of clips that a search by a text reranks unless it sets `rerank`; of the model"""
    dimensions: int
    """of its embeddings"""
    fingerprint: str
    """of that model"""
    index: IndexState
    index_kind: str
    """requested: auto, flat, hnsw or ivfpq"""
    model_loaded: bool
    """false: it cannot be searched or added to until the model is"""
    name: str
    read_text: float | None
    """seconds between the frames whose text jobs read; null: none"""
    signals: list[Literal["visual", "audio", "speech", "screen_text", "name"]]
    """what it can be searched by: pictures (visual), sound (audio), words spoken (speech), words shown
    (screen_text), words of titles and paths (name)"""
    stemming: Literal["english", "none"]
    """english: words also match those with the same English stem; none: for other languages"""
    token_encoding: Literal["int8", "float16"]
    """how visual tokens for reranking are stored; float16 takes twice the space"""
    transcribe: str | None
    """speech model of its jobs; `default`: that of the service; null: none"""
    videos: int


class Collections(TypedDict):
    """All collections, by name."""

    collections: list[Collection]
    unreadable: list[str]
    """damaged collections; see the log of the service"""


class Condition(TypedDict):
    """A text of the query, and how likely the clip fits it."""

    met: bool
    """whether it is at least 0.25; for a text of negative weight, whether it is lower"""
    relevance: float
    """probability that the clip fits the text"""
    text: str
    weight: float


class CreatedKey(TypedDict):
    """A new key."""

    collections: list[str] | None
    """null: all"""
    concurrency: int | None
    """concurrent requests; null: as in the settings"""
    created_at: float
    expires_at: float | None
    id: str
    key: str
    """the key's text, which no other response contains"""
    last_used_at: float | None
    """accurate to ten minutes"""
    name: str
    rate: float | None
    """requests per second; null: as in the settings"""
    revoked_at: float | None
    scopes: list[Literal["read", "write", "admin"]]


class CreatedWebhook(TypedDict):
    """A webhook with its secret."""

    created_at: float
    events: list[Literal["job.succeeded", "job.failed", "job.cancelled"]]
    id: str
    previous_secret_until: float | None
    """until then, messages are also signed with the previous secret"""
    secret: str
    """signs messages; no other response contains it"""
    url: str


class DateRange(TypedDict):
    """A day, or a month if there are many days."""

    end: str
    """day after the last"""
    start: str
    """first day, in UTC"""
    videos: int


class Deliveries(TypedDict):
    """A page of deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None


class Delivery(TypedDict):
    """A message and its delivery."""

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
    """A clip of the collection, or a video: its best clip."""

    clip_id: NotRequired[str | None]
    video_id: NotRequired[str | None]


class DurationRange(TypedDict):
    """Durations in seconds; 0 to 0: pictures, which no other range counts."""

    max: int | None
    """exclusive; null: none"""
    min: int
    videos: int


class EmScore(TypedDict):
    """EMScore without references (Shi and others, 2022), of as many frames as were requested."""

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
    """One embedding of length 1: the cosine of two is their inner product."""

    embedding: list[float] | str
    """numbers, or base64"""
    index: int
    """of the input"""
    object: Literal["embedding"]


class Embeddings(TypedDict):
    """Embeddings in the order of the inputs."""

    data: list[Embedding]
    fingerprint: str
    """of the model; embeddings of different fingerprints are not comparable"""
    model: str
    """name of the model"""
    object: Literal["list"]
    usage: Usage


class FacetValue(TypedDict):
    """A value and the number of videos that have it."""

    value: str | bool | int | float
    videos: int


class Facets(TypedDict):
    """Values that the videos of a collection can be filtered by, with numbers of videos."""

    added: list[DateRange]
    """when videos were added, latest first"""
    durations: list[DurationRange]
    folders: list[FacetValue]
    """of indexed files, ending in a slash; not of uploads"""
    metadata: list[MetadataFacet]
    """the most frequent fields first"""
    screen_text: int
    """videos with words on screen"""
    speech: int
    """videos with spoken words"""


class FilesSource(TypedDict):
    """A list of files."""

    files: list[str]
    """in an allowed root"""
    kind: Literal["files"]


class FolderSource(TypedDict):
    """All files of a folder."""

    folder: str
    """in an allowed root; relative: below incoming/"""
    kind: Literal["folder"]
    recursive: NotRequired[bool]
    """including subfolders"""


class FrameStream(TypedDict):
    """A frame stream of the model."""

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
    track: NotRequired[int]
    """video track of a file; 0 is the main one"""
    width: int
    """pixels"""


class GeneratedCaption(TypedDict):
    """A sentence about a clip, generated by the model. It may be wrong: caption scores tell how well it fits."""

    log_probability: float
    """mean natural logarithm of the probabilities of its tokens; comparable within a model"""
    text: str


class GraphEngine(TypedDict):
    """Engine and device that a graph runs on."""

    device: str
    """cpu, cuda, tensorrt, or remote"""
    engine: str
    """library and version, or the server"""
    fallback: str | None
    """why the preferred device is not used; null if it is"""
    gpu_name: str | None
    """null on a CPU"""


class Health(TypedDict):
    """Liveness."""

    status: str


class IndexState(TypedDict):
    """The vector index of a collection."""

    changed: int
    """clips added or deleted since it was built"""
    serving: str
    """kind of the index in use: flat, hnsw or ivfpq"""


class Job(TypedDict):
    """An indexing job. It succeeds even if files fail: see `counts` and the items."""

    counts: JobCounts
    created_at: float
    """Unix seconds"""
    done: int
    """finished files"""
    duplicates: int
    """skipped files whose content the collection has; the other skipped ones are not media"""
    error: str | None
    """why the job itself failed, or was paused by the service"""
    finished_at: float | None
    """Unix seconds"""
    id: str
    metadata: dict[str, str | bool | int | float]
    progress: float
    """fraction done, with fractions of long files"""
    rate: JobRate | None
    """null before the first progress"""
    read_text: float | None
    """seconds between the frames whose text is read; null: none is"""
    recognitions: dict[str, RecognitionCounts]
    """progress of what is recognised"""
    requested: Literal["cancel", "pause"] | None
    """takes effect after the files in progress"""
    source: FolderSource | FilesSource | ListSource | ShardsSource | UrlSource | UploadSource
    started_at: float | None
    """Unix seconds"""
    state: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    total: int
    """files; 0 until the source has been listed"""
    transcribe: str | None
    """speech model; `default`: that of the service; null: speech is not recognised"""


class JobCounts(TypedDict):
    """Number of files by state."""

    cancelled: int
    failed: int
    quarantined: int
    """the process died repeatedly while it indexed them"""
    queued: int
    refreshed: int
    """already indexed; their title, metadata, subtitles or path changed"""
    running: int
    skipped: int
    succeeded: int


class JobItem(TypedDict):
    """One file of a job."""

    crashes: int
    """number of crashes of the process"""
    metadata: dict[str, str | bool | int | float]
    """from the source"""
    path: str
    """or URL, or tar://MEMBER::ARCHIVE"""
    reason: str | None
    """why it failed, was skipped or quarantined; what was refreshed; notes on an added one"""
    state: Literal["queued", "running", "succeeded", "refreshed", "failed", "skipped", "cancelled", "quarantined"]
    title: str | None
    """from the source"""
    tries: int
    """number of attempts"""
    video_id: str | None
    """of the added or existing video"""


class JobItems(TypedDict):
    """A page of a job's files, in order."""

    items: list[JobItem]
    next_cursor: str | None


class JobRate(TypedDict):
    """Speed of the current or last run of a job."""

    items: float
    """files per second, with fractions of long files"""
    seconds_left: float | None
    """at this rate; null unless running"""
    video_seconds: float
    """seconds of video added per second"""


class Jobs(TypedDict):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None


class KeyInfo(TypedDict):
    """A key, without its text."""

    collections: list[str] | None
    """null: all"""
    concurrency: int | None
    """concurrent requests; null: as in the settings"""
    created_at: float
    expires_at: float | None
    id: str
    last_used_at: float | None
    """accurate to ten minutes"""
    name: str
    rate: float | None
    """requests per second; null: as in the settings"""
    revoked_at: float | None
    scopes: list[Literal["read", "write", "admin"]]


class KeyPermissions(TypedDict):
    """Permissions of the caller's key."""

    collections: list[str] | None
    """null: all"""
    expires_at: float | None
    id: str | None
    """id of the caller's key; null if none is required"""
    keys_required: bool
    """whether the service requires keys; if not, all is permitted"""
    name: str | None
    """name of the caller's key"""
    scopes: list[Literal["read", "write", "admin"]]


class Keys(TypedDict):
    """All keys, oldest first."""

    keys: list[KeyInfo]


class ListSource(TypedDict):
    """A CSV, TSV, JSON Lines or Parquet file with a row for each video; further columns become metadata."""

    file: str
    """in an allowed root, like the paths in it"""
    kind: Literal["list"]
    path_column: NotRequired[str]
    """paths, relative ones below the list's folder, or URLs"""
    title_column: NotRequired[str]
    """titles, if there are any"""


class MediaNotIncluded(TypedDict):
    """Media files that the collection owns and that its backup or export lacks."""

    bytes: int
    files: int


class MetadataFacet(TypedDict):
    """A metadata field and its most frequent values."""

    field: str
    values: list[FacetValue]
    videos: int
    """number of videos that have it"""


class ModelInfo(TypedDict):
    """A model: state, tasks, training data, metrics and licence."""

    answers: int | None
    """size of the answer vocabulary"""
    architecture: str | None
    audio: NotRequired[AudioStream | None]
    """null without sound"""
    default: bool
    """whether requests without a model use it"""
    default_rerank: int | None
    """number of clips that a search by a text reranks by default, as the bundle states"""
    engines: dict[str, GraphEngine]
    """by graph; empty until ready"""
    error: str | None
    """why it failed, beginning with a code"""
    fingerprint: str | None
    """identifies embeddings of this model"""
    folder: str
    """it was loaded from"""
    licence: str | None
    matryoshka_dimensions: list[int]
    """smaller dimensions that embeddings can have"""
    metrics: dict[str, float]
    model_card: str | None
    """Markdown"""
    name: str | None
    precision: str | None
    signed_by: NotRequired[str | None]
    """id of the trusted key that signed it; null if signatures are not required"""
    state: Literal["loading", "ready", "failed"]
    streams: list[FrameStream]
    tasks: list[str]
    text_length: int | None
    """tokens; longer texts are truncated"""
    training_data: list[str]
    vector_width: int | None
    version: str | None


class Models(TypedDict):
    """All models, the default first."""

    models: list[ModelInfo]
    recognizers: list[RecognizerInfo]
    """those that the settings name"""


class Moment(TypedDict):
    """A span of the video."""

    end: float
    """seconds"""
    score: float
    """how well the text fits the span"""
    start: float
    """seconds"""


class MomentResponse(TypedDict):
    """Moments in the order of the texts."""

    end: float
    """seconds"""
    results: list[TextMoments]
    start: float
    """seconds"""
    times: list[float]
    """middle of each window in seconds"""
    video: Video | None
    """null for an uploaded file"""


class Operation(TypedDict):
    """An operation on a collection."""

    collection: str
    created_at: float
    """Unix seconds"""
    error: str | None
    """why it failed"""
    files: list[OperationFile]
    """after success; kept until the operation is deleted"""
    finished_at: float | None
    """Unix seconds"""
    id: str
    kind: Literal["backup", "export", "reembed", "transcribe", "read_text"]
    media_not_included: MediaNotIncluded | None
    """of a backup or export that has succeeded; `vitascope backup` copies everything"""
    model: str | None
    """fingerprint of the model to embed with, or name of the recogniser"""
    options: dict[str, bool | float]
    """as requested"""
    progress: float
    """fraction done"""
    started_at: float | None
    """Unix seconds"""
    state: Literal["queued", "running", "succeeded", "failed"]
    videos: RecognizedVideos | None
    """of one that recognises, and has succeeded"""


class OperationFile(TypedDict):
    """A file of an operation."""

    bytes: int
    name: str
    url: str
    """supports range requests"""


class Operations(TypedDict):
    """All operations, newest first."""

    operations: list[Operation]


class Readiness(TypedDict):
    """Readiness."""

    failed_models: int
    """that could not be loaded; /v1/models says why"""
    recognizers: dict[str, Literal["starting", "ready", "failed"]]
    """those that the settings name; /v1/models says why one failed"""
    status: str


class RecognitionCounts(TypedDict):
    """Number of a job's videos that are recognised."""

    done: int
    failed: int
    """the reason is a note on the file; the video can be searched"""


class RecognizedVideos(TypedDict):
    """Numbers of videos of an operation that recognises."""

    failed: int
    """why is stored with each; the next operation tries them again"""
    recognized: int


class RecognizerInfo(TypedDict):
    """A recogniser of speech or screen text."""

    error: str | None
    """why it failed"""
    kind: Literal["speech", "screen_text"]
    name: str
    """engine and model; until it is ready, the model as the settings name it"""
    state: Literal["starting", "ready", "failed"]


class RerankResponse(TypedDict):
    """Results by relevance_score, then similarity, then order of the request."""

    id: str
    """of the request"""
    model: str
    results: list[RerankResult]


class RerankResult(TypedDict):
    """A document and its scores."""

    clip: RerankedClip
    document: DocumentRef | str | None
    """with `return_documents`, else null"""
    fused: float | None
    """similarity and match combined, 0 to 1; null if match is"""
    index: int
    """of the document in the request"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null for a clip without visual
    tokens"""
    relevance_score: float
    """fused; 0 for a clip without visual tokens, which cannot be scored"""
    similarity: float
    """cosine of the embeddings of query and clip, -1 to 1"""


class RerankedClip(TypedDict):
    """The clip that was scored; of a video, its best one."""

    clip_id: str
    end: float
    """seconds"""
    start: float
    """seconds"""
    video_id: str


class ScoreResponse(TypedDict):
    """Scores in the order of the captions."""

    end: float
    """seconds"""
    modalities: list[Literal["visual", "audio"]]
    """what of the clip the model has used: its pictures and, if it has sound and the model matches and answers by
    sound, that; similarity and emscore are of the pictures alone"""
    scores: list[CaptionScore]
    start: float
    """seconds"""
    video: Video | None
    """null for an uploaded file"""


class SearchResponse(TypedDict):
    """A page of results, best first: reranked ones by fused score, then the others."""

    changed: bool
    """whether the collection has changed since the previous page: deleted clips are omitted, and new ones appear in
    a new search"""
    next_cursor: str | None
    """`cursor` of the next page; null on the last page"""
    results: list[SearchResult]
    text: str | None
    """of the request; null for a query of parts"""
    warnings: list[SearchWarning]
    """on the first page"""


class SearchResult(TypedDict):
    """A clip, an event or a video. Of the latter two `clip_id`, text, scores and places are those of the best clip;
    start and end are those of the whole event."""

    clip_count: int | None
    """number of its clips; null for a clip"""
    clip_id: str
    clips: list[ClipHit] | None
    """its clips, best first; null for a clip"""
    conditions: list[Condition] | None
    """the texts of the query; null where it has fewer than two, or the bundle has no calibration of similarity"""
    end: float
    """seconds"""
    fused: float | None
    """similarity and match combined, 0 to 1; null where it was not reranked"""
    match: float | None
    """calibrated probability, by the fusion model, that the text describes the clip; null where it was not
    reranked"""
    media_url: str
    """plays the clip: the file with #t=start,end"""
    modalities: list[Literal["visual", "audio"]]
    """what it has embeddings of, by which it can be compared: pictures (visual), sound (audio)"""
    relevance: float | None
    """probability that the clip fits the query: fused if it was reranked, else the calibrated similarity; at least
    the word score of a clip that contains most words of the query; with several texts, that of the condition which
    it is least likely to meet; null if it was not reranked and the bundle has no calibration of similarity, or the
    query has clips or files"""
    screen_text: str
    """what is written in its pictures; empty where nothing is known"""
    signals: dict[str, SignalScore]
    """why it was returned: its ranks by signal"""
    similarity: float
    """cosine of the embeddings of query and clip, -1 to 1"""
    start: float
    """seconds"""
    text: str
    """what is said in it; empty where nothing is known"""
    thumbnail_url: str
    video: Video


class SearchWarning(TypedDict):
    """A reason not to trust the results of a search."""

    code: Literal["no_good_match", "language"]
    """no_good_match: no result has a relevance of at least 0.25; language: the model does not know the language of
    the query"""
    detail: str
    """a sentence"""


class ShardsSource(TypedDict):
    """WebDataset shards: tar archives of media files with JSON and text files."""

    kind: Literal["shards"]
    shards: list[str]
    """in an allowed root"""


class SignalScore(TypedDict):
    """How well a clip fits the query by one signal."""

    matches: list[TextMatch]
    """words that match; empty for visual and audio"""
    rank: int
    """by this signal, from 1"""
    score: float
    """visual, audio: cosine, -1 to 1; others: score of the words, 0 to 1"""


class TextMatch(TypedDict):
    """Adjacent words of the query, where they are spoken or shown."""

    box: list[float] | None
    """left, top, right and bottom of words shown, as shares of width and height; null otherwise"""
    end: float
    """seconds; of words of a name, the clip's"""
    start: float
    """seconds; of words of a name, the clip's"""
    text: str


class TextMoments(TypedDict):
    """Moments of one text."""

    moments: list[Moment]
    """highest score first; there are some even if the text is true of nothing, with low scores"""
    saliency: list[float]
    """probability that the text is true of each window, in the order of `times`"""
    text: str


class TranscribedSegment(TypedDict):
    """What is said in a span."""

    avg_logprob: float | None
    """logarithm of confidence"""
    compression_ratio: float | None
    confidence: float | None
    """null if the model states none"""
    end: float
    """seconds"""
    id: int
    language: str | None
    """ISO 639-1 code, if it is known"""
    no_speech_prob: float | None
    seek: int
    """0, for compatibility, as the fields below"""
    start: float
    """seconds"""
    temperature: float
    text: str
    tokens: list[int]


class TranscribedWord(TypedDict):
    """A word and when it is spoken."""

    end: float
    """seconds"""
    start: float
    """seconds"""
    word: str


class Transcription(TypedDict):
    """What is said in a file: OpenAI's `verbose_json`."""

    duration: float
    """seconds"""
    language: str | None
    """ISO 639-1 code; null if unknown, or if there are several"""
    model: str
    segments: list[TranscribedSegment] | None
    """null unless requested"""
    task: str
    text: str
    words: list[TranscribedWord] | None
    """null unless requested"""


class UpdatedVideo(TypedDict):
    """A video after changes."""

    added_at: float
    """Unix seconds"""
    changes: list[str]
    """what changed: title, metadata, subtitles"""
    clips: int
    """number of clips"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    missing: bool
    """the file is gone: moved, deleted, or on a drive that is not mounted; false where the drive does not answer
    within half a second"""
    notes: list[str]
    """notes on its subtitles"""
    path: str | None
    """absolute path of the file on the machine that indexed it; the URL, or tar://MEMBER::ARCHIVE, where the file
    was copied from there; null for an upload"""
    thumbnail_url: str
    """JPEG; `t`: seconds"""
    title: str
    width: int
    """pixels"""


class UploadSource(TypedDict):
    """An uploaded file. Only in responses: uploads create such jobs."""

    file: str
    """its name at the client"""
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
    """Text tokens, special ones included; pictures, videos and sounds have none."""

    prompt_tokens: int
    total_tokens: int


class Video(TypedDict):
    """A whole file."""

    added_at: float
    """Unix seconds"""
    clips: int
    """number of clips"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    missing: bool
    """the file is gone: moved, deleted, or on a drive that is not mounted; false where the drive does not answer
    within half a second"""
    path: str | None
    """absolute path of the file on the machine that indexed it; the URL, or tar://MEMBER::ARCHIVE, where the file
    was copied from there; null for an upload"""
    thumbnail_url: str
    """JPEG; `t`: seconds"""
    title: str
    width: int
    """pixels"""


class VideoWithClips(TypedDict):
    """A video and its clips in order."""

    added_at: float
    """Unix seconds"""
    clips: int
    """number of clips"""
    content_sha256: str
    duration: float
    """seconds; 0 for a picture"""
    height: int
    """pixels"""
    id: str
    media_type: str
    media_url: str
    metadata: dict[str, str | bool | int | float]
    missing: bool
    """the file is gone: moved, deleted, or on a drive that is not mounted; false where the drive does not answer
    within half a second"""
    path: str | None
    """absolute path of the file on the machine that indexed it; the URL, or tar://MEMBER::ARCHIVE, where the file
    was copied from there; null for an upload"""
    spans: list[ClipSpan]
    thumbnail_url: str
    """JPEG; `t`: seconds"""
    title: str
    width: int
    """pixels"""


class Videos(TypedDict):
    """A page of videos, in the order in which they were added."""

    next_cursor: str | None
    """`cursor` of the next page; null on the last page"""
    videos: list[Video]


class Webhook(TypedDict):
    """A webhook, without its secret."""

    created_at: float
    events: list[Literal["job.succeeded", "job.failed", "job.cancelled"]]
    id: str
    previous_secret_until: float | None
    """until then, messages are also signed with the previous secret"""
    url: str


class Webhooks(TypedDict):
    """All webhooks, oldest first."""

    webhooks: list[Webhook]


class WordEvidence(TypedDict):
    """A word of a caption, and the frame that shows it best."""

    similarity: float
    """cosine of the word and that frame"""
    time: float
    """seconds of that frame"""
    weight: float
    """0 for English function words such as `the` and `of`, else 1"""
    word: str
