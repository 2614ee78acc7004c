"""Recognition of speech and screen text in a collection's videos: as stages of a job, and for videos indexed earlier.

The result, or the reason for its failure, is stored with the video: a video on which recognition failed is searchable,
and the next call tries it again. Videos with subtitles get no transcript, as subtitles are more exact.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from index.collection import Collection
from index.jobs.ingest import IngestResult, hash_file
from index.jobs.recognition_settings import RecognitionSettings
from index.recognitions import (
    load_recognitions,
    load_speech,
    record_recognition_failure,
    store_screen_text,
    store_speech,
    videos_to_recognize,
)
from index.records import Video
from index.video_text import Recognition, RecognitionKind, VideoText, check_speech
from vitascope.errors import (
    Conflict,
    DecodingUnavailable,
    EngineError,
    InvalidInput,
    MediaError,
    TaskMissing,
    VideoNotFound,
)
from vitascope.media.file import MediaFile, map_os_errors
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.sandbox import recognition as sandbox
from vitascope.sandbox.pool import TaskContext
from vitascope.sandbox.recognition import BULK, OnProgress, ReadScreenText, Transcribe
from vitascope.sandbox.recognizers import DEFAULT_MODEL, Recognizers
from vitascope.screen_text.interface import DEFAULT_INTERVAL

if TYPE_CHECKING:
    from index.jobs.records import JobOptions

PAGE = 100
"""Number of videos that are loaded from the catalogue at a time."""
NAMES: dict[RecognitionKind, str] = {"speech": "speech", "screen_text": "screen text", "caption": "captions"}
_FILE_ERRORS = (MediaError, InvalidInput, EngineError, DecodingUnavailable, Conflict, TaskMissing)
"""Errors that are stored as the reason why recognition or captioning of a video failed."""


class RecognitionInterrupted(Exception):
    """Recognition was interrupted. ``ingested``: result of the stored video, which a later run has to recognise."""

    def __init__(self, ingested: IngestResult | None = None) -> None:
        super().__init__("interrupted")
        self.ingested = ingested


class RecognitionDeferred(RecognitionInterrupted):
    """Recognition of the video is left to a later run of the job."""


class Interruption:
    """Task context that interrupts recognition while it is set."""

    bulk = True

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self, is_set: bool) -> None:
        """Interrupt recognition (True), or allow it again (False)."""
        if is_set:
            self._event.set()
        else:
            self._event.clear()

    def cancellation_error(self, now: float) -> Exception | None:
        return RecognitionInterrupted() if self._event.is_set() else None


class Outcome(NamedTuple):
    """The outcome of recognition for one video.

    State ``skipped``: there was nothing to do. ``notes``: why recognition failed, or what was left out.
    """

    state: Literal["done", "failed", "skipped"]
    notes: tuple[str, ...] = ()


class VideoTextTask(Protocol):
    """A task that makes and stores text of one kind (speech, screen text, captions) for videos of a collection."""

    @property
    def collection(self) -> Collection: ...

    @property
    def kind(self) -> RecognitionKind: ...

    @property
    def model_name(self) -> str:
        """Name of the model before it is ready."""

    def wait_until_ready(self) -> str:
        """Return the name of the model once it is loaded.

        Raises DecodingUnavailable, Conflict, InvalidInput, TaskMissing and the error of the context.
        """

    def applies(self, video: Video) -> bool:
        """Return whether a video may contain text of this kind. Raises VideoNotFound."""

    def make_text(self, video: Video, media: MediaFile | None, on_progress: OnProgress) -> tuple[str, ...]:
        """Make and store the text of a video; return notes on what was left out. The model must be ready.

        ``media``: the file of the video if it is open; otherwise it is opened, and its content is checked.
        """


@dataclass(frozen=True, slots=True)
class VideoRecognition:
    """Recognises speech or screen text in videos of a collection.

    Attributes:
        model: model name for ``Recognizers.get``.
        interval: seconds between the frames whose text is read.
        includes_subtitled: whether speech is recognised in videos with subtitles, too.
        context: task context; its error interrupts recognition.
    """

    collection: Collection
    recognizers: Recognizers
    kind: sandbox.RecognitionKind
    model: str = DEFAULT_MODEL
    interval: float = DEFAULT_INTERVAL
    includes_subtitled: bool = False
    limits: MediaLimits = DEFAULT_LIMITS
    context: TaskContext = BULK

    @property
    def model_name(self) -> str:
        try:
            return self.recognizers.resolve(self.kind, self.model)
        except (Conflict, InvalidInput):
            return self.model

    def wait_until_ready(self) -> str:
        return self.recognizers.get(self.kind, self.model).wait_until_ready(self.context)

    def transcribe(self, media: MediaFile, duration: float) -> VideoText:
        """Transcribe a file of ``duration`` seconds that is not stored yet; return transcript and recognition record.

        If recognition failed, the transcript is empty. Raises the error of the context.
        """
        name = self.model
        try:
            recognizer = self.recognizers.get("speech", self.model)
            name = recognizer.model
            name = recognizer.wait_until_ready(self.context)
            request = Transcribe(duration, limits=self.limits, time_factor=recognizer.time_factor)
            segments = recognizer.transcribe(request, media, self.context)
            transcript = check_speech(segments)
        except _FILE_ERRORS as error:
            return VideoText(recognitions={"speech": Recognition(name, "failed", str(error), time.time())})
        return VideoText(
            transcript=transcript, recognitions={"speech": Recognition(recognizer.name, "done", None, time.time())}
        )

    def applies(self, video: Video) -> bool:
        """Return whether recognition applies: sound files have no screen text, images no speech.

        Raises VideoNotFound.
        """
        if self.kind == "screen_text":
            return video.width > 0
        if video.duration == 0:
            return False
        return self.includes_subtitled or not load_speech(self.collection, video.id, "subtitles")

    def make_text(self, video: Video, media: MediaFile | None, on_progress: OnProgress) -> tuple[str, ...]:
        if media is None:
            with open_unchanged(self.collection, video, self.limits) as opened:
                return self.make_text(video, opened, on_progress)
        recognizer = self.recognizers.get(self.kind, self.model)
        limits, time_factor = self.limits, recognizer.time_factor
        if self.kind == "speech":
            transcribe = Transcribe(video.duration, limits=limits, time_factor=time_factor)
            segments = recognizer.transcribe(transcribe, media, self.context, on_progress)
            store_speech(self.collection, video.id, segments, model=recognizer.name)
            return ()
        read = ReadScreenText(video.duration, self.interval, limits=limits, time_factor=time_factor)
        shown = recognizer.run(read, media, self.context, on_progress)
        store_screen_text(self.collection, video.id, shown.spans, recognizer.name)
        return shown.notes


def process_video(
    task: VideoTextTask, video: Video, media: MediaFile | None, on_progress: OnProgress = lambda share: None
) -> Outcome:
    """Make and store the text of a video unless the model has done so before; on failure, store the reason.

    ``media``: see ``VideoTextTask.make_text``. Raises StorageError, CollectionNotFound and the error of the task's
    context.
    """
    name = task.model_name
    try:
        if not task.applies(video):
            return Outcome("skipped")
        name = task.wait_until_ready()
        last = load_recognitions(task.collection, video.id).get(task.kind)
        if last is not None and (last.model, last.state) == (name, "done"):
            return Outcome("skipped")
        return Outcome("done", task.make_text(video, media, on_progress))
    except VideoNotFound:  # deleted meanwhile
        return Outcome("skipped")
    except _FILE_ERRORS as error:
        try:
            record_recognition_failure(task.collection, video.id, task.kind, name, str(error))
        except VideoNotFound:
            return Outcome("skipped")
        return Outcome("failed", (str(error),))


def open_unchanged(collection: Collection, video: Video, limits: MediaLimits) -> MediaFile:
    """Open the file of a video. Raises media errors, also if its content has changed since it was indexed."""
    with map_os_errors(collection.media_path(video)):
        media = collection.media.open(video)
    hashed = hash_file(media, limits)
    if hashed.content_sha256 != video.content_sha256:
        media.close()
        raise MediaError(f"{media.name}: has other content than when it was indexed; the same was expected")
    return media


@dataclass(frozen=True, slots=True)
class JobRecognition:
    """Dependencies of the recognition stages of a job.

    ``is_deferred``: whether recognition is left to a later run, so that this run ends once its videos are stored.
    """

    recognizers: Recognizers = field(default_factory=lambda: Recognizers({}, is_restricted=True))
    interruption: Interruption = field(default_factory=Interruption)
    is_deferred: bool = False

    def stages(self, collection: Collection, options: JobOptions, limits: MediaLimits) -> list[VideoRecognition]:
        """Return the recognition tasks that the options of a job request, in the order in which they run."""
        settings = RecognitionSettings(options.transcribe, options.read_text)
        return [
            VideoRecognition(
                collection, self.recognizers, kind, model, interval, limits=limits, context=self.interruption
            )
            for kind, model, interval in requested_kinds(settings)
        ]


def requested_kinds(settings: RecognitionSettings) -> Iterator[tuple[sandbox.RecognitionKind, str, float]]:
    """Yield kind, model and interval (s) of each recogniser that the settings request."""
    if settings.transcribe is not None:
        yield "speech", settings.transcribe, DEFAULT_INTERVAL
    if settings.read_text is not None:
        yield "screen_text", DEFAULT_MODEL, settings.read_text


def check_recognizers(settings: RecognitionSettings, recognizers: Recognizers) -> None:
    """Raise Conflict or InvalidInput if the settings request a recogniser that is not available here."""
    for kind, model, _ in requested_kinds(settings):
        recognizers.resolve(kind, model)


class RecognitionSummary(NamedTuple):
    """Number of videos that a call recognised, and the videos on which it failed, with reasons."""

    recognized: int
    failed: list[tuple[Video, str]]


def recognize_collection(
    recognition: VideoTextTask, on_video: Callable[[float, int, str], None] = lambda *_: None
) -> RecognitionSummary:
    """Recognise or caption the videos of a collection that the model has not processed, or on which it failed.

    Each result is stored at once, so the next call continues an interrupted one.

    Args:
        recognition: the task to run.
        on_video: called with the number of finished videos (parts of long videos count as fractions), the number of all
            videos, and the title of the current one.

    Raises:
        DecodingUnavailable: the model cannot be loaded.
        Conflict, InvalidInput: no model is configured, or the model may not be used here.
        TaskMissing: the bundle cannot generate captions.
        CollectionNotFound, StorageError, the error of the context, and what ``on_video`` raises.
    """
    collection, kind = recognition.collection, recognition.kind
    name = recognition.wait_until_ready()
    total = sum(1 for _ in _pending_videos(collection, kind, name))
    recognized, failed = 0, []
    for done, video in enumerate(_pending_videos(collection, kind, name)):

        def report(share: float, done: int = done, title: str = video.title) -> None:
            on_video(done + share, max(total, done + 1), title)

        outcome = process_video(recognition, video, None, report)
        recognized += outcome.state == "done"
        if outcome.state == "failed":
            failed.append((video, "; ".join(outcome.notes)))
        report(1.0)
    return RecognitionSummary(recognized, failed)


def _pending_videos(collection: Collection, kind: RecognitionKind, model: str) -> Iterator[Video]:
    after = 0
    while page := videos_to_recognize(collection, kind, model, PAGE, after):
        yield from page
        after = page[-1].id
