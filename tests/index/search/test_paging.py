"""Pages have no duplicates and no gaps, with every index and with any changes between pages; cursors are checked."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import MAX_K, Collection, NewClip, NewVideo, Video
from index.collection_store import CollectionStore
from index.search.request import (
    MAX_CURSOR_LENGTH,
    SearchCursor,
    SearchPosition,
    SearchRequest,
    decode_cursor,
    encode_cursor,
)
from index.search.search import SearchPage, search
from index.storage.filters import parse_filter
from index.vectors import faiss_index, faiss_kinds
from index.vectors.faiss_kinds import FLAT, HNSW, IVFPQ
from tests.chaos import only_by_chaos
from tests.index.sample_data import TOKENS, WIDTH, add, content, manifest, new_video, use_kinds_when_small
from tests.index.searches import MODEL, all_pages, request_for, search_page
from vitascope.errors import CursorExpired, InvalidInput

VIDEOS, EACH = 40, 30
WORDS = ("dog", "cat", "engine", "boat", "snow", "piano")
RED = parse_filter({"color": "red"})
REQUESTS: dict[str, dict[str, Any]] = {
    "clips": {},
    "filter": {"where": RED},
    "words": {"rerank": 200},
    "similar": {"min_similarity": 0.1},
    "events": {"group": "event", "candidates": MAX_K, "clips_per_result": EACH},
    "all": {"where": RED, "rerank": 40, "group": "video"},
}


@pytest.fixture(autouse=True, scope="module")
def approximate_indexes() -> Iterator[None]:
    """Build and search small graphs and lists of low recall, which miss more than the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        use_kinds_when_small(patch)
        patch.setattr(faiss_index, "MIN_CLIPS", faiss_kinds.MIN_CLIPS)
        patch.setattr(faiss_index, "MIN_CHANGED", 10)
        patch.setattr(faiss_index, "RETRY_SECONDS", 0.0)
        patch.setattr(faiss_kinds, "HNSW_M", 4)
        patch.setattr(faiss_kinds, "EF_CONSTRUCTION", 8)
        patch.setattr(faiss_kinds, "ef_search", lambda total: 10)
        patch.setattr(faiss_kinds, "nprobe", lambda total: 1)
        patch.setattr(faiss_kinds, "k_factor", lambda k: max(1, 40 // k))
        yield


@pytest.fixture(scope="module", params=[FLAT, HNSW, IVFPQ, pytest.param("milvus", marks=only_by_chaos)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def library(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CollectionStore]:
    root = tmp_path_factory.mktemp("paging")
    vectors = str(request.getfixturevalue("milvus").url) if kind == "milvus" else "faiss"
    with CollectionStore(root, vectors=vectors) as library:
        yield library
    with CollectionStore(root) as library:
        for name in library.names():
            library.drop(name)


@pytest.fixture(scope="module")
def collection(library: CollectionStore, kind: str) -> Collection:
    return filled(library, "unchanged", kind)


def start(number: int) -> float:
    """Seconds; clips last 4 s, and every two touch."""
    return 4.0 * number + 8.0 * (number // 2)


def filled(library: CollectionStore, name: str, kind: str) -> Collection:
    collection = library.create(name, manifest(), index_kind=HNSW if kind == "milvus" else kind)
    random = np.random.default_rng(3)
    for number in range(VIDEOS):
        vectors = random.standard_normal((EACH, WIDTH)).astype(np.float32)
        clips = [
            NewClip(start(n), start(n) + 4, vector, np.full(TOKENS, number / VIDEOS), WORDS[(number + n) % len(WORDS)])
            for n, vector in enumerate(vectors)
        ]
        color = "red" if number % 3 else "blue"
        path = f"/videos/{number}.mp4"
        collection.add_video(NewVideo(content(number), path, f"video {number}", 200.0, 32, 18, {"color": color}), clips)
    build(collection, collection.index_state().requested)
    return collection


def build(collection: Collection, kind: str) -> None:
    """Build an index of this kind."""
    search_page(collection, MODEL, "snow")
    collection.set_index_kind(kind)
    collection.wait_for_index()
    assert collection.index_state().serving == kind


def request_of(name: str) -> SearchRequest:
    options = REQUESTS[name]
    return request_for(MODEL, "snow piano", limit=5 if options.get("group") == "video" else 100, **options)


def shown_on(pages: list[SearchPage], request: SearchRequest) -> list[int]:
    """Return the ids on the pages in order: of videos where these are the results, else of clips."""
    results = [result for page in pages for result in page.results]
    if request.group == "event":
        return [clip.hit.clip_id for result in results for clip in result.clips]
    return [result.best.hit.video_id if request.group == "video" else result.best.hit.clip_id for result in results]


def all_in(collection: Collection, request: SearchRequest) -> set[int]:
    """Return the ids of all possible results of a request."""
    if request.min_similarity is not None:
        query = MODEL.embed_text(["snow piano"])[0]
        hits = collection.search(query, MAX_K)  # compares every clip
        return {hit.clip_id for hit in hits if hit.similarity >= request.min_similarity}
    videos = [video.id for video in collection.videos(MAX_K) if request.where is None or is_red(video)]
    return {shown_id for video in videos for shown_id in ids_of(collection, video, request)}


def is_red(video: Video) -> bool:
    return video.metadata["color"] == "red"


def ids_of(collection: Collection, video_id: int, request: SearchRequest) -> list[int]:
    return [video_id] if request.group == "video" else [clip.id for clip in collection.clips(video_id)]


@pytest.mark.parametrize("name", REQUESTS)
def test_pages_have_no_duplicates_and_no_gaps(collection: Collection, name: str) -> None:
    request = request_of(name)
    pages = all_pages(collection, MODEL, request)
    shown = shown_on(pages, request)
    assert len(shown) == len(set(shown))
    assert set(shown) == all_in(collection, request)
    assert [len(page.results) for page in pages[:-1]] == [request.limit] * (len(pages) - 1)
    assert len(pages) > 4
    assert not any(page.changed for page in pages)


@pytest.mark.parametrize("name", ["clips", "events", "all"])
def test_changes_between_pages_cause_no_duplicates_and_no_gaps(library: CollectionStore, kind: str, name: str) -> None:
    """Deleted videos are left out and added ones do not appear, while other indexes are built."""
    changing = filled(library, f"changing-{name}", kind)
    request = request_of(name)
    before = all_in(changing, request)
    videos = [video.id for video in changing.videos(MAX_K)]
    setting = changing.index_state().requested
    other = {FLAT: HNSW, HNSW: FLAT, IVFPQ: HNSW}[setting]
    deleted: set[int] = set()

    def change(page: int) -> None:
        for video_id in videos[5 * page : 5 * page + 2]:
            deleted.update(ids_of(changing, video_id, request))
            changing.delete_video(video_id)
        for number in range(1000 + 2 * page, 1002 + 2 * page):
            changing.add_video(*new_video(number))
        if page in (2, 4):
            build(changing, other if page == 2 else setting)

    pages = all_pages(changing, MODEL, request, between=change)
    shown = shown_on(pages, request)
    assert len(shown) == len(set(shown))
    assert before - deleted <= set(shown) <= before
    assert deleted - set(shown)
    assert [page.changed for page in pages] == [False, *[True] * (len(pages) - 1)]
    new_search = all_pages(changing, MODEL, request)
    assert set(shown_on(new_search, request)) == all_in(changing, request)


def test_a_cursor_works_after_reopening_the_collection(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", manifest())
        add(collection, *range(6))
        first = search_page(collection, MODEL, "snow", limit=4)
    with CollectionStore(tmp_path) as library:
        second = search_page(library.open("videos"), MODEL, "snow", limit=20, after=first.next_position)
    shown = shown_on([first, second], request_for(MODEL))
    assert len(shown) == len(set(shown)) == 12
    assert (second.changed, second.next_position) == (False, None)


def test_a_cursor_of_a_replaced_collection_has_expired(tmp_path: Path) -> None:
    request = request_for(MODEL, "snow", limit=1)
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", manifest())
        add(collection, 1, 2)
        old = search(collection, request).next_position
        library.drop("videos")
        collection = library.create("videos", manifest())
        add(collection, 1, 2)
        with pytest.raises(CursorExpired, match="collection videos was replaced"):
            search(collection, replace(request, after=old))


def test_a_cursor_of_a_reverted_state_has_expired(tmp_path: Path) -> None:
    """A copy of the files from before may give the ids in the cursor to other clips."""
    request = request_for(MODEL, "snow", limit=1)
    with CollectionStore(tmp_path / "library") as library:
        collection = library.create("videos", manifest())
        add(collection, 1)
    shutil.copytree(tmp_path / "library", tmp_path / "copy")
    with CollectionStore(tmp_path / "library") as library:
        collection = library.open("videos")
        add(collection, 2)
        cursor = search(collection, request).next_position
    with CollectionStore(tmp_path / "copy") as library:
        collection = library.open("videos")
        for numbers in ((), (3,), (4,)):
            add(collection, *numbers)
            with pytest.raises(CursorExpired):
                search(collection, replace(request, after=cursor))


def test_the_longest_cursor_can_be_decoded() -> None:
    random = np.random.default_rng(0)
    ids = frozenset(random.choice(2**40, MAX_K, replace=False).tolist())
    vector = random.standard_normal(2048).astype(np.float32)
    cursor = SearchCursor("name", SearchPosition("f" * 32, (2**40, -(2**63)), 2**40, ids), vector)
    text = encode_cursor(cursor)
    assert len(text) <= MAX_CURSOR_LENGTH
    read = decode_cursor(text, "name")
    assert read.position == cursor.position
    np.testing.assert_array_equal(read.embedding, vector)


FIELDS: dict[str, Any] = {"search": "name", "collection": "c", "change": [1, -5], "newest": 9, "shown": [1, 2]}


@pytest.mark.parametrize(
    "forged",
    [
        *({"shown": shown} for shown in ([1] * (MAX_K + 1), [3, -1], [1, True], [1.5], 7)),
        *({"newest": newest} for newest in (-1, "9", 2**63)),
        *({"change": change} for change in ([1], [-1, 0], [1, None])),
        *({"vector": vector} for vector in ("AAA=", 3)),
        {"collection": None},
        {"padding": " " * 400_000},
    ],
)
def test_a_forged_cursor_is_rejected(forged: dict[str, Any]) -> None:
    assert decode_cursor(packed(FIELDS), "name").position.shown == {1, 3}
    with pytest.raises(InvalidInput, match="cursor: "):
        decode_cursor(packed({**FIELDS, **forged}), "name")


def packed(fields: object) -> str:
    return compressed(json.dumps(fields).encode())


def compressed(content: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("=")


def test_an_invalid_cursor_is_rejected() -> None:
    whole = packed(FIELDS)
    bomb, nested = compressed(b" " * 50_000_000), compressed(b"[" * 100_000)
    assert len(bomb) < MAX_CURSOR_LENGTH
    for text in ("", "a", "!!", "e30", whole[:-4], whole * 2000, bomb, nested, *map(packed, ([], "name", None))):
        with pytest.raises(InvalidInput, match="cursor: "):
            decode_cursor(text, "name")
    with pytest.raises(InvalidInput, match="cursor: of another search"):
        decode_cursor(whole, "other")


def test_a_forged_position_costs_one_search(tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", manifest())
        add(collection, 1, 2)
        known = search_page(collection, MODEL, "snow", limit=1).next_position
        assert known is not None
        forged = replace(known, newest_clip=2**62, shown=frozenset(range(2**62, 2**62 + MAX_K)))
        page = search_page(collection, MODEL, "snow", after=forged)
        assert len(page.results) == 5
        assert page.next_position is None
