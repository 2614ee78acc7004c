"""Rows of speech, screen text, captions and recognitions of videos. Functions work in an open transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from index.clips.timed_text import text_per_span
from index.storage.corruption import corruption_as_storage_error
from index.storage.fulltext import ClipTable, index_clip_text
from index.video_text import ClipCaption, Recognition, RecognitionKind, SpeechSource, VideoText
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment, SpokenWord

SPEECH_COLUMNS = ("start", "end", "text", "language", "confidence", "words")
SCREEN_TEXT_COLUMNS = ("start", "end", "text", "box", "confidence")
CAPTION_COLUMNS = ("start", "end", "caption")
RECOGNITION_COLUMNS = ("kind", "model", "state", "reason", "at")
_INDEXES: Mapping[str, ClipTable] = {"text": "words", "screen_text": "screen_words", "caption": "caption_words"}
"""Full-text table by column of clips."""
_RowValue = str | float | None


def load_speech(connection: sqlite3.Connection, video_id: int, source: SpeechSource) -> tuple[SpeechSegment, ...]:
    """Return the subtitles or the transcript of a video, in order of time."""
    query = f"SELECT {', '.join(SPEECH_COLUMNS)} FROM speech WHERE video_id = ? AND source = ? ORDER BY start, end, id"
    with corruption_as_storage_error(f"speech of video {video_id}"):
        return tuple(read_segment(row) for row in connection.execute(query, (video_id, source)))


def load_screen_text(connection: sqlite3.Connection, video_id: int) -> tuple[TextSpan, ...]:
    """Return the text on screen of a video, in order of time."""
    query = f"SELECT {', '.join(SCREEN_TEXT_COLUMNS)} FROM screen_text WHERE video_id = ? ORDER BY start, id"
    with corruption_as_storage_error(f"screen text of video {video_id}"):
        return tuple(read_text_span(row) for row in connection.execute(query, (video_id,)))


def load_captions(connection: sqlite3.Connection, video_id: int) -> tuple[ClipCaption, ...]:
    """Return the captions of the clips of a video that have one, in order of time."""
    query = f"SELECT {', '.join(CAPTION_COLUMNS)} FROM clips WHERE video_id = ? AND caption <> '' ORDER BY id"
    return tuple(ClipCaption(*row) for row in connection.execute(query, (video_id,)))


def load_speech_between(
    connection: sqlite3.Connection, video_id: int, start: float, end: float
) -> tuple[SpeechSegment, ...]:
    """Return the speech from ``start`` to ``end`` (s) of a video, from its subtitles, else from its transcript."""
    source = "subtitles" if has_subtitles(connection, video_id) else "transcript"
    query = (
        f"SELECT {', '.join(SPEECH_COLUMNS)} FROM speech WHERE video_id = ? AND source = ? AND start <= ? AND end >= ?"
        " ORDER BY start, end, id"
    )
    with corruption_as_storage_error(f"speech of video {video_id}"):
        return tuple(read_segment(row) for row in connection.execute(query, (video_id, source, end, start)))


def load_screen_text_between(
    connection: sqlite3.Connection, video_id: int, start: float, end: float
) -> tuple[TextSpan, ...]:
    """Return the text on screen from ``start`` to ``end`` (s) of a video; for 0 to 0, an image, all of it."""
    query = (
        f"SELECT {', '.join(SCREEN_TEXT_COLUMNS)} FROM screen_text WHERE video_id = ? AND (start <= ? OR ? = 0)"
        " AND end >= ? ORDER BY start, id"
    )
    with corruption_as_storage_error(f"screen text of video {video_id}"):
        return tuple(read_text_span(row) for row in connection.execute(query, (video_id, end, end, start)))


def load_recognitions(connection: sqlite3.Connection, video_id: int) -> dict[RecognitionKind, Recognition]:
    """Return the recognitions of a video by kind."""
    query = f"SELECT {', '.join(RECOGNITION_COLUMNS)} FROM recognitions WHERE video_id = ?"
    return {kind: Recognition(*values) for kind, *values in connection.execute(query, (video_id,))}


def load_video_text(connection: sqlite3.Connection, video_id: int) -> VideoText:
    """Return all texts of a video with their recognitions."""
    return VideoText(
        load_speech(connection, video_id, "subtitles"),
        load_speech(connection, video_id, "transcript"),
        load_screen_text(connection, video_id),
        load_captions(connection, video_id),
        load_recognitions(connection, video_id),
    )


def read_segment(row: Sequence[_RowValue]) -> SpeechSegment:
    """Convert a row with ``SPEECH_COLUMNS`` to a segment. Raises ValueError and TypeError for a damaged row."""
    start, end, text, language, confidence, words = row
    spoken = tuple(SpokenWord(*word) for word in json.loads(str(words))) if words else ()
    return SpeechSegment(start, end, text, language, confidence, spoken)  # type: ignore[arg-type]


def read_text_span(row: Sequence[_RowValue]) -> TextSpan:
    """Convert a row with ``SCREEN_TEXT_COLUMNS`` to a span. Raises ValueError and TypeError for a damaged row."""
    start, end, text, box, confidence = row
    left, top, right, bottom = json.loads(str(box))
    return TextSpan(text, start, end, (left, top, right, bottom), confidence)  # type: ignore[arg-type]


def write_screen_text(connection: sqlite3.Connection, video_id: int, spans: Sequence[TextSpan]) -> None:
    """Replace the text on screen of a video and its clips."""
    connection.execute("DELETE FROM screen_text WHERE video_id = ?", (video_id,))
    connection.executemany(
        f"INSERT INTO screen_text (video_id, {', '.join(SCREEN_TEXT_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)",
        [(video_id, s.start, s.end, s.text, json.dumps(s.box), s.confidence) for s in spans],
    )
    clip_ids, clip_spans = _load_clips(connection, video_id)
    _write_clip_column(connection, "screen_text", clip_ids, text_per_span(spans, clip_spans, "\n"))


def write_captions(connection: sqlite3.Connection, video_id: int, captions: Sequence[ClipCaption]) -> None:
    """Replace the captions of a video's clips; captions whose span is not that of a clip are left out."""
    clip_ids, clip_spans = _load_clips(connection, video_id)
    by_span = {(caption.start, caption.end): caption.text for caption in captions}
    _write_clip_column(connection, "caption", clip_ids, [by_span.get(span, "") for span in clip_spans])


