"""Edits of title, metadata and subtitles of videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from index.clips.subtitles import clip_cues
from index.clips.timed_text import text_per_span
from index.collection import Collection
from index.records import Scalar, Video, check_metadata
from index.storage.edits import SourceStatement
from index.video_text import speech_segments
from vitascope.errors import InvalidInput
from vitascope.media.subtitles import Cue, parse_subtitles


@dataclass(frozen=True, slots=True)
class EditedVideo:
    """An edited video, the names of the changed fields (title, metadata, subtitles), and notes on the subtitles."""

    video: Video
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def edit_video(
    collection: Collection,
    video_id: int,
    *,
    title: str | None = None,
    metadata: Mapping[str, Scalar | None] | None = None,
    subtitles: str | None = None,
    from_source: bool = False,
) -> EditedVideo:
    """Change the title, metadata or subtitles of a video durably.

    Args:
        collection: collection of the video.
        video_id: id of the video.
        title: the new title; None keeps the title.
        metadata: merged into the metadata of the video; a value None deletes its key.
        subtitles: text of an SRT or WebVTT file, which replaces the words of all clips; empty deletes the words, None
            keeps them.
        from_source: the values come from the source of the video: each replaces an edit only if it differs from the
            source's previous value.

    Raises:
        VideoNotFound, SubtitlesCorrupt, StorageError, and InvalidInput that names the field.
    """
    texts: list[str] | None = None
    cues: list[Cue] = []
    notes: tuple[str, ...] = ()
    if subtitles is not None:
        texts, cues, notes = _clip_texts(collection, video_id, subtitles.removeprefix("\ufeff"))
    segments = speech_segments(cues)
    if from_source:
        statement = SourceStatement(title, check_metadata(metadata or {}), texts or (), segments)
        return EditedVideo(*collection.refresh_video(collection.get_video(video_id), statement), notes)
    edit = collection.edit_video(video_id, title=title, metadata=metadata, texts=texts, subtitles=segments)
    return EditedVideo(*edit, notes)


def _clip_texts(collection: Collection, video_id: int, subtitles: str) -> tuple[list[str], list[Cue], tuple[str, ...]]:
    """Return the words of each clip, the cues that contain them, and notes. The spans of clips do not change."""
    video, clips = collection.get_video(video_id), collection.clips(video_id)
    if not subtitles.strip():
        return [""] * len(clips), [], ()
    if not video.duration:
        raise InvalidInput(f"subtitles: video {video_id} is a picture; a video was expected")
    cues = parse_subtitles(subtitles, "subtitles", vtt=subtitles.startswith("WEBVTT"))
    within = clip_cues(cues, video.duration)
    if not within:
        raise InvalidInput(f"subtitles: none of {len(cues)} cues begins before the end ({video.duration:.2f} s)")
    late = len(cues) - len(within)
    note = f"{late} of {len(cues)} cues begin after the end of the video ({video.duration:.2f} s) and are left out"
    return text_per_span(within, [(clip.start, clip.end) for clip in clips]), within, (note,) * bool(late)
