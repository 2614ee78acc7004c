"""Edits of stored videos, and refreshes from their sources; each function works in a write transaction.

A refresh stores a value of the source only if it differs from the source's previous value, so an edit stays until the
source changes. The previous value of an edited field is in ``videos.source_values``; for any other field it is the
stored value. A value that the source no longer has stays.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from index.records import (
    Scalar,
    SourceValues,
    Video,
    check_metadata,
    check_text,
    metadata_json,
    source_values_json,
    value_kind,
)
from index.storage.fulltext import index_names
from index.storage.queries import find_video, insert_metadata, load_clips_of_video, log_change, log_covers
from index.storage.removals import is_owned, list_removal
from index.storage.video_text import (
    has_subtitles,
    load_speech,
    load_video_text,
    replace_video_text,
    write_subtitles,
)
from vitascope.speech.interface import SpeechSegment

_Subtitles = tuple[list[str], Sequence[SpeechSegment]]
"""The words of each clip, and the cues that contain them."""


@dataclass(frozen=True, slots=True)
class SourceStatement:
    """Current title, metadata, subtitles and path of a video according to its source.

    Attributes:
        title: the title; None if the source has none.
        metadata: values by key.
        texts: words of the subtitles in each clip; empty texts if the source has no subtitles.
        subtitles: the cues of ``texts``; if empty, the words get the times of the clips.
        path: new catalogue path of the file, if the file was moved; else None.
        source_uri: with ``path``, the URL or archive member from which the file was copied.
        file_size: bytes; None keeps the stored size.
    """

    title: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    texts: Sequence[str] = ()
    subtitles: Sequence[SpeechSegment] = ()
    path: str | None = None
    source_uri: str | None = None
    file_size: int | None = None


def edit_video(
    connection: sqlite3.Connection,
    video: Video,
    title: str | None,
    metadata: Mapping[str, Scalar | None],
    texts: Sequence[str] | None,
    subtitles: Sequence[SpeechSegment],
) -> tuple[str, ...]:
    """Change title, metadata (a value None deletes its key) and subtitles of a video; None keeps title or texts.

    Returns the names of the changed fields, as `refresh_video`. Raises InvalidInput for values that cannot be stored.
    """
    _check_texts(title, texts or ())
    stored_texts = _load_texts(connection, video.id)
    source = _stated_values(video, stored_texts)
    edited = video if title is None else replace(video, title=title)
    if metadata:
        merged = {key: value for key, value in {**video.metadata, **metadata}.items() if value is not None}
        edited = replace(edited, metadata=check_metadata(merged))
    changed = None if texts is None else (list(texts), subtitles)
    if texts == stored_texts and tuple(subtitles) in ((), load_speech(connection, video.id, "subtitles")):
        changed = None
    return _store(connection, video, edited, source, stored_texts, changed)


def refresh_video(connection: sqlite3.Connection, video: Video, statement: SourceStatement) -> tuple[str, ...]:
    """Store the values that are new in the source; return the names of the changed fields.

    The names are title, metadata, subtitles and path. Raises InvalidInput for values that cannot be stored.
    """
    _check_texts(statement.title, statement.texts)
    stored_texts = _load_texts(connection, video.id)
    changed = None
    source = _stated_values(video, stored_texts)
    refreshed = video
    if statement.title not in (None, source.title):
        refreshed, source = replace(refreshed, title=statement.title), replace(source, title=statement.title)
    original = source.metadata or {}
    news = {key: value for key, value in statement.metadata.items() if not _has_value(original, key, value)}
    refreshed = replace(refreshed, metadata=check_metadata({**video.metadata, **news}))
    source = replace(source, metadata={**original, **news})
    if any(statement.texts) and _hash_texts(statement.texts) != source.text_sha256:
        source = replace(source, text_sha256=_hash_texts(statement.texts))
        if list(statement.texts) != stored_texts:
            changed = list(statement.texts), statement.subtitles
    elif (
        list(statement.texts) == stored_texts
        and statement.subtitles
        and tuple(statement.subtitles) != load_speech(connection, video.id, "subtitles")
    ):  # earlier versions stored the words without the times of the cues
        changed = stored_texts, statement.subtitles
    if statement.path is not None:
        refreshed = replace(refreshed, path=statement.path, source_uri=statement.source_uri)
    if statement.file_size is not None:
        refreshed = replace(refreshed, file_size=statement.file_size)
    return _store(connection, video, refreshed, source, stored_texts, changed)


def copy_edits(source: sqlite3.Connection, target: sqlite3.Connection, since: int | None) -> None:
    """Repeat the edits of a catalogue in its copy, whose videos and clips have the same ids.

    ``since``: number of the last change before the copy began; None: unknown, all videos are compared.
    """
    if since is None or not log_covers(source, since):
        rows = source.execute("SELECT id FROM videos").fetchall()
    else:
        edited = "SELECT first_clip FROM changes WHERE kind = 'edit' AND id > ?"
        rows = source.execute(f"SELECT id FROM videos WHERE first_clip IN ({edited})", (since,)).fetchall()
    for (video_id,) in rows:
        video, copy = find_video(source, video_id), find_video(target, video_id)
        if video is None or copy is None:
            continue
        names = ("title", "metadata", "path", "source_uri", "source_values", "file_size")
        values = {name: getattr(video, name) for name in names}
        _write_changes(target, copy, replace(copy, **values), None)
        text = load_video_text(source, video_id)
        if text != load_video_text(target, video_id):
            replace_video_text(target, video_id, text, [clip.text for clip in load_clips_of_video(source, video_id)])
            log_edit(target, video_id)


def log_edit(connection: sqlite3.Connection, video_id: int) -> None:
    """Log an edit of a video, which changes no embeddings."""
    clips = load_clips_of_video(connection, video_id)
    log_change(connection, "edit", clips[0].id, 0)


def _stated_values(video: Video, stored_texts: Sequence[str]) -> SourceValues:
    """Return the source's previous value of every field of a video."""
    source = video.source_values
    return SourceValues(
        title=video.title if source.title is None else source.title,
        metadata=video.metadata if source.metadata is None else source.metadata,
        text_sha256=source.text_sha256 or _hash_texts(stored_texts),
    )


