"""Transcripts, text on screen and captions of a collection's videos: store, load, and list videos that lack them.

Every write is one durable transaction with an entry in the change log, by which caches and cursors notice it.
Functions raise VideoNotFound for a missing video, InvalidInput that names the field, CollectionNotFound and
StorageError.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from index.collection import MAX_PAGE, Collection
from index.records import Video
from index.storage import video_text
from index.storage.edits import log_edit
from index.storage.queries import find_video
from index.video_text import (
    RECOGNITION_KINDS,
    ClipCaption,
    Recognition,
    RecognitionKind,
    SpeechSource,
    VideoText,
    check_captions,
    check_recognition,
    check_screen_text,
    check_speech,
)
from vitascope.errors import InvalidInput
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment


def store_speech(
    collection: Collection,
    video_id: int,
    segments: Sequence[SpeechSegment],
    model: str | None = None,
) -> None:
    """Replace the transcript of a video, also in its clips.

    Subtitles and transcript are stored separately; clips have the words of the subtitles if there are any.

    Args:
        collection: collection of the video.
        video_id: id of the video.
        segments: the transcript; empty if nothing is said.
        model: name of the recogniser, which is recorded as done with this video; None: not recorded.
    """
    checked = check_speech(segments)
    recognition = None if model is None else check_recognition(Recognition(model, "done", None, time.time()))
    with collection.catalogue.write() as connection:
        collection.require_video(connection, video_id)
        video_text.write_speech(connection, video_id, "transcript", checked)
        if recognition is not None:
            video_text.write_recognition(connection, video_id, "speech", recognition)
        log_edit(connection, video_id)


def store_screen_text(collection: Collection, video_id: int, spans: Sequence[TextSpan], model: str) -> None:
    """Replace the text on screen of a video, also in its clips; record ``model`` as the reader."""
    checked = check_screen_text(spans)
    recognition = check_recognition(Recognition(model, "done", None, time.time()))
    with collection.catalogue.write() as connection:
        collection.require_video(connection, video_id)
        video_text.write_screen_text(connection, video_id, checked)
        video_text.write_recognition(connection, video_id, "screen_text", recognition)
        log_edit(connection, video_id)


def store_captions(collection: Collection, video_id: int, captions: Sequence[ClipCaption], model: str) -> None:
    """Replace all captions of a video's clips; record ``model`` as their generator."""
    checked = check_captions(captions)
    recognition = check_recognition(Recognition(model, "done", None, time.time()))
    with collection.catalogue.write() as connection:
        collection.require_video(connection, video_id)
        video_text.write_captions(connection, video_id, checked)
        video_text.write_recognition(connection, video_id, "caption", recognition)
        log_edit(connection, video_id)


def record_recognition_failure(
    collection: Collection, video_id: int, kind: RecognitionKind, model: str, reason: str
) -> None:
    """Store why a recogniser failed on a video; text stored earlier stays."""
    recognition = check_recognition(Recognition(model, "failed", reason, time.time()))
    with collection.catalogue.write() as connection:
        collection.require_video(connection, video_id)
        video_text.write_recognition(connection, video_id, check_kind(kind), recognition)
        log_edit(connection, video_id)


def load_speech(collection: Collection, video_id: int, source: SpeechSource | None = None) -> list[SpeechSegment]:
    """Return the speech of a video in order of time; ``source`` None: the subtitles, else the transcript."""
    with collection.catalogue.read() as connection:
        collection.require_video(connection, video_id)
        if source is not None:
            return list(video_text.load_speech(connection, video_id, source))
        subtitles = video_text.load_speech(connection, video_id, "subtitles")
        return list(subtitles or video_text.load_speech(connection, video_id, "transcript"))


def load_screen_text(collection: Collection, video_id: int) -> list[TextSpan]:
    """Return the text that is shown in a video, in order of time."""
    with collection.catalogue.read() as connection:
        collection.require_video(connection, video_id)
        return list(video_text.load_screen_text(connection, video_id))


def load_recognitions(collection: Collection, video_id: int) -> dict[RecognitionKind, Recognition]:
    """Return the last run of each kind of recogniser on a video."""
    with collection.catalogue.read() as connection:
        collection.require_video(connection, video_id)
        return video_text.load_recognitions(connection, video_id)


def load_video_text(collection: Collection, video_id: int) -> VideoText:
    """Return all texts of a video: subtitles, transcript, text on screen and captions."""
    with collection.catalogue.read() as connection:
        collection.require_video(connection, video_id)
        return video_text.load_video_text(connection, video_id)


def videos_to_recognize(
    collection: Collection, kind: RecognitionKind, model: str, limit: int = 100, after_id: int | None = None
) -> list[Video]:
    """Return the first ``limit`` videos, by id after ``after_id``, that a model has not yet recognised successfully.

    Pictures are left out for speech, and sound files for screen text.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: {limit}; 1 to {MAX_PAGE} was expected")
    with collection.catalogue.read() as connection:
        ids = video_text.pending_videos(connection, check_kind(kind), model, limit, after_id or 0)
        return [video for video_id in ids if (video := find_video(connection, video_id)) is not None]


def check_kind(kind: str) -> RecognitionKind:
    """Return a kind of recogniser. Raises InvalidInput."""
    for known in RECOGNITION_KINDS:
        if kind == known:
            return known
    raise InvalidInput(f"kind: {kind!r}; one of {', '.join(RECOGNITION_KINDS)} was expected")