def write_recognition(
    connection: sqlite3.Connection, video_id: int, kind: RecognitionKind, recognition: Recognition
) -> None:
    """Store the last run of a recogniser on a video."""
    connection.execute(
        f"INSERT OR REPLACE INTO recognitions (video_id, {', '.join(RECOGNITION_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)",
        (video_id, kind, recognition.model, recognition.state, recognition.reason, recognition.at),
    )


def insert_video_text(connection: sqlite3.Connection, video_id: int, text: VideoText) -> None:
    """Store all texts of a new video, except the words of its clips, which are already stored.

    If clips have words but ``text`` has no speech, the words become subtitles with the times of the clips: older
    catalogues, backups and exports have words of clips only.
    """
    subtitles = text.subtitles if text.speech else _clip_segments(connection, video_id)
    _write_segments(connection, video_id, "subtitles", subtitles)
    _write_segments(connection, video_id, "transcript", text.transcript)
    if text.screen_text:
        write_screen_text(connection, video_id, text.screen_text)
    if text.captions:
        write_captions(connection, video_id, text.captions)
    for kind, recognition in text.recognitions.items():
        write_recognition(connection, video_id, kind, recognition)


def replace_video_text(connection: sqlite3.Connection, video_id: int, text: VideoText, texts: Sequence[str]) -> None:
    """Replace all texts of a video and the words of its clips."""
    for table in ("speech", "screen_text", "recognitions"):
        connection.execute(f"DELETE FROM {table} WHERE video_id = ?", (video_id,))
    clip_ids, _ = _load_clips(connection, video_id)
    _write_clip_column(connection, "text", clip_ids, texts)
    write_screen_text(connection, video_id, ())
    write_captions(connection, video_id, ())
    insert_video_text(connection, video_id, text)


