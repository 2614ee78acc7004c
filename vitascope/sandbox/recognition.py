"""Recognition of speech and screen text in confined processes: its operations, and the pools that run them.

A process of these pools confines itself, loads one engine and then decodes and recognises one file at a time, so that
neither a file nor a model reaches the network or writes a file, and a defect of an engine ends one task alone.
"""

from __future__ import annotations

import logging
import math
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from vitascope.errors import DecodingUnavailable
from vitascope.media.decode import probe
from vitascope.media.file import MediaFile
from vitascope.sandbox.operations import LARGE_HEADER, Bytes, Request, Response
from vitascope.sandbox.pool import DecodingPool, MetricsObserver, TaskContext, UncancellableTask
from vitascope.sandbox.protocol import ProtocolError
from vitascope.sandbox.response_values import check_items, check_number, check_row, check_text
from vitascope.sandbox.supervisor import POLL_SECONDS
from vitascope.screen_text.interface import TextReader, TextSpan
from vitascope.speech.interface import (
    BLOCK_SECONDS,
    SpeechPart,
    SpeechRecognizer,
    SpeechSegment,
    SpokenWord,
    transcribe_parts,
)

T = TypeVar("T")
RecognitionKind = Literal["speech", "screen_text"]
KINDS: tuple[RecognitionKind, ...] = ("speech", "screen_text")
RecognizerState = Literal["starting", "ready", "failed"]
OnProgress = Callable[[float], None]
"""Callback with the progress, 0 to 1."""

MEMORY_BYTES = 4 * 1024**3
"""Bytes of address space that a process may use for files, in addition to its engine."""
TIME_FACTOR = 10.0
"""Seconds that recognition may take for each second of a file."""
BASE_SECONDS = 60.0
"""Seconds that recognition may take for the shortest file."""
PART_SECONDS = 5.0
"""Seconds of processing after which a part of a file ends, so that requests do not wait for a long file."""
START_SECONDS = 600.0
"""Maximum seconds to load a model."""
NICENESS = 10
"""Niceness of recognition processes, so that decoding and searches take precedence."""
MODULE = "vitascope.sandbox.recognition_main"
BULK = UncancellableTask(bulk=True)
_MAX_SEGMENTS = 1_000_000
_MIN_PART = 1.0
"""Shortest part (s) that another follows."""
_MAX_TEXT = 100_000
"""Characters."""
_MAX_NAME = 200
_MAX_NOTE, _MAX_NOTES = 300, 5
"""Characters of a note on a file, and notes."""


@dataclass(frozen=True)
class RecognitionTask(Request[T]):
    """Recognition in one file of ``duration`` seconds, 0 for a picture."""

    max_header_bytes: ClassVar[int] = LARGE_HEADER

    duration: float
    time_factor: float = field(default=TIME_FACTOR, kw_only=True)
    """Maximum processing seconds per second of the file."""

    @property
    def extra_seconds(self) -> float:
        return self.time_factor * self.duration

    def run(self, file: MediaFile) -> T:
        raise NotImplementedError("recognition needs an engine")

    @abstractmethod
    def recognize(self, engine: Any, file: MediaFile, on_progress: OnProgress) -> T:
        """Run the engine in this process. Raises media errors, InvalidInput and EngineError."""


