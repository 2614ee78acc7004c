"""Execution of a job's items: dependencies of a run, the interface of execution backends, and the local backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self

from index.clips.segmentation import segment_by_transcript
from index.collection import Collection
from index.jobs.captioning import VideoCaptioning
from index.jobs.ingest import IngestResult, PreparedFile, check_unchanged, hash_file, prepare_item, store_video
from index.jobs.pipeline import ItemResult, Pipeline, PipelineConfig
from index.jobs.pipeline_stages import RecognitionStage, RecognitionStages, StageTimer
from index.jobs.recognition import (
    NAMES,
    JobRecognition,
    RecognitionDeferred,
    VideoRecognition,
    VideoTextTask,
    process_video,
)
from index.jobs.records import ItemProgress, Job, JobItem
from index.jobs.refresh import refresh_known
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import Fetcher
from index.recognitions import load_recognitions
from index.records import NewClip
from vitascope.errors import VideoNotFound
from vitascope.media.file import MediaFile
from vitascope.media.limits import MediaLimits
from vitascope.model import Model
from vitascope.sandbox.pool import TaskContext


@dataclass(frozen=True, slots=True)
class RunContext:
    """Dependencies of one run of a job."""

    collection: Collection
    model: Model
    job: Job
    fetcher: Fetcher
    policy: AccessPolicy
    limits: MediaLimits
    config: PipelineConfig
    timer: StageTimer
    recognition: JobRecognition = field(default_factory=JobRecognition)

    def recognitions(self) -> list[VideoRecognition]:
        """Return the recognition tasks of the job, in the order in which they run."""
        return self.recognition.stages(self.collection, self.job.options, self.limits)

    def text_tasks(self) -> list[VideoTextTask]:
        """Return the recognition tasks of the job, followed by captioning if the job generates captions."""
        if not self.job.options.caption:
            return [*self.recognitions()]
        captioning = VideoCaptioning(self.collection, self.model, self.limits, self.recognition.interruption)
        return [*self.recognitions(), captioning]

    @property
    def segments_by_transcript(self) -> bool:
        """Whether ``transcribe_if_needed`` may transcribe a file."""
        options = self.job.options
        return options.segmentation.rule == "subtitles" and options.transcribe is not None

    def recognition_stages(self) -> RecognitionStages[JobItem]:
        """Return the pipeline stages that run the text tasks."""
        stages: dict[str, RecognitionStage] = {each.kind: _RecognitionStage(self, each) for each in self.text_tasks()}
        interrupt = partial(self.recognition.interruption.set, True)
        return RecognitionStages(stages, self.timer, self.config.in_flight, interrupt)


class Executor(Protocol):
    """Ingests files concurrently, as a context manager; used by one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, item: JobItem) -> None:
        """Start an item without waiting; the caller limits how many are in flight."""

    def results(self, timeout: float) -> list[ItemResult[JobItem]]:
        """Wait up to ``timeout`` seconds for results and return them; their videos are stored."""

    def progress(self) -> list[ItemProgress[JobItem]]:
        """Return the progress of items, where it is known."""

    def cancel(self) -> list[ItemResult[JobItem]]:
        """Stop as soon as possible; return the results that were ready by then."""


class ExecutionBackend(Protocol):
    """A backend that decodes and embeds files.

    ``is_local``: whether it runs in this process, which a damaged file may crash. The executor of any other backend
    reports a crash as ``WorkerDied``.
    """

    @property
    def is_local(self) -> bool: ...

    def executor(self, context: RunContext) -> Executor: ...


class WorkerDied(Exception):
    """The worker process that was working on an item has died, perhaps because of the item."""


class LocalBackend:
    """Decodes and embeds in threads of this process."""

    is_local = True

    def executor(self, context: RunContext) -> Executor:
        def prepare(item: JobItem) -> PreparedFile | IngestResult:
            return prepare_unless_known(context, item)

        def store(item: JobItem, prepared: PreparedFile, clips: list[NewClip]) -> IngestResult:
            check_unchanged(prepared)
            return store_video(context.collection, prepared.description, clips)

        return Pipeline(
            *(context.model, prepare, store, context.limits, context.config, context.timer),
            recognition=context.recognition_stages(),
            transcribe_item=partial(transcribe_if_needed, context),
        )


