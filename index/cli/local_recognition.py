"""Recognition of speech and screen text, and captions, in a data folder, for commands."""

from __future__ import annotations

import logging
import os
from typing import Self, Unpack

from index.cli.backend import JSON, OnProgress
from index.cli.recognition_options import with_absolute_model
from index.collection import Collection
from index.jobs.captioning import VideoCaptioning, check_caption_task
from index.jobs.recognition import VideoRecognition, VideoTextTask, recognize_collection, requested_kinds
from index.jobs.recognition_settings import (
    RecognitionChanges,
    RecognitionSettings,
    merge_settings,
    read_recognition_settings,
)
from vitascope.media.limits import read_media_limits
from vitascope.model import Model
from vitascope.sandbox.recognizers import DEFAULT_MODEL, Recognizers, read_configured
from vitascope.screen_text.reading import check_interval


class LocalRecognition:
    """Recognition and captioning for commands; a context manager that ends the recogniser processes."""

    def __init__(self, threads: int) -> None:
        """``threads``: threads of each engine; 0: one per core."""
        logging.getLogger("vitascope.sandbox").setLevel(logging.CRITICAL)  # commands print errors themselves
        self.recognizers = Recognizers(read_configured(os.environ), threads=threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.recognizers.close()

    def job_settings(self, collection: Collection, **changes: Unpack[RecognitionChanges]) -> RecognitionSettings:
        """Return the recognition settings of a job: its arguments, else the collection's. Raises InvalidInput."""
        return merge_settings(read_recognition_settings(collection), **with_absolute_model(changes))

    def wait_until_ready(self, settings: RecognitionSettings, model: Model) -> None:
        """Wait for the recognisers that a job needs, and check that ``model`` can generate the captions it needs.

        Raises InvalidInput, DecodingUnavailable and TaskMissing with the reason.
        """
        if settings.caption:
            check_caption_task(model.bundle.manifest)
        for kind, name, _ in requested_kinds(settings):
            self.recognizers.get(kind, name).wait_until_ready()

    def transcribe(
        self, collection: Collection, on_progress: OnProgress, model: str | None, includes_subtitled: bool
    ) -> JSON:
        """Recognise the speech of videos that lack it; return JSON with ``recognized``, ``failed`` and ``failures``."""
        name = model or read_recognition_settings(collection).transcribe or DEFAULT_MODEL
        limits = read_media_limits(os.environ)
        return _summarize(
            VideoRecognition(
                collection, self.recognizers, "speech", name, includes_subtitled=includes_subtitled, limits=limits
            ),
            on_progress,
        )

    def read_text(self, collection: Collection, on_progress: OnProgress, interval: float) -> JSON:
        """Read the screen text of videos; see ``transcribe``."""
        check_interval(interval)
        limits = read_media_limits(os.environ)
        return _summarize(
            VideoRecognition(collection, self.recognizers, "screen_text", interval=interval, limits=limits), on_progress
        )

    def caption(self, collection: Collection, on_progress: OnProgress, model: Model) -> JSON:
        """Generate captions of the clips of videos; see ``transcribe``."""
        return _summarize(VideoCaptioning(collection, model, read_media_limits(os.environ)), on_progress)


def _summarize(task: VideoTextTask, on_progress: OnProgress) -> JSON:
    result = recognize_collection(task, on_progress)
    failures = [{"file": video.path, "reason": reason} for video, reason in result.failed]
    return {"recognized": result.recognized, "failed": len(failures), "failures": failures}
