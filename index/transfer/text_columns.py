"""Texts and recognitions of videos: the JSON of ``videos.parquet``, and rows of untrusted catalogues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from index.storage.foreign_catalogue import ForeignCatalogue
from index.storage.schema import CAPTIONS, VIDEO_TEXT
from index.storage.video_text import CAPTION_COLUMNS, RECOGNITION_COLUMNS, SCREEN_TEXT_COLUMNS, SPEECH_COLUMNS
from index.transfer.new_catalogue import ForeignRow
from index.video_text import MAX_SEGMENTS, SPEECH_SOURCES, VideoText, check_video_text
from vitascope.errors import InvalidInput
from vitascope.text_format import format_validation_error

TEXT_COLUMNS = ("subtitles", "transcript", "screen_text", "captions", "recognitions")
_TEXT = TypeAdapter(VideoText)


def text_columns(text: VideoText) -> tuple[str | None, ...]:
    """Return the JSON of ``TEXT_COLUMNS``; None for an empty column."""
    values = _TEXT.dump_python(text, mode="json")
    return tuple(json.dumps(values[name], ensure_ascii=False) if values[name] else None for name in TEXT_COLUMNS)


def check_text_columns(row: ForeignRow) -> VideoText:
    """Return the text of the video of a row of ``videos.parquet``. Raises InvalidInput naming row and column."""
    values = {}
    for name in TEXT_COLUMNS:
        if (cell := row.values.get(name)) is not None:
            try:
                values[name] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                raise row.error(f"{name}: not JSON ({error})") from error
    return _check(row, values)


def read_video_text(foreign: ForeignCatalogue, row: ForeignRow) -> VideoText:
    """Return the text of a video of an untrusted catalogue. Raises InvalidInput naming row and column."""
    if foreign.version < VIDEO_TEXT:
        return VideoText()
    values: dict[str, Any] = {"screen_text": [], "recognitions": {}}
    try:
        for source, *cells in foreign.rows_of_video("speech", ("source", *SPEECH_COLUMNS), row.number, MAX_SEGMENTS):
            segment = dict(zip(SPEECH_COLUMNS, cells, strict=True))
            words = json.loads(segment["words"] or "[]")
            segment["words"] = [{"text": text, "start": start, "end": end} for text, start, end in words]
            if source not in SPEECH_SOURCES:
                raise ValueError(f"source: {source!r}; one of {', '.join(SPEECH_SOURCES)} was expected")
            values.setdefault(source, []).append(segment)
        for line in foreign.rows_of_video("screen_text", SCREEN_TEXT_COLUMNS, row.number, MAX_SEGMENTS):
            span = dict(zip(SCREEN_TEXT_COLUMNS, line, strict=True))
            values["screen_text"].append({**span, "box": json.loads(span["box"])})
        if foreign.version >= CAPTIONS:
            rows = foreign.rows_of_video("clips", CAPTION_COLUMNS, row.number, MAX_SEGMENTS)
            values["captions"] = [{"start": start, "end": end, "text": text} for start, end, text in rows]
        for kind, *cells in foreign.rows_of_video("recognitions", RECOGNITION_COLUMNS, row.number, MAX_SEGMENTS):
            values["recognitions"][kind] = dict(zip(RECOGNITION_COLUMNS[1:], cells, strict=True))
    except (ValueError, TypeError, RecursionError) as error:
        raise row.error(f"speech, screen_text: {error}") from error
    return _check(row, values)


def _check(row: ForeignRow, values: Mapping[str, Any]) -> VideoText:
    try:
        return check_video_text(_TEXT.validate_json(json.dumps(values), strict=True))
    except ValidationError as error:
        raise row.error(format_validation_error(error)) from error
    except (TypeError, ValueError, InvalidInput) as error:
        raise row.error(error) from error
