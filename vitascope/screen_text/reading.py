"""Reading of the text on screen of a file: frames are sampled when the picture changes, lines are merged to spans."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from vitascope.engines.onnx_runtime import Device
from vitascope.errors import InvalidInput
from vitascope.media.changes import changed_frames
from vitascope.media.decode import probe
from vitascope.media.file import MediaSource, open_source
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.screen_text.interface import DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL, TextReader, TextSpan
from vitascope.screen_text.rapid_ocr import (
    DETECTION_SIDE,
    RapidOcrReader,
    folder_models,
    wheel_models,
)
from vitascope.screen_text.spans import SpanTracker

DEFAULT_MODEL = "rapidocr"
FRAME_SIDE = 1920
"""Maximum length of the longer side in pixels; larger frames are scaled down before they are read."""
MAX_SPANS = 50_000
"""Maximum number of spans per file; then reading stops."""
_TIME_TOLERANCE = 1e-6

_logger = logging.getLogger(__name__)


def open_text_reader(
    model: str = DEFAULT_MODEL,
    *,
    threads: int = 0,
    device: Device = "auto",
    detection_side: int = DETECTION_SIDE,
) -> TextReader:
    """Load an engine that reads text. Nothing is downloaded.

    Args:
        model: "rapidocr" for the models in RapidOCR's wheel, or a folder with another PP-OCR model, as
            ``rapid_ocr.folder_models``.
        threads: Threads within an operator; 0: one per core.
        device: As in ``OnnxRuntimeEngine``.
        detection_side: As in ``RapidOcrReader``.

    Raises:
        InvalidInput: There is no such model, a value is out of range, or RapidOCR is not installed.
        EngineError: The device cannot be used.
        BundleCorrupt: A graph is not valid.
    """
    models = wheel_models() if model == DEFAULT_MODEL else folder_models(Path(model).expanduser())
    return RapidOcrReader(models, threads=threads, device=device, detection_side=detection_side)


def read_screen_text(
    reader: TextReader,
    media: MediaSource,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    interval: float = DEFAULT_INTERVAL,
    on_progress: Callable[[float, float], None] | None = None,
) -> list[TextSpan]:
    """Return the text on screen of a file, ordered by time, then from top to bottom.

    A span begins at the first sample that shows a line and ends at the first that does not, or at the end of the file,
    so that both are right to ``interval``. The spans of a still picture are from 0 to 0.

    Args:
        reader: Engine.
        media: Video, animation or picture. It is decoded in this process; ``sandbox.recognition`` confines one.
        limits: Limits on the file.
        interval: Seconds between the frames that are examined; only those that differ visibly are read.
        on_progress: Called with the seconds read so far and the duration before each frame; may raise to stop.

    Raises:
        InvalidInput: ``interval`` is out of range.
        MediaUnsupported, MediaCorrupt, MediaTooLarge, MediaError: The file has no pictures or cannot be decoded.
        EngineError: The engine failed.
    """
    check_interval(interval)
    with open_source(media) as file:
        info = probe(file, limits)
        info.require_pictures(file.name)
        # The end of the video is not sampled, as it shows the previous frame.
        count = max(1, math.ceil(info.duration / interval - _TIME_TOLERANCE))
        tracker = SpanTracker(interval)
        end = info.duration
        for second, frame in changed_frames(file, [number * interval for number in range(count)], FRAME_SIDE, limits):
            if len(tracker) >= MAX_SPANS:
                end = second
                _logger.warning(
                    "%s: reading text stopped at %.1f of %.1f seconds: more than %d lines",
                    *(file.name, end, info.duration, MAX_SPANS),
                )
                break
            if on_progress is not None:
                on_progress(second, info.duration)
            tracker.add_frame(second, reader.read(frame))
        return tracker.finish(end)


def check_interval(interval: float) -> None:
    """Raise InvalidInput unless ``interval`` (s) is from ``MIN_INTERVAL`` to ``MAX_INTERVAL``."""
    if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
        raise InvalidInput(f"interval: {interval}; {MIN_INTERVAL:g} to {MAX_INTERVAL:g} seconds were expected")
