"""Search by texts, clips and embeddings, with full text, reranking, groups and pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.search.request import CANDIDATES, ClipPart, EmbeddingPart, QueryPart, SearchRequest, TextPart
from index.search.search import RankedHit, search
from index.storage.filters import parse_filter
from tests.index.jobs.fixtures import ingest_file
from tests.index.searches import search_hits, search_page, text_part
from tests.media_files import solid, write_picture
from tests.small_bundle import make_small_bundle
from vitascope.bundle.manifest import MAX_RERANK
from vitascope.errors import InvalidInput, NotFound, TaskMissing
from vitascope.model import Model

DIM = 16
PALETTE = {
    "red": (255, 0, 0),
    "dark red": (150, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Iterator[Collection]:
    root = tmp_path_factory.mktemp("search")
    with CollectionStore(root / "library") as library:
        collection = library.create("videos", small_model)
        for name, color in PALETTE.items():
            path = write_picture(root / f"{name}.png", solid(color))
            ingest_file(collection, small_model, path, metadata={"name": name, "dark": sum(color) < 200})
        yield collection


def titles(hits: list[RankedHit]) -> list[str]:
    return [hit.hit.video.title for hit in hits]


@pytest.mark.parametrize("color", ["red", "green", "blue", "white", "black"])
def test_a_text_finds_the_matching_video(collection: Collection, small_model: Model, color: str) -> None:
    assert titles(search_hits(collection, small_model, f"a {color} thing", limit=1)) == [color]
    assert titles(search_hits(collection, small_model, f"a {color} thing", limit=1, rerank=3)) == [color]


def test_scores_are_those_of_the_model_on_stored_tokens(collection: Collection, small_model: Model) -> None:
    best = search_hits(collection, small_model, "a red thing", limit=1, rerank=1)[0]
    match = small_model.match(["a red thing"], collection.visual_tokens([best.hit.clip_id]))
    assert best.match == pytest.approx(float(match.probabilities[0]), abs=1e-6)
    assert best.similarity == pytest.approx(
        float(
            small_model.embed_text(["a red thing"])[0] @ small_model.embed_video_file(best.hit.video.path).vectors[0]
        ),
        abs=1e-5,
    )


def test_a_clip_deleted_during_reranking_is_excluded(
    collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = search_hits(collection, small_model, "green", limit=1)[0].hit
    stored = collection.stored_tokens

    def without(clip_ids: object) -> object:
        return {clip: tokens for clip, tokens in stored(clip_ids).items() if clip != best.clip_id}  # type: ignore[arg-type]

    monkeypatch.setattr(collection, "stored_tokens", without)
    hits = search_hits(collection, small_model, "green", limit=6, rerank=6)
    assert len(hits) == 5
    assert "green" not in titles(hits)


def test_a_clip_edited_during_reranking_is_shown_as_it_matched(
    collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = collection.stored_tokens
    [green] = collection.videos(where=parse_filter({"name": "green"}))

    def edit(clip_ids: list[int]) -> object:
        collection.edit_video(green.id, title="edited", metadata={"name": "other"})
        return stored(clip_ids)

    monkeypatch.setattr(collection, "stored_tokens", edit)
    where = parse_filter({"name": "green"})
    try:
        [hit] = search_hits(collection, small_model, "green", limit=1, rerank=1, where=where)
    finally:
        collection.edit_video(green.id, title="green", metadata={"name": "green"})
    assert (hit.hit.video.title, hit.hit.video.metadata["name"]) == ("green", "green")


def test_clips_without_tokens_follow_the_reranked_ones(tmp_path: Path, small_model: Model) -> None:
    with CollectionStore(tmp_path / "library") as library:
        collection = library.create("videos", small_model)
        for name, color in PALETTE.items():
            ingest_file(collection, small_model, write_picture(tmp_path / f"{name}.png", solid(color)))
        plain = search_hits(collection, small_model, "red", limit=6, signals={"visual": 1})
        bare = {plain[0].hit.clip_id, plain[2].hit.clip_id}
        with collection.catalogue.write() as connection:
            connection.executemany("DELETE FROM tokens WHERE clip_id = ?", [(clip_id,) for clip_id in bare])
        hits = search_hits(collection, small_model, "red", limit=6, rerank=4, signals={"visual": 1})
    assert [hit.match is None for hit in hits] == [False, False, True, True, True, True]
    assert titles(hits[2:]) == [titles(plain)[i] for i in (0, 2, 4, 5)]


def test_reranking_needs_a_bundle_with_the_task_matching(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path / "bundle", tasks=("retrieval",)), threads=1, device="cpu")
    with CollectionStore(tmp_path / "library") as library:
        collection = library.create("videos", model)
        ingest_file(collection, model, write_picture(tmp_path / "red.png", solid((255, 0, 0))))
        assert len(search_hits(collection, model, "red", limit=5)) == 1
        with pytest.raises(TaskMissing, match="rerank: 3"):
            search_hits(collection, model, "red", limit=5, rerank=3)


def titles_of(collection: Collection, model: Model, *parts: str | QueryPart, **options: Any) -> list[str]:
    return titles(search_hits(collection, model, *parts, **options))


def clip_of(collection: Collection, title: str) -> int:
    return next(collection.clips(video.id)[0].id for video in collection.videos() if video.title == title)


def test_a_query_can_be_the_embedding_of_a_file(collection: Collection, small_model: Model, tmp_path: Path) -> None:
    path = write_picture(tmp_path / "teal.png", solid((10, 230, 40)))
    vector = small_model.embed_video_file(path).vectors[0]
    assert titles_of(collection, small_model, EmbeddingPart(vector), limit=1) == ["green"]


def test_query_parts_are_combined_by_weight(collection: Collection, small_model: Model) -> None:
    red, blue = "a red thing", "a blue thing"
    assert set(titles_of(collection, small_model, red, blue, limit=3)) == {"red", "dark red", "blue"}
    heavy = ClipPart(clip_of(collection, "blue"), 10)
    assert titles_of(collection, small_model, red, heavy, limit=1, include_query_clips=True) == ["blue"]
    without = titles_of(collection, small_model, "red", ClipPart(clip_of(collection, "red"), -0.5))
    assert "red" not in without
    plain = search_hits(collection, small_model, "red", "blue")
    scaled = search_hits(collection, small_model, *(text_part(small_model, text, 7) for text in ("red", "blue")))
    assert [hit.similarity for hit in scaled] == pytest.approx([hit.similarity for hit in plain], abs=1e-6)


def test_reranking_needs_exactly_one_text(collection: Collection, small_model: Model) -> None:
    red = ClipPart(clip_of(collection, "red"))
    with pytest.raises(InvalidInput, match="rerank: 5; 0 was expected, as the query has no texts"):
        search_page(collection, small_model, red, rerank=5)
    mixed = search_hits(collection, small_model, red, "a red thing", rerank=2)
    assert [hit.fused is not None for hit in mixed] == [True, True, *[False] * 3]
    with pytest.raises(InvalidInput, match="rerank: 5; 0 was expected, as the query has 2 texts"):
        search_page(collection, small_model, "red", "blue", rerank=5)


def test_a_search_finds_words_of_titles_that_similarity_misses(collection: Collection, small_model: Model) -> None:
    """The model does not know the word "dark", which is in a title."""
    assert titles_of(collection, small_model, "dark blue", limit=1, signals={"visual": 1}) == ["blue"]
    hits = search_hits(collection, small_model, "dark blue")
    assert set(titles(hits[:2])) == {"blue", "dark red"}
    signals = {hit.hit.video.title: hit.signals for hit in hits}
    assert "name" not in signals["white"]
    assert {signals["blue"]["name"].rank, signals["dark red"]["name"].rank} == {1, 2}
    assert [match.text for match in signals["dark red"]["name"].matches] == ["dark"]
    assert signals["blue"]["visual"].rank == 1
    filtered = titles_of(collection, small_model, "dark blue", where=parse_filter({"dark": True}))
    assert set(filtered) == {"dark red", "black"}


def test_a_video_with_many_clips_does_not_hide_others(
    tmp_path: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CANDIDATES, "video", 20)
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", small_model)
        vectors = small_model.embed_text(["red", "blue"])
        tokens = np.zeros((2, 16), np.float16)
        for n, (vector, clips) in enumerate(zip(vectors, (50, 2), strict=True)):
            video = NewVideo(f"{n:064x}", "/v.mp4", f"video {n}", 400.0, 8, 8)
            collection.add_video(video, [NewClip(8.0 * c, 8.0 * c + 8, vector, tokens) for c in range(clips)])
        results = search_page(collection, small_model, "red", group="video").results
        counts = [(result.best.hit.video.title, result.clip_count) for result in results]
        assert counts == [("video 0", 50), ("video 1", 2)]
        few = search_page(collection, small_model, "red", group="video", candidates=20).results
        assert [result.clip_count for result in few] == [20]
        event = search_page(collection, small_model, "red", group="event", clips_per_result=3).results[0]
        assert (event.start, event.end, event.clip_count, len(event.clips)) == (0.0, 400.0, 50, 3)


def test_an_event_has_the_clips_of_a_film_that_fit(tmp_path: Path, small_model: Model) -> None:
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", small_model)
        red, blue = small_model.embed_text(["red", "blue"])
        tokens = np.zeros((2, 16), np.float16)
        for title, is_red in (("film", (20, 21, 23, 24, 40)), ("other", (3, 4))):
            shades = [0.9 * red + 0.1 * blue if clip in is_red else 0.1 * red + 0.9 * blue for clip in range(60)]
            clips = [NewClip(8.0 * clip, 8.0 * clip + 8, shade, tokens) for clip, shade in enumerate(shades)]
            collection.add_video(NewVideo(title.encode().hex().zfill(64), "/v.mp4", title, 480.0, 8, 8), clips)
        page = search_page(collection, small_model, "red", group="event", limit=200)
        events = [(result.best.hit.video.title, result.start, result.end, result.clip_count) for result in page.results]
        # A weak clip between fitting ones belongs to their event.
        assert events[:3] == [("film", 160.0, 200.0, 5), ("film", 320.0, 328.0, 1), ("other", 24.0, 40.0, 2)]
        assert {count for *_, count in events[3:]} == {1}
        assert len(events) == 3 + 120 - 8


def red(weight: float = 1.0) -> TextPart:
    return TextPart("red", np.ones(DIM, np.float32), weight)


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"parts": []}, "query: no parts"),
        ({"parts": [red(0)]}, r"query\.0\.weight: 0"),
        ({"parts": [red(), red(float("nan"))]}, r"query\.1\.weight: nan"),
        ({"parts": [red(1), red(-1)]}, "query: its parts cancel each other out"),
        ({"parts": [EmbeddingPart(np.ones(3, np.float32))]}, r"embedding: shape \(3,\)"),
        ({"parts": [EmbeddingPart(np.full(DIM, np.nan, np.float32))]}, "embedding: its length is nan"),
        ({"parts": [red(-1)], "rerank": 1}, "rerank: 1; 0 was expected"),
        ({"rerank": -1}, "rerank: -1"),
        ({"rerank": MAX_RERANK + 1}, f"rerank: {MAX_RERANK + 1}"),
        ({"limit": 0}, "limit: 0"),
        ({"group": "scene"}, "group: 'scene'; one of clip, event, video"),
        ({"clips_per_result": 0}, "clips: 0"),
        ({"candidates": 5}, "candidates: 5; null was expected, as group is clip"),
        ({"candidates": 10_001, "group": "event"}, "candidates: 10001"),
        ({"min_similarity": 1.5}, "min_similarity: 1.5"),
    ],
)
def test_an_invalid_request_is_rejected_by_name(collection: Collection, invalid: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        search(collection, SearchRequest(**{"fingerprint": collection.fingerprint, "parts": [red()], **invalid}))


def test_an_unknown_query_clip_is_named(collection: Collection) -> None:
    with pytest.raises(NotFound, match=r"query\.1: clip 999"):
        search(collection, SearchRequest(collection.fingerprint, [red(), ClipPart(999)]))
