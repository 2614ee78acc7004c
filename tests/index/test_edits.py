"""Edits of videos by users."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.edits import edit_video
from index.recognitions import load_speech, store_speech
from index.storage.filters import parse_filter
from tests.index.sample_data import add, new_collection, vectors_of
from vitascope.errors import InvalidInput, SubtitlesCorrupt, VideoNotFound
from vitascope.speech.interface import SpeechSegment, SpokenWord

VTT = """WEBVTT

00:00.000 --> 00:03.000
zebra crossing

00:05.000 --> 00:07.000
look

01:05.000 --> 01:07.000
late
"""


def words_of(collection: Collection) -> list[tuple[int, str]]:
    """(clip id, text) of the full-text index."""
    with collection.catalogue.read() as connection:
        return connection.execute("SELECT rowid, text FROM words WHERE text <> '' ORDER BY rowid").fetchall()


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    collection = new_collection(tmp_path)
    add(collection, 1, 2)
    return collection


def test_title_metadata_and_words_are_replaced_together(collection: Collection, tmp_path: Path) -> None:
    edited = edit_video(
        collection, 1, title="Zebras", metadata={"color": None, "even": True, "shelf": "south"}, subtitles=VTT
    )
    video = edited.video
    assert edited.changes == ("title", "metadata", "subtitles")
    assert (video.title, video.metadata) == ("Zebras", {"number": 1, "even": True, "weight": 0.25, "shelf": "south"})
    assert edited.notes == ("1 of 3 cues begin after the end of the video (8.00 s) and are left out",)
    assert [clip.text for clip in collection.clips(1)] == ["zebra crossing", "look"]
    assert words_of(collection) == [(1, "zebra crossing"), (2, "look")]
    assert load_speech(collection, 1) == [SpeechSegment(0, 3, "zebra crossing"), SpeechSegment(5, 7, "look")]
    assert [each.id for each in collection.videos(where=parse_filter({"shelf": "south"}))] == [1]
    assert collection.videos(where=parse_filter({"color": "green", "number": 1})) == []
    hit = collection.search(vectors_of(1)[0], 1)[0]
    assert (hit.video.title, hit.text) == ("Zebras", "zebra crossing")
    collection.close()
    with CollectionStore(tmp_path).open(collection.name) as again:
        assert again.get_video(1) == video
        assert again.catalogue.integrity_errors() == []


def test_subtitles_win_over_a_transcript_which_returns_without_them(collection: Collection) -> None:
    edit_video(collection, 1, subtitles=VTT)
    heard = SpeechSegment(4.5, 6, "look out", "en", 0.5, (SpokenWord("look", 4.5, 5), SpokenWord("out", 5, 6)))
    store_speech(collection, 1, [heard], model="recognizer")
    assert [clip.text for clip in collection.clips(1)] == ["zebra crossing", "look"]
    assert load_speech(collection, 1, "transcript") == [heard]
    edit_video(collection, 1, subtitles="")
    assert ([clip.text for clip in collection.clips(1)], words_of(collection)) == (["", "look out"], [(2, "look out")])
    store_speech(collection, 1, [], model="recognizer")
    assert ([clip.text for clip in collection.clips(1)], words_of(collection)) == (["", ""], [])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metadata": {"title": "x"}}, InvalidInput, "key 'title' is empty or reserved"),
        ({"metadata": {str(n): n for n in range(64)}}, InvalidInput, "68 keys"),
        ({"subtitles": "no times"}, SubtitlesCorrupt, "subtitles:1: time: 'no times'"),
        ({"subtitles": "1\n00:01:00,000 --> 00:01:01,000\nlate\n"}, InvalidInput, "none of 1 cues begins before"),
        ({"title": "a\0"}, InvalidInput, "title: 'a\\\\x00' holds a NUL"),
    ],
)
def test_an_invalid_edit_changes_nothing(
    collection: Collection, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    before = collection.get_video(1)
    with pytest.raises(error, match=message):
        edit_video(collection, 1, **{"title": "other", **changes})  # type: ignore[arg-type]
    assert collection.get_video(1) == before


def test_an_unknown_video_is_not_found(collection: Collection) -> None:
    with pytest.raises(VideoNotFound):
        edit_video(collection, 99, title="x")


def test_an_acknowledged_edit_is_seen_by_other_processes(collection: Collection, tmp_path: Path) -> None:
    with CollectionStore(tmp_path).open(collection.name) as other:
        other.search(vectors_of(1)[0], 1)
        edit_video(collection, 1, title="Zebras")
        assert other.search(vectors_of(1)[0], 1)[0].video.title == "Zebras"
        with sqlite3.connect(f"file:{collection.catalogue.path}?mode=ro", uri=True) as connection:
            assert connection.execute("SELECT title FROM videos WHERE id = 1").fetchone() == ("Zebras",)