@dataclass(frozen=True)
class Transcribe(RecognitionTask[SpeechPart]):
    """Recognise what is said in the part of a file from ``start`` (s) on: nothing in a file without sound.

    ``language``: ISO 639-1 code; None: the model detects it, where it can.
    """

    operation: ClassVar[str] = "transcribe"
    actor: ClassVar[str] = "speech recogniser"
    activity: ClassVar[str] = "recognising the speech in"

    language: str | None = None
    start: float = 0.0
    stop: float | None = None
    """Second at which the sound of the file ends, as an earlier part states it; None: find out."""

    @property
    def extra_seconds(self) -> float:
        return self.time_factor * min(self.duration, BLOCK_SECONDS)

    def recognize(self, engine: SpeechRecognizer, file: MediaFile, on_progress: OnProgress) -> SpeechPart:
        segments: list[SpeechSegment] = []
        if self.stop is None and probe(file, self.limits).audio is None:
            return SpeechPart(segments, 0.0, 0.0)
        end = stop = self.start
        latest = time.monotonic() + PART_SECONDS
        parts = transcribe_parts(
            engine, file, language=self.language, start=self.start, stop=self.stop, limits=self.limits
        )
        for part in parts:
            segments += part.segments
            end, stop = part.end, part.stop
            on_progress(end / stop)
            if time.monotonic() >= latest:
                break
        return SpeechPart(segments, end, stop)

    def encode_result(self, result: SpeechPart) -> Response:
        rows = [
            [
                *(float(segment.start), float(segment.end), segment.text, segment.language),
                None if segment.confidence is None else float(segment.confidence),
                [[word.text, float(word.start), float(word.end)] for word in segment.words],
            ]
            for segment in result.segments
        ]
        return [rows, float(result.end), float(result.stop)], []

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> SpeechPart:
        rows, end, stop = check_row(value, 3)
        stop = check_number(stop, self.limits.max_seconds if self.stop is None else self.stop)
        if check_number(end, stop) < min(stop, self.start + _MIN_PART):
            raise ProtocolError(f"end: {end}; at least {_MIN_PART} s after {self.start} was expected")
        return SpeechPart([_segment(*check_row(row, 6)) for row in check_items(rows, _MAX_SEGMENTS)], end, stop)


class ScreenText(NamedTuple):
    """Lines on screen, and the limits at which reading left some out."""

    spans: list[TextSpan]
    notes: tuple[str, ...]


