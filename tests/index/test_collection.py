"""A collection: adding, searching, deleting, visual tokens, thumbnails, and rejected input; random histories."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.collection import MAX_K, Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.storage import queries
from index.storage.filters import parse_filter
from index.vectors.interface import FAISS
from tests.chaos import rounds
from tests.index.milvus_server import MilvusUnderTest
from tests.index.sample_data import (
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
    tokens_of,
    vectors_of,
)
from vitascope.errors import (
    FingerprintMismatch,
    InvalidInput,
    NotFound,
    StorageError,
    VideoNotFound,
)
from vitascope.visual_token_codec import ENCODINGS, TokenEncoding, encoded_bytes

RED = parse_filter({"color": "red"})
JPEG = b"\xff\xd8\xff\xe0 a picture"


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with new_collection(tmp_path) as collection:
        yield collection


def test_an_added_video_is_found_at_once(collection: Collection) -> None:
    assert collection.search(np.ones(WIDTH), 5) == collection.search(np.ones(WIDTH), 5, RED) == []
    add(collection, 0, 1, 2)
    assert numbers_in(collection) == [0, 1, 2]
    assert collection.stats().clips == sum(map(clip_total, (0, 1, 2)))
    hit = collection.search(vectors_of(1)[0], 1)[0]
    assert hit.video == collection.get_video(hit.video_id)
    assert hit.video.metadata == metadata_of(1)
    assert (hit.start, hit.end) == (0.0, 4.0)
    assert len(collection.search(vectors_of(0)[0], MAX_K)) == 6


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
    assert collection.add_video(*new_video(3)) == first
    assert collection.stats().videos == 1
    assert collection.find_by_hash(content(3)) == first
    assert collection.find_by_hash(content(4)) is None


def test_a_deleted_video_is_not_found_and_its_ids_are_not_reused(collection: Collection) -> None:
    ids = add(collection, *range(6))
    clip_ids = [clip.id for clip in collection.clips(ids[2])]
    collection.search(vectors_of(2)[0], 3)
    collection.delete_video(ids[2])
    assert ids[2] not in {hit.video_id for hit in collection.search(vectors_of(2)[0], 100)}
    assert numbers_in(collection) == [0, 1, 3, 4, 5]
    with pytest.raises(NotFound, match="collection videos: no visual tokens"):
        collection.visual_tokens(clip_ids)
    (again,) = add(collection, 2)
    assert again > max(ids)
    assert min(clip.id for clip in collection.clips(again)) > max(clip_ids)


def test_videos_are_listed_in_pages(collection: Collection) -> None:
    ids = add(collection, *range(7))
    first = collection.videos(limit=3)
    second = collection.videos(limit=3, after_id=first[-1].id)
    third = collection.videos(limit=3, after_id=second[-1].id)
    assert [video.id for video in first + second + third] == ids
    reds = collection.videos(limit=2, after_id=ids[0], where=RED)
    assert [video.metadata["number"] for video in reds] == [3, 6]


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
    with CollectionStore(tmp_path) as library:
        add(library.create("one", manifest(), token_encoding=encoding), 0, 1, 2)
    with CollectionStore(tmp_path) as library:
        collection = library.open("one")
        assert collection.token_encoding == encoding
        assert numbers_in(collection) == [0, 1, 2]
        with collection.catalogue.read() as connection:
            sizes = {len(blob) for (blob,) in connection.execute("SELECT tokens FROM tokens")}
        assert sizes == {encoded_bytes(encoding, TOKENS)}


def test_text_and_thumbnail_of_a_clip_are_stored(collection: Collection) -> None:
    vector, tokens = np.ones(WIDTH, np.float32), tokens_of(0)[0]
    clips = [NewClip(0, 2, vector, tokens, "spoken words", JPEG), NewClip(2, 4, vector, tokens)]
    video_id = collection.add_video(new_video(0)[0], clips).id
    first, second = collection.clips(video_id)
    assert (first.text, second.text) == ("spoken words", "")
    assert (collection.thumbnail(first.id), collection.thumbnail(second.id)) == (JPEG, None)
    collection.delete_video(video_id)
    with pytest.raises(NotFound, match=f"no clip {first.id}"):
        collection.thumbnail(first.id)


def test_damaged_tokens_are_a_storage_error(collection: Collection) -> None:
    video_id = add(collection, 2)[0]
    ids = [clip.id for clip in collection.clips(video_id)]
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE tokens SET tokens = x'00' WHERE clip_id = ?", (ids[1],))
    with pytest.raises(StorageError, match=f"clip {ids[1]}: tokens: 1 bytes; 10 were expected"):
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
        (_with_clip(embedding=np.zeros(WIDTH)), "embedding: its length is 0.0"),
        (_with_clip(embedding=["x"] * WIDTH), "embedding: .* 8 numbers were expected"),
        (_with_clip(visual_tokens=np.zeros((3, 2))), r"visual_tokens: shape \(3, 2\); \(2, 3\)"),
        (_with_clip(visual_tokens=np.full(TOKENS, 1e6)), "visual_tokens: not finite as float16"),
        (_with_clip(start=2.0), "clip: 2.0 to 1.0 s"),
        (_with_clip(start=-1.0), "clip: -1.0 to 1.0 s"),
        (_with_clip(end=np.inf), "clip: 0.0 to inf s"),
        (_with_clip(thumbnail=b"GIF8"), "thumbnail: 4 bytes"),
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


@pytest.mark.parametrize(
    ("embedding", "k", "message"),
    [
        *((np.ones(WIDTH), k, "k: ") for k in (0, MAX_K + 1, True, 2.0)),
        *((embedding, 3, "embedding: ") for embedding in (np.ones(WIDTH - 1), np.full(WIDTH, np.nan))),
    ],
)
def test_an_invalid_search_is_rejected(collection: Collection, embedding: np.ndarray, k: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        collection.search(embedding, k)


@pytest.mark.parametrize("video_id", [-1, 12, 2**80])
def test_an_unknown_video_is_not_found(collection: Collection, video_id: int) -> None:
    for use in (collection.get_video, collection.clips, collection.delete_video):
        with pytest.raises(VideoNotFound, match=f"no video {video_id}"):
            use(video_id)


def test_another_fingerprint_is_rejected(collection: Collection) -> None:
    collection.require_fingerprint(manifest().fingerprint())
    with pytest.raises(FingerprintMismatch, match=r"filled by bundle numbers 1"):
        collection.require_fingerprint(manifest("others").fingerprint())


def test_a_closed_collection_raises_a_storage_error(collection: Collection) -> None:
    add(collection, 1)
    collection.close()
    collection.close()
    with pytest.raises(StorageError, match="closed"):
        collection.stats()
    with pytest.raises(StorageError, match="closed"):
        collection.add_video(*new_video(2))


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


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40)),
        st.tuples(st.just("delete"), st.integers(0, 40)),
        st.tuples(st.just("search"), st.integers(0, 10**6)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    min_size=1,
    max_size=25,
)
FILTERS: list[tuple[Any, Any]] = [
    (None, lambda m: True),
    ({"color": "red"}, lambda m: m["color"] == "red"),
    ({"number": {"gte": 10, "lt": 30}}, lambda m: 10 <= m["number"] < 30),
    ({"number": 7}, lambda m: m["number"] == 7),
]


def brute_force(numbers: set[int], query: np.ndarray, k: int, condition: Any) -> list[tuple[float, int, int]]:
    """Return the best (cosine, number, clip of the video)."""
    rows = [(n, c) for n in sorted(numbers) if condition(metadata_of(n)) for c in range(len(vectors_of(n)))]
    if not rows:
        return []
    matrix = np.stack([vectors_of(n)[c] for n, c in rows]).astype(np.float64)
    cosines = matrix @ (query / np.linalg.norm(query)) / np.linalg.norm(matrix, axis=1)
    best = np.argsort(-cosines, kind="stable")[:k]
    return [(float(cosines[i]), *rows[i]) for i in best]


def check_search(collection: Collection, numbers: set[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    query = random.standard_normal(WIDTH)
    k = int(random.integers(1, 30))
    filter_json, condition = FILTERS[seed % len(FILTERS)]
    hits = collection.search(query, k, None if filter_json is None else parse_filter(filter_json))
    results = [(hit.video.metadata["number"], int(hit.start / 4)) for hit in hits]
    expected = brute_force(numbers, query, k, condition)
    assert results == [(number, clip) for _, number, clip in expected]
    np.testing.assert_allclose([hit.similarity for hit in hits], [cosine for cosine, _, _ in expected], atol=1e-6)


@settings(max_examples=rounds(12, 200), deadline=None)
@given(STEPS)
def test_random_histories_equal_brute_force(steps: list[tuple[str, int]]) -> None:
    check_history(steps, FAISS)


@settings(max_examples=rounds(4, 100), deadline=None)
@given(STEPS)
def test_random_histories_in_milvus_equal_brute_force(milvus: MilvusUnderTest, steps: list[tuple[str, int]]) -> None:
    check_history(steps, milvus.url)


def check_history(steps: list[tuple[str, int]], backend: str) -> None:
    """Compare every search of a history, and two more after its end, with brute force."""
    with tempfile.TemporaryDirectory() as folder:
        collection = new_collection(Path(folder), vectors=backend)
        ids: dict[int, int] = {}
        for seed, (step, argument) in enumerate([*steps, ("search", 1), ("restart", 0), ("search", 2)]):
            if step == "add":
                ids[argument] = collection.add_video(*new_video(argument)).id
            elif step == "delete" and argument in ids:
                collection.delete_video(ids.pop(argument))
            elif step == "search":
                check_search(collection, set(ids), argument + seed)
            elif step == "restart":
                collection.close()
                collection = CollectionStore(Path(folder)).open("videos")
            elif step == "crash":  # without a snapshot
                collection.catalogue.close()
                collection = CollectionStore(Path(folder)).open("videos")
        collection.close()
        CollectionStore(Path(folder)).drop("videos")
