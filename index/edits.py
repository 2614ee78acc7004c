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
    """A video, the names of what changed (title, metadata, subtitles), and notes on the subtitles."""

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
    """Change a video, durably.

    Args:
        collection: of the video.
        video_id: its id.
        title: None: it stays.
        metadata: merged into that of the video; None deletes a key.
        subtitles: text of an SRT or WebVTT file, which replaces the words of all clips; empty: no words. None: they
            stay.
        from_source: the source of the video states these values: they replace edits only if it states something new.

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
    """Return the words of each clip, which never changes its span, the cues that they are from, and notes."""
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
