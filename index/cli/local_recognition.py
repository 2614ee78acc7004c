"""Recognition of speech and screen text in a data folder, for commands."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Any, Self

from index.cli.backend import JSON, OnProgress
from index.collection import Collection
from index.jobs.recognition import VideoRecognition, recognize_collection, requested_kinds
from index.jobs.recognition_settings import (
    RecognitionSettings,
    merge_settings,
    read_recognition_settings,
    write_recognition_settings,
)
from vitascope.media.limits import read_media_limits
from vitascope.sandbox.recognizers import DEFAULT_MODEL, Recognizers, read_configured


class LocalRecognition:
    """The recognisers of a command, and what it does with them; a context manager, which ends their processes."""

    def __init__(self, threads: int) -> None:
        """``threads``: of each engine; 0: one per core."""
        logging.getLogger("vitascope.sandbox").setLevel(logging.CRITICAL)  # commands print errors themselves
        self.recognizers = Recognizers(read_configured(os.environ), threads=threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.recognizers.close()

    def job_settings(
        self, collection: Collection, transcribe: bool | str | None, read_text: bool | float | None
    ) -> RecognitionSettings:
        """Return what a job recognises: what its arguments say, or else the collection. Raises InvalidInput."""
        return merge_settings(read_recognition_settings(collection), transcribe, read_text)

    def store_settings(
        self, collection: Collection, transcribe: bool | str | None, read_text: bool | float | None
    ) -> None:
        """Store what the jobs of a collection recognise; None: it stays. Raises InvalidInput."""
        if transcribe is not None or read_text is not None:
            write_recognition_settings(collection, self.job_settings(collection, transcribe, read_text))

    def wait_until_ready(self, settings: RecognitionSettings) -> None:
        """Wait for the recognisers that a job needs. Raises InvalidInput and DecodingUnavailable with the reason."""
        for kind, model, _ in requested_kinds(settings):
            self.recognizers.get(kind, model).wait_until_ready()

    def transcribe(
        self, collection: Collection, on_progress: OnProgress, model: str | None, includes_subtitled: bool
    ) -> JSON:
        """Recognise the speech of videos that are not recognised; return ``recognized``, ``failed``, ``failures``."""
        name = model or read_recognition_settings(collection).transcribe or DEFAULT_MODEL
        return self._recognize(
            collection, on_progress, kind="speech", model=name, includes_subtitled=includes_subtitled
        )

    def read_text(self, collection: Collection, on_progress: OnProgress, interval: float) -> JSON:
        """Read the screen text of videos, as ``transcribe``."""
        return self._recognize(collection, on_progress, kind="screen_text", interval=interval)

    def _recognize(self, collection: Collection, on_progress: OnProgress, **options: Any) -> JSON:
        limits = read_media_limits(os.environ)
        recognition = VideoRecognition(collection, self.recognizers, limits=limits, **options)
        result = recognize_collection(recognition, on_progress)
        failures = [{"file": video.path, "reason": reason} for video, reason in result.failed]
        return {"recognized": result.recognized, "failed": len(failures), "failures": failures}