@dataclass(frozen=True, slots=True)
class _RecognitionStage:
    """A pipeline stage that runs one recognition task, or captioning, on stored videos."""

    context: RunContext
    task: VideoTextTask

    def applies(self, ingested: IngestResult) -> bool:
        try:
            if ingested.created and self.task.kind in load_recognitions(self.context.collection, ingested.video.id):
                return False  # transcribed before it was segmented
            return self.task.applies(ingested.video)
        except VideoNotFound:  # deleted meanwhile
            return False

    def recognize(
        self, ingested: IngestResult, media: MediaFile | None, on_progress: Callable[[float], None]
    ) -> IngestResult:
        if self.context.recognition.is_deferred:
            raise RecognitionDeferred
        outcome = process_video(self.task, ingested.video, media, on_progress)
        name = NAMES[self.task.kind]
        prefix = f"no {name}" if outcome.state == "failed" else name
        ingested = replace(ingested, notes=(*ingested.notes, *(f"{prefix}: {note}" for note in outcome.notes)))
        if outcome.state == "done" and not ingested.created:
            verb = "generated" if self.task.kind == "caption" else "recognised"
            return replace(ingested, changes=(*ingested.changes, f"{verb}: {name}"))
        return ingested


def prepare_unless_known(context: RunContext, item: JobItem) -> PreparedFile | IngestResult:
    """Fetch, hash, probe and segment an item's file; if the collection has its content, refresh that video instead.

    Raises InvalidInput, media errors, StorageError, FetchInterrupted.
    """
    hashed = hash_file(context.fetcher.fetch(item.path, item.position), context.limits)
    with ExitStack() as close_if_known:
        close_if_known.enter_context(hashed.media)
        known = context.collection.find_by_hash(hashed.content_sha256)
        if known is not None:
            with suppress(VideoNotFound):  # deleted meanwhile
                return refresh_known(context, item, hashed.media, known)
        close_if_known.pop_all()
    decoder, signals = context.model.decoder, context.collection.signals
    return prepare_item(hashed, item, context.job.options, context.fetcher, context.limits, decoder, signals)


def transcribe_if_needed(
    context: RunContext, prepared: PreparedFile, task: TaskContext | None = None
) -> PreparedFile | IngestResult:
    """Segment a file by the sentences of its transcript, if the job's options request a transcript and this rule.

    A file with subtitles, without sound or without speech is returned unchanged. If a file with the same content was
    stored meanwhile, ``prepared`` is closed and the result of that video is returned.

    Args:
        context: dependencies of the run.
        prepared: the file, which is closed on an error.
        task: context whose error interrupts recognition; None: a stop request of the job interrupts it.

    Raises:
        RecognitionDeferred: a later run of the job will recognise the speech.
        RecognitionInterrupted, or the error of ``task``.
    """
    description = prepared.description
    if (known := context.collection.find_by_hash(description.content_sha256)) is not None:
        prepared.media.close()
        return IngestResult(known, created=False)
    if not context.segments_by_transcript or description.segments.cues or description.info.audio is None:
        return prepared
    speech = next(each for each in context.recognitions() if each.kind == "speech")
    with ExitStack() as close_on_error:
        close_on_error.enter_context(prepared.media)
        if context.recognition.is_deferred:
            raise RecognitionDeferred
        with context.timer.measure(speech.kind):
            transcription = replace(speech, context=task or speech.context).transcribe(
                prepared.media, description.duration
            )
        segments = segment_by_transcript(
            description.segments, transcription.transcript, description.duration, context.job.options.segmentation
        )
        if (reason := transcription.recognitions["speech"].reason) is not None:
            segments = replace(segments, notes=(*segments.notes, f"no {NAMES['speech']}: {reason}"))
        close_on_error.pop_all()
    return replace(prepared, description=replace(description, segments=segments, transcription=transcription))