def _store(
    connection: sqlite3.Connection,
    before: Video,
    after: Video,
    source: SourceValues,
    stored_texts: list[str],
    subtitles: _Subtitles | None,
) -> tuple[str, ...]:
    """Store a changed video and its subtitles, and those values of its source that differ from the stored ones."""
    is_equal = metadata_json(after.metadata) == metadata_json(source.metadata or {})
    text_sha256 = _hash_texts(stored_texts if subtitles is None else subtitles[0])
    source_values = SourceValues(
        title=None if after.title == source.title else source.title,
        metadata=None if is_equal else source.metadata,
        text_sha256=None if text_sha256 == source.text_sha256 else source.text_sha256,
    )
    return _write_changes(connection, before, replace(after, source_values=source_values), subtitles)


def _write_changes(
    connection: sqlite3.Connection, before: Video, after: Video, subtitles: _Subtitles | None
) -> tuple[str, ...]:
    """Store a changed video, and its subtitles unless None; return the names of the changed fields."""
    is_changed = {
        "title": after.title != before.title,
        "metadata": metadata_json(after.metadata) != metadata_json(before.metadata),
        "subtitles": subtitles is not None,
        "path": after.path != before.path,
    }
    changes = tuple(name for name, differs in is_changed.items() if differs)
    if not changes and (after.source_values, after.file_size) == (before.source_values, before.file_size):
        return ()
    source_values = source_values_json(after.source_values)
    connection.execute(
        "UPDATE videos SET title = ?, metadata = ?, path = ?, source_uri = ?, source_values = ?, file_size = ?"
        " WHERE id = ?",
        (
            *(after.title, metadata_json(after.metadata), after.path, after.source_uri),
            *(source_values, after.file_size, after.id),
        ),
    )
    if is_changed["metadata"]:
        connection.execute("DELETE FROM video_metadata WHERE video_id = ?", (after.id,))
        insert_metadata(connection, after.id, after.metadata)
    if is_changed["title"] or is_changed["path"]:
        index_names(connection, [(after.id, after.title, after.source_uri or after.path)])
    if subtitles is not None:
        write_subtitles(connection, after.id, *subtitles)
    if is_changed["path"] and is_owned(before.path):
        list_removal(connection, before.path)
    log_edit(connection, after.id)
    return changes


def _check_texts(title: str | None, texts: Sequence[str]) -> None:
    check_text("title", title or "")
    for text in texts:
        check_text("text", text)


def _has_value(metadata: Mapping[str, Scalar], key: str, value: Scalar) -> bool:
    """Return whether ``metadata[key]`` equals ``value`` and has its type: true is not 1."""
    return key in metadata and (value_kind(metadata[key]), metadata[key]) == (value_kind(value), value)


def _load_texts(connection: sqlite3.Connection, video_id: int) -> list[str]:
    """Return the words of the subtitles in each clip; words of a transcript are left out, as they have no source."""
    clips = load_clips_of_video(connection, video_id)
    return [clip.text for clip in clips] if has_subtitles(connection, video_id) else [""] * len(clips)


def _hash_texts(texts: Sequence[str]) -> str:
    """Return the SHA-256 of the text of all clips; no text has a NUL."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