class _Notes(logging.Handler):
    """The different warnings of ``vitascope.screen_text`` while it is a context; confined processes have no log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.messages) < _MAX_NOTES:
            self.messages[record.getMessage()[:_MAX_NOTE]] = None

    def __enter__(self) -> Self:
        logging.getLogger("vitascope.screen_text").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("vitascope.screen_text").removeHandler(self)


@dataclass(frozen=True)
class ReadScreenText(RecognitionTask[ScreenText]):
    """Read the text on screen, at one frame every ``interval`` seconds."""

    operation: ClassVar[str] = "read_screen_text"
    actor: ClassVar[str] = "text reader"
    activity: ClassVar[str] = "reading the text in"

    interval: float = 1.0

    def recognize(self, engine: TextReader, file: MediaFile, on_progress: OnProgress) -> ScreenText:
        from vitascope.screen_text.reading import read_screen_text

        def report(seconds: float, duration: float) -> None:
            on_progress(min(1.0, seconds / duration) if duration else 0.0)

        with _Notes() as notes:
            spans = read_screen_text(engine, file, limits=self.limits, interval=self.interval, on_progress=report)
        return ScreenText(spans, tuple(notes.messages))

    def encode_result(self, result: ScreenText) -> Response:
        rows = [
            [
                *(span.text, float(span.start), float(span.end)),
                *([float(edge) for edge in span.box], float(span.confidence)),
            ]
            for span in result.spans
        ]
        return [rows, list(result.notes)], []

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> ScreenText:
        rows, notes = check_row(value, 2)
        spans = [_text_span(*check_row(row, 5)) for row in check_items(rows, _MAX_SEGMENTS)]
        return ScreenText(spans, tuple(check_text(note, _MAX_NOTE) for note in check_items(notes, _MAX_NOTES)))


OPERATIONS: dict[str, type[Request[Any]]] = {request.operation: request for request in (Transcribe, ReadScreenText)}


def open_engine(kind: RecognitionKind, model: str, threads: int) -> SpeechRecognizer | TextReader:
    """Load the engine of a kind in this process; ``threads``: 0: one per core. Raises InvalidInput and EngineError."""
    if kind == "speech":
        from vitascope.speech.interface import open_recognizer

        return open_recognizer(model, threads=threads, device="cpu")
    from vitascope.screen_text.reading import open_text_reader

    return open_text_reader(model, threads=threads, device="cpu")


class Recognizer:
    """An engine in a confined process, which is replaced when it is killed. Safe to use from many threads."""

    def __init__(
        self,
        kind: RecognitionKind,
        model: str,
        *,
        threads: int = 0,
        memory_bytes: int = MEMORY_BYTES,
        time_factor: float = TIME_FACTOR,
        observer: MetricsObserver | None = None,
        module: str = MODULE,
    ) -> None:
        """Create the recogniser without starting its process.

        Args:
            kind: What it recognises.
            model: As ``open_engine``.
            threads: Of the engine; 0: one per core.
            memory_bytes: Address space for the files, beyond the engine.
            time_factor: Seconds that each second of a file may take, besides ``BASE_SECONDS``.
            observer: Receives metrics.
            module: Module that the process runs.
        """
        self.kind = kind
        self.model = model
        self.time_factor = time_factor
        self._threads = threads or os.cpu_count() or 1
        self._is_closed = False
        path = os.path.expanduser(model)  # the process knows no home folder
        setup = {"kind": kind, "model": path, "threads": threads, "niceness": NICENESS}
        setup |= {"process": f"{kind.replace('_', ' ')} recognition", "start_timeout": START_SECONDS}
        self._pool = DecodingPool(
            1, memory_bytes=memory_bytes, seconds=BASE_SECONDS, observer=observer, module=module, setup=setup
        )

    def start(self) -> None:
        """Start the process in the background; tasks wait for it."""
        self._pool.start()

    def close(self) -> None:
        """Kill the process, if it was started."""
        self._is_closed = True
        self._pool.close()

    @property
    def state(self) -> RecognizerState:
        """State of the engine: starting, ready or failed."""
        if self._pool.loaded:
            return "ready"
        return "failed" if self.error is not None else "starting"

    @property
    def error(self) -> str | None:
        """Reason why the engine cannot be loaded; None if it is, or is being loaded."""
        return self._pool.start_error

    @property
    def name(self) -> str:
        """Name of engine and model once loaded; before, the requested model."""
        return str(self._pool.loaded.get("name", self.model))

    def wait_until_ready(self, context: TaskContext = BULK) -> str:
        """Wait until the engine is loaded, and return its name.

        Raises DecodingUnavailable with the reason, and the cancellation error of ``context``.
        """
        while not self._pool.loaded:
            if self._pool.start_error is not None or self._is_closed:
                raise self._unavailable()
            if (error := context.cancellation_error(time.monotonic())) is not None:
                raise error
            time.sleep(POLL_SECONDS)
        return self.name

    def run(
        self,
        request: RecognitionTask[T],
        file: MediaFile,
        context: TaskContext = BULK,
        on_progress: OnProgress = lambda share: None,
    ) -> T:
        """Run a recognition request on a file.

        Raises:
            VitascopeError: An error of the file or the engine; MediaCorrupt or MediaTooLarge for a file that crashes
                the engine or takes too long; the error of ``context``.
            DecodingUnavailable: The engine cannot be loaded, or the recogniser is closed.
        """
        if self._pool.start_error is not None:
            raise self._unavailable()
        request = replace(request, threads=self._threads)  # by which the limit on processor time grows
        return self._pool.run(request, file, context, on_progress)

    def transcribe(
        self,
        request: Transcribe,
        file: MediaFile,
        context: TaskContext = BULK,
        on_progress: OnProgress = lambda share: None,
    ) -> list[SpeechSegment]:
        """Transcribe a file part by part; other tasks may run between parts. Raises the errors of ``run``."""
        part = self.run(request, file, context, on_progress)
        segments = part.segments
        while part.end < part.stop:
            part = self.run(replace(request, start=part.end, stop=part.stop), file, context, on_progress)
            segments += part.segments
        return segments

    def _unavailable(self) -> DecodingUnavailable:
        return DecodingUnavailable(f"{self.model}: {self._pool.start_error or 'closed'}")


def _segment(start: Any, end: Any, text: Any, language: Any, confidence: Any, words: Any) -> SpeechSegment:
    return SpeechSegment(
        check_number(start, math.inf),
        check_number(end, math.inf),
        check_text(text, _MAX_TEXT),
        None if language is None else check_text(language, _MAX_NAME),
        None if confidence is None else check_number(confidence, 1.0),
        tuple(_word(*check_row(word, 3)) for word in check_items(words, _MAX_SEGMENTS)),
    )


def _word(text: Any, start: Any, end: Any) -> SpokenWord:
    return SpokenWord(check_text(text, _MAX_TEXT), check_number(start, math.inf), check_number(end, math.inf))


def _text_span(text: Any, start: Any, end: Any, box: Any, confidence: Any) -> TextSpan:
    left, top, right, bottom = (check_number(edge, 1.0) for edge in check_row(box, 4))
    return TextSpan(
        check_text(text, _MAX_TEXT),
        check_number(start, math.inf),
        check_number(end, math.inf),
        (left, top, right, bottom),
        check_number(confidence, 1.0),
    )
