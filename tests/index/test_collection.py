"""A collection: add, search, delete, and rejected input."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import MAX_K, Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.storage import queries
from index.storage.filters import parse_filter
from tests.index.numbered import (
    TOKENS,
    WIDTH,
    add,
    clip_total,
    content,
    manifest,
    metadata_of,
    new_collection,
    new_video,
    numbers_in,
    vectors_of,
)
from vitascope.errors import (
    FingerprintMismatch,
    InvalidInput,
    NotFound,
    StorageError,
    VideoNotFound,
    VitascopeError,
)
from vitascope.visual_token_codec import ENCODINGS, TokenEncoding, encoded_bytes


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with new_collection(tmp_path) as collection:
        yield collection


def test_a_new_collection_is_empty(collection: Collection) -> None:
    assert (collection.stats().videos, collection.stats().clips) == (0, 0)
    assert collection.videos() == []
    assert collection.search(np.ones(WIDTH), 5) == []
    assert collection.search(np.ones(WIDTH), 5, parse_filter({"color": "red"})) == []


def test_an_added_video_is_found_at_once(collection: Collection) -> None:
    add(collection, 0, 1, 2)
    assert numbers_in(collection) == [0, 1, 2]
    assert collection.stats().clips == sum(map(clip_total, (0, 1, 2)))
    hit = collection.search(vectors_of(1)[0], 1)[0]
    assert hit.video == collection.get_video(hit.video_id)
    assert hit.video.metadata == metadata_of(1)
    assert (hit.start, hit.end) == (0.0, 4.0)


def test_similarity_is_the_cosine_for_embeddings_of_any_length(collection: Collection) -> None:
    video, _ = new_video(0)
    tokens = np.zeros(TOKENS, np.float16)
    stored = np.array([3.0, 4.0, *[0.0] * (WIDTH - 2)])
    collection.add_video(video, [NewClip(0.0, 1.0, stored * 1000, tokens)])
    query = np.array([0.0, 0.002, *[0.0] * (WIDTH - 2)])
    assert collection.search(query, 1)[0].similarity == pytest.approx(0.8, abs=1e-6)
    assert collection.search(-query, 1)[0].similarity == pytest.approx(-0.8, abs=1e-6)


def test_the_same_content_is_one_video(collection: Collection) -> None:
    first = collection.add_video(*new_video(3))
    again, created = collection.add_if_new(*new_video(3))
    assert (again, created) == (first, False)
    assert collection.stats().videos == 1
    assert collection.find_by_hash(content(3)) == first
    assert collection.find_by_hash(content(4)) is None


def test_a_deleted_video_is_not_found(collection: Collection) -> None:
    ids = add(collection, *range(6))
    clip_ids = [clip.id for clip in collection.clips(ids[2])]
    collection.search(vectors_of(2)[0], 3)
    collection.delete_video(ids[2])
    assert ids[2] not in {hit.video_id for hit in collection.search(vectors_of(2)[0], 100)}
    assert numbers_in(collection) == [0, 1, 3, 4, 5]
    for gone in (
        lambda: collection.get_video(ids[2]),
        lambda: collection.clips(ids[2]),
        lambda: collection.delete_video(ids[2]),
        lambda: collection.visual_tokens(clip_ids),
    ):
        with pytest.raises(NotFound, match="collection videos: no "):
            gone()


def test_ids_are_never_reused(collection: Collection) -> None:
    first = add(collection, 5)[0]
    old_clips = {clip.id for clip in collection.clips(first)}
    collection.delete_video(first)
    second = add(collection, 5)[0]
    assert second > first
    assert not old_clips & {clip.id for clip in collection.clips(second)}


def test_videos_are_listed_in_pages(collection: Collection) -> None:
    ids = add(collection, *range(7))
    first = collection.videos(limit=3)
    second = collection.videos(limit=3, after_id=first[-1].id)
    third = collection.videos(limit=3, after_id=second[-1].id)
    assert [video.id for video in first + second + third] == ids
    reds = collection.videos(limit=2, after_id=ids[0], where=parse_filter({"color": "red"}))
    assert [video.metadata["number"] for video in reds] == [3, 6]


def test_k_may_exceed_the_number_of_clips(collection: Collection) -> None:
    add(collection, 0, 1, 2)
    assert len(collection.search(vectors_of(0)[0], MAX_K)) == 6
    hits = collection.search(vectors_of(0)[0], 50, parse_filter({"color": "green"}))
    assert {hit.video.metadata["number"] for hit in hits} == {1}
    assert len(hits) == clip_total(1)


def test_visual_tokens_are_in_the_order_of_the_ids(collection: Collection) -> None:
    video_id = add(collection, 2)[0]
    ids = [clip.id for clip in collection.clips(video_id)]
    forward, backward = collection.visual_tokens(ids), collection.visual_tokens(ids[::-1])
    assert forward.shape == (3, *TOKENS)
    assert forward.dtype == np.float32
    np.testing.assert_array_equal(forward, backward[::-1])
    assert collection.visual_tokens([]).shape == (0, *TOKENS)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tokens_are_stored_in_the_encoding_of_the_collection(tmp_path: Path, encoding: TokenEncoding) -> None:
    """numbers_in compares what is read with what the encoding keeps."""
    with CollectionStore(tmp_path) as library:
        add(library.create("one", manifest(), token_encoding=encoding), 0, 1, 2)
    with CollectionStore(tmp_path) as library:
        collection = library.open("one")
        assert collection.token_encoding == encoding
        assert numbers_in(collection) == [0, 1, 2]
        with collection.catalogue.read() as connection:
            sizes = {len(blob) for (blob,) in connection.execute("SELECT tokens FROM tokens")}
        assert sizes == {encoded_bytes(encoding, TOKENS)}


def test_damaged_tokens_are_a_storage_error(collection: Collection) -> None:
    video_id = add(collection, 2)[0]
    ids = [clip.id for clip in collection.clips(video_id)]
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE tokens SET tokens = x'00' WHERE clip_id = ?", (ids[1],))
    with pytest.raises(StorageError, match=f"clip {ids[1]}: visual tokens: 1 bytes; 10 were expected"):
        collection.visual_tokens(ids)


def test_clips_without_tokens_differ_from_missing_clips(collection: Collection) -> None:
    video_id = add(collection, 2)[0]
    first, second, third = (clip.id for clip in collection.clips(video_id))
    with collection.catalogue.write() as connection:
        connection.execute("DELETE FROM tokens WHERE clip_id = ?", (second,))
    stored = collection.stored_tokens([first, second, 999])
    assert set(stored) == {first, second}
    assert stored[second] is None
    with pytest.raises(NotFound, match=f"no visual tokens of clip {second}"):
        collection.visual_tokens([first, second, third])


def _with_clip(**changes: Any) -> tuple[NewVideo, list[NewClip]]:
    clip = {"start": 0.0, "end": 1.0, "embedding": np.ones(WIDTH), "visual_tokens": np.zeros(TOKENS)}
    return new_video(0)[0], [NewClip(**{**clip, **changes})]


def _with_video(**changes: Any) -> tuple[NewVideo, list[NewClip]]:
    video, clips = new_video(0)
    fields = {name: getattr(video, name) for name in NewVideo.__slots__}
    return NewVideo(**{**fields, **changes}), clips


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_with_clip(embedding=np.ones(WIDTH + 1)), r"embedding: shape \(9,\); \(8,\)"),
        (_with_clip(embedding=np.full(WIDTH, np.nan)), "embedding: its length is nan"),
        (_with_clip(embedding=np.full(WIDTH, np.inf)), "embedding: its length is inf"),
        (_with_clip(embedding=np.zeros(WIDTH)), "embedding: its length is 0.0"),
        (_with_clip(embedding=["x"] * WIDTH), "embedding: .* 8 numbers were expected"),
        (_with_clip(visual_tokens=np.zeros((3, 2))), r"visual_tokens: shape \(3, 2\); \(2, 3\)"),
        (_with_clip(visual_tokens=np.full(TOKENS, 1e6)), "visual_tokens: not finite as float16"),
        (_with_clip(start=2.0), "clip: 2.0 to 1.0 s"),
        (_with_clip(start=1.0), "clip: 1.0 to 1.0 s"),
        (_with_clip(start=-1.0), "clip: -1.0 to 1.0 s"),
        (_with_clip(end=np.inf), "clip: 0.0 to inf s"),
        ((new_video(0)[0], []), "clips: none"),
        (_with_video(content_sha256="ABC"), "content_sha256: 'ABC'"),
        (_with_video(duration=-1.0), "duration: -1.0"),
        (_with_video(width=0), "width, height: 0x180"),
        (_with_video(title="a\0"), "title: .* NUL"),
        (_with_video(path="/\udcff.mp4"), "path: .* surrogate"),
        (_with_video(metadata={"title": "x"}), "metadata: key 'title' is empty or reserved"),
        (_with_video(metadata={"": "x"}), "metadata: key '' is empty or reserved"),
        (_with_video(metadata={"a": [1]}), r"metadata\['a'\]: \[1\]; a string, a finite number"),
        (_with_video(metadata={"a": None}), r"metadata\['a'\]: None"),
        (_with_video(metadata={"a": float("inf")}), r"metadata\['a'\]: inf"),
        (_with_video(metadata={"a": 2**63}), r"metadata\['a'\]: 9223372036854775808"),
        (_with_video(metadata={3: "x"}), "metadata key: 3 is of type int"),
        (_with_video(metadata={str(n): n for n in range(65)}), "metadata: 65 keys; at most 64"),
    ],
)
def test_an_invalid_video_or_clip_is_rejected_by_field(
    collection: Collection, wrong: tuple[NewVideo, list[NewClip]], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        collection.add_video(*wrong)
    assert collection.stats().videos == 0


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, True, 2.0])
def test_an_invalid_k_is_rejected(collection: Collection, k: Any) -> None:
    with pytest.raises(InvalidInput, match="k: "):
        collection.search(np.ones(WIDTH), k)


@pytest.mark.parametrize("vector", [np.ones(WIDTH - 1), np.full(WIDTH, np.nan), np.ones((1, WIDTH))])
def test_an_invalid_query_embedding_is_rejected(collection: Collection, vector: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="embedding: "):
        collection.search(vector, 3)


@pytest.mark.parametrize("video_id", [0, -1, 12, 2**80])
def test_an_unknown_video_is_not_found(collection: Collection, video_id: int) -> None:
    for use in (collection.get_video, collection.clips, collection.delete_video):
        with pytest.raises(VideoNotFound, match=f"no video {video_id}"):
            use(video_id)


def test_another_fingerprint_is_rejected(collection: Collection) -> None:
    collection.require_fingerprint(manifest().fingerprint())
    with pytest.raises(FingerprintMismatch, match=r"filled by bundle numbers 1"):
        collection.require_fingerprint(manifest("others").fingerprint())


def test_everything_is_stored_durably(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        ids = add(collection, *range(8))
        collection.delete_video(ids[3])
    with CollectionStore(tmp_path) as library:
        reopened = library.open("videos")
        assert numbers_in(reopened) == [0, 1, 2, 4, 5, 6, 7]
        assert reopened.videos()[0].id == ids[0]
        assert reopened.catalogue.integrity_errors() == []


def test_a_closed_collection_raises_a_storage_error(tmp_path: Path) -> None:
    collection = new_collection(tmp_path)
    add(collection, 1)
    collection.close()
    collection.close()
    with pytest.raises(StorageError, match="closed"):
        collection.stats()
    with pytest.raises(StorageError, match="closed"):
        collection.add_video(*new_video(2))


def test_concurrent_searches_see_complete_states(collection: Collection) -> None:
    fixed = add(collection, *range(0, 30, 3))
    failures: list[str] = []
    done = threading.Event()

    def write(offset: int) -> None:
        try:
            for number in range(100 + offset, 112 + offset):
                video_id = collection.add_video(*new_video(number)).id
                best = collection.search(vectors_of(number)[0], 1)[0]
                if best.video_id != video_id:
                    failures.append(f"{number} was acknowledged but not found")
                if number % 2:
                    collection.delete_video(video_id)
                    if collection.search(vectors_of(number)[0], 1)[0].video_id == video_id:
                        failures.append(f"{number} was deleted but found")
        except VitascopeError as error:
            failures.append(repr(error))

    def search() -> None:
        where = parse_filter({"number": {"lt": 100}})
        try:
            while not done.is_set():
                hits = collection.search(np.ones(WIDTH), 1000)
                clips_of: dict[int, int] = {}
                for hit in hits:
                    clips_of[hit.video_id] = clips_of.get(hit.video_id, 0) + 1
                if any(clips_of[h.video_id] != h.video.clip_count for h in hits):
                    failures.append("half a video was found")
                if {hit.video_id for hit in collection.search(np.ones(WIDTH), 1000, where)} != set(fixed):
                    failures.append("the filter let others pass, or lost some")
        except (VitascopeError, KeyError) as error:
            failures.append(repr(error))

    writers = [threading.Thread(target=write, args=(offset,)) for offset in (0, 50)]
    searchers = [threading.Thread(target=search) for _ in range(3)]
    for thread in writers + searchers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in searchers:
        thread.join()
    assert failures == []
    kept = [n for n in (*range(100, 112), *range(150, 162)) if n % 2 == 0]
    assert numbers_in(collection) == [*range(0, 30, 3), *kept]


def test_a_video_added_with_its_ids_is_found_once(collection: Collection) -> None:
    first, second, third = (collection.get_video(video_id) for video_id in add(collection, 1, 4, 7))
    starts = {video.id: collection.clips(video.id)[0].id for video in (first, second, third)}
    for video in (first, second):
        collection.delete_video(video.id)
    assert numbers_in(collection) == [7]
    for video, number in ((second, 4), (first, 1)):  # below ids that a search knows
        collection.add_with_ids(video, new_video(number)[1], starts[video.id])
        hits = collection.search(np.ones(WIDTH), 100)
        assert len({hit.clip_id for hit in hits}) == len(hits) == collection.stats().clips
    assert collection.videos() == [first, second, third]
    assert numbers_in(collection) == [1, 4, 7]


def test_replacing_a_video_is_atomic(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    old = collection.get_video(add(collection, 1)[0])

    def full(*_: object, **__: object) -> None:
        raise StorageError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(queries, "insert_video", full)
        with pytest.raises(StorageError, match="full"):
            collection.add_with_ids(replace(old, id=9), new_video(1)[1], 20)
    assert numbers_in(collection) == [1]
    collection.add_with_ids(replace(old, id=9), new_video(1)[1], 20)
    assert [video.id for video in collection.videos()] == [9]
    assert numbers_in(collection) == [1]