def write_subtitles(
    connection: sqlite3.Connection, video_id: int, texts: Sequence[str], segments: Sequence[SpeechSegment]
) -> None:
    """Replace the subtitles of a video and the words of its clips; without subtitles, clips get the transcript's words.

    Args:
        connection: a connection with an open write transaction.
        video_id: id of the video.
        texts: words of each clip.
        segments: the cues of ``texts``; if empty, the words get the times of the clips.
    """
    clip_ids, spans = _load_clips(connection, video_id)
    if any(texts):
        by_clip = zip(spans, texts, strict=True)
        segments = segments or [SpeechSegment(*span, text) for span, text in by_clip if text]
    else:
        segments, texts = (), text_per_span(load_speech(connection, video_id, "transcript"), spans)
    _write_segments(connection, video_id, "subtitles", segments)
    _write_clip_column(connection, "text", clip_ids, texts)


def write_speech(
    connection: sqlite3.Connection, video_id: int, source: SpeechSource, segments: Sequence[SpeechSegment]
) -> None:
    """Replace the subtitles or the transcript of a video, and the words of its clips."""
    _write_segments(connection, video_id, source, segments)
    clip_ids, spans = _load_clips(connection, video_id)
    spoken = load_speech(connection, video_id, "subtitles") or load_speech(connection, video_id, "transcript")
    _write_clip_column(connection, "text", clip_ids, text_per_span(spoken, spans))


def has_subtitles(connection: sqlite3.Connection, video_id: int) -> bool:
    """Return whether a video has subtitles, from which its clips then get their words."""
    query = "SELECT 1 FROM speech WHERE video_id = ? AND source = 'subtitles' LIMIT 1"
    return connection.execute(query, (video_id,)).fetchone() is not None


def pending_videos(
    connection: sqlite3.Connection, kind: RecognitionKind, model: str, limit: int, after_id: int
) -> list[int]:
    """Return the ids of the first ``limit`` videos after ``after_id`` that the model has not recognised.

    Images are left out for speech, and sound files for screen text.
    """
    has_signal = {"speech": "duration > 0", "screen_text": "width > 0", "caption": "TRUE"}[kind]
    rows = connection.execute(
        f"SELECT id FROM videos WHERE id > ? AND {has_signal} AND NOT EXISTS (SELECT 1 FROM recognitions"
        " WHERE video_id = videos.id AND kind = ? AND state = 'done' AND model = ?) ORDER BY id LIMIT ?",
        (after_id, kind, model, limit),
    )
    return [row[0] for row in rows]


def _write_segments(
    connection: sqlite3.Connection, video_id: int, source: SpeechSource, segments: Sequence[SpeechSegment]
) -> None:
    """Replace the subtitles or the transcript of a video."""
    connection.execute("DELETE FROM speech WHERE video_id = ? AND source = ?", (video_id, source))
    connection.executemany(
        f"INSERT INTO speech (video_id, source, {', '.join(SPEECH_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (*(video_id, source, s.start, s.end, s.text, s.language, s.confidence), _words_json(s.words))
            for s in segments
        ],
    )


def _load_clips(connection: sqlite3.Connection, video_id: int) -> tuple[list[int], list[tuple[float, float]]]:
    rows = connection.execute("SELECT id, start, end FROM clips WHERE video_id = ? ORDER BY id", (video_id,)).fetchall()
    return [row[0] for row in rows], [(row[1], row[2]) for row in rows]


def _clip_segments(connection: sqlite3.Connection, video_id: int) -> list[SpeechSegment]:
    """Return the words of the clips of a video, with the times of the clips."""
    query = "SELECT start, end, text FROM clips WHERE video_id = ? AND text <> '' ORDER BY id"
    return [SpeechSegment(*row) for row in connection.execute(query, (video_id,))]


def _write_clip_column(
    connection: sqlite3.Connection, column: str, clip_ids: Sequence[int], texts: Sequence[str]
) -> None:
    rows = list(zip(clip_ids, texts, strict=True))
    connection.executemany(f"UPDATE clips SET {column} = ?2 WHERE id = ?1", rows)
    index_clip_text(connection, _INDEXES[column], rows)


def _words_json(words: Sequence[SpokenWord]) -> str | None:
    return json.dumps([(w.text, w.start, w.end) for w in words], ensure_ascii=False) if words else None
