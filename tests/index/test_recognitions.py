"""What recognisers hear and read, as it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from index.collection import Collection
from index.recognitions import (
    load_recognitions,
    load_screen_text,
    load_speech,
    record_recognition_failure,
    store_screen_text,
    store_speech,
    videos_to_recognize,
)
from index.storage.filters import parse_filter
from tests.index.sample_data import add, new_collection
from vitascope.errors import InvalidInput, VideoNotFound
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment

BOX = (0.1, 0.2, 0.5, 0.3)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    collection = new_collection(tmp_path)
    add(collection, 1, 2, 3)
    return collection


def pending(collection: Collection, model: str, after_id: int | None = None) -> list[int]:
    return [video.id for video in videos_to_recognize(collection, "screen_text", model, 10, after_id)]


def test_screen_text_is_stored_with_its_times_and_found_in_its_clips(collection: Collection) -> None:
    spans = [TextSpan("Ausgang\0", 3.5, 6, BOX, 0.9), TextSpan("Café", 1, 2, BOX, 1), TextSpan("\x1b", 1, 2, BOX, 1)]
    store_screen_text(collection, 1, spans, "reader/1")
    assert load_screen_text(collection, 1) == [TextSpan("Café", 1, 2, BOX, 1), TextSpan("Ausgang", 3.5, 6, BOX, 0.9)]
    assert [clip.screen_text for clip in collection.clips(1)] == ["Café\nAusgang", "Ausgang"]
    with_cafe = parse_filter({"clip": {"screen_text": {"contains": "café"}}})
    assert [video.id for video in collection.videos(where=with_cafe)] == [1]
    collection.delete_video(1)
    assert collection.catalogue.integrity_errors() == []
    with collection.catalogue.read() as connection:
        assert connection.execute("SELECT count(*) FROM screen_words").fetchone() == (0,)


def test_videos_without_a_finished_recognition_by_the_model_are_listed(collection: Collection) -> None:
    store_screen_text(collection, 1, [], "reader/1")
    record_recognition_failure(collection, 2, "screen_text", "reader/1", "out of memory")
    assert pending(collection, "reader/1") == [2, 3]
    assert pending(collection, "reader/1", after_id=2) == [3]
    assert pending(collection, "reader/2") == [1, 2, 3]
    failed = load_recognitions(collection, 2)["screen_text"]
    assert (failed.model, failed.state, failed.reason) == ("reader/1", "failed", "out of memory")


def test_what_cannot_be_stored_is_refused(collection: Collection) -> None:
    with pytest.raises(InvalidInput, match=r"speech\[1\]: 2 to 1 s; 0 <= start <= end was expected"):
        store_speech(collection, 1, [SpeechSegment(0, 1, "a"), SpeechSegment(2, 1, "b")], model="m")
    with pytest.raises(InvalidInput, match=r"screen_text\[0\]: box: \(0, 0, 2, 1\); left, top, right, bottom"):
        store_screen_text(collection, 1, [TextSpan("a", 0, 1, (0, 0, 2, 1), 1)], "reader")
    with pytest.raises(VideoNotFound, match="no video 9"):
        store_speech(collection, 9, [], model="m")
    assert load_speech(collection, 1) == []
