"""Search by sentences, clips and files, words, reranking, groups and pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import Library
from index.jobs.ingest import ingest_file
from index.search import search as search_module
from index.search.query import ClipPart, Part, TextPart, VectorPart
from index.search.search import MAX_RERANK, RankedHit, Search, search, search_text
from index.storage.filters import parse_filter
from tests.index.numbered import new_collection
from tests.index.paging import all_pages
from tests.media_files import solid, write_picture
from tests.small_bundle import make_small_bundle
from vitascope.errors import FingerprintMismatch, InvalidInput, NotFound, TaskMissing, TextError
from vitascope.model import Model

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
    with Library(root / "library") as library:
        collection = library.create("videos", small_model)
        for name, color in PALETTE.items():
            path = write_picture(root / f"{name}.png", solid(color))
            ingest_file(collection, small_model, path, metadata={"name": name, "dark": sum(color) < 200})
        yield collection


def titles(found: list[RankedHit]) -> list[str]:
    return [ranked.hit.video.title for ranked in found]


@pytest.mark.parametrize("color", ["red", "green", "blue", "white", "black"])
def test_a_sentence_finds_what_it_says(collection: Collection, small_model: Model, color: str) -> None:
    assert titles(search_text(collection, small_model, f"a {color} thing", 1)) == [color]
    assert titles(search_text(collection, small_model, f"a {color} thing", 1, rerank=3)) == [color]


def test_without_reranking_only_the_similarity_is_stated(collection: Collection, small_model: Model) -> None:
    found = search_text(collection, small_model, "red", 6)
    assert [(ranked.match, ranked.fused) for ranked in found] == [(None, None)] * 6
    similarities = [ranked.similarity for ranked in found]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities == [ranked.hit.similarity for ranked in found]


def test_reranked_hits_come_first_by_fused_score_and_the_rest_by_similarity(
    collection: Collection, small_model: Model
) -> None:
    plain = search_text(collection, small_model, "red", 6)
    found = search_text(collection, small_model, "red", 6, rerank=4)
    assert set(titles(found[:4])) == set(titles(plain[:4]))
    assert titles(found[4:]) == titles(plain[4:])
    fused = [ranked.fused or 0.0 for ranked in found[:4]]
    assert fused == sorted(fused, reverse=True)
    assert all(0 <= ranked.match <= 1 for ranked in found[:4] if ranked.match is not None)
    assert [ranked.fused for ranked in found[4:]] == [None, None]


def test_the_scores_are_those_of_the_model_on_the_kept_tokens(collection: Collection, small_model: Model) -> None:
    best = search_text(collection, small_model, "a red thing", 1, rerank=1)[0]
    match = small_model.match(["a red thing"], collection.visual_tokens([best.hit.clip_id]))
    assert best.match == pytest.approx(float(match.probabilities[0]), abs=1e-6)
    assert best.similarity == pytest.approx(
        float(small_model.embed_text(["a red thing"])[0] @ small_model.embed_file(best.hit.video.path).vectors[0]),
        abs=1e-5,
    )


def test_reranking_deeper_than_the_limit_can_bring_up_what_similarity_missed(
    collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = search_text(collection, small_model, "red", 6)
    monkeypatch.setattr(small_model, "fused", lambda similarity, logits: 1 - (similarity + 1) / 2)
    assert titles(search_text(collection, small_model, "red", 2, rerank=6)) == titles(plain)[:3:-1]


def test_a_filter_narrows_what_is_searched(collection: Collection, small_model: Model) -> None:
    where = parse_filter({"dark": True})
    assert set(titles(search_text(collection, small_model, "white", 9, where, rerank=9))) == {"dark red", "black"}


def test_a_clip_deleted_meanwhile_is_left_out(
    collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = search_text(collection, small_model, "green", 1)[0].hit
    stored = collection.stored_tokens

    def without(clip_ids: object) -> object:
        return {clip: tokens for clip, tokens in stored(clip_ids).items() if clip != best.clip_id}  # type: ignore[arg-type]

    monkeypatch.setattr(collection, "stored_tokens", without)
    found = search_text(collection, small_model, "green", 6, rerank=6)
    assert len(found) == 5
    assert "green" not in titles(found)


def test_clips_without_tokens_are_found_and_follow_those_that_were_judged(tmp_path: Path, small_model: Model) -> None:
    with Library(tmp_path / "library") as library:
        collection = library.create("videos", small_model)
        for name, color in PALETTE.items():
            ingest_file(collection, small_model, write_picture(tmp_path / f"{name}.png", solid(color)))
        plain = search_text(collection, small_model, "red", 6)
        bare = {plain[0].hit.clip_id, plain[2].hit.clip_id}
        with collection.catalogue.write() as connection:
            connection.executemany("DELETE FROM tokens WHERE clip_id = ?", [(clip_id,) for clip_id in bare])
        found = search_text(collection, small_model, "red", 6, rerank=4)
    assert [ranked.match is None for ranked in found] == [False, False, True, True, True, True]
    assert titles(found[2:]) == [titles(plain)[i] for i in (0, 2, 4, 5)]


def test_an_empty_collection_finds_nothing(tmp_path: Path, small_model: Model) -> None:
    with Library(tmp_path) as library:
        assert search_text(library.create("none", small_model), small_model, "red", 5, rerank=5) == []


def test_what_cannot_be_searched_is_named(collection: Collection, small_model: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="rerank: -1"):
        search_text(collection, small_model, "red", 5, rerank=-1)
    with pytest.raises(InvalidInput, match=f"rerank: {MAX_RERANK + 1}"):
        search_text(collection, small_model, "red", 5, rerank=MAX_RERANK + 1)
    with pytest.raises(InvalidInput, match="limit: 0"):
        search_text(collection, small_model, "red", 0)
    for text in ("", " ", "x" * 100_000):
        with pytest.raises(TextError):
            search_text(collection, small_model, text, 5)
    with pytest.raises(FingerprintMismatch), new_collection(tmp_path) as others:
        search_text(others, small_model, "red", 5)


def test_reranking_needs_a_bundle_that_can_match(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path / "bundle", tasks=("retrieval",)), threads=1, device="cpu")
    with Library(tmp_path / "library") as library:
        collection = library.create("videos", model)
        ingest_file(collection, model, write_picture(tmp_path / "red.png", solid((255, 0, 0))))
        assert len(search_text(collection, model, "red", 5)) == 1
        with pytest.raises(TaskMissing, match="rerank: 3"):
            search_text(collection, model, "red", 5, rerank=3)


def titles_for(collection: Collection, model: Model, *parts: Part, **asked: Any) -> list[str]:
    return titles([result.best for result in search(collection, model, Search(parts, **asked)).results])


def clip_of(collection: Collection, title: str) -> int:
    return next(collection.clips(video.id)[0].id for video in collection.videos() if video.title == title)


def test_a_clip_finds_what_looks_like_it_and_itself_only_on_request(collection: Collection, small_model: Model) -> None:
    red = ClipPart(clip_of(collection, "red"))
    assert titles_for(collection, small_model, red, limit=1) == ["dark red"]
    assert titles_for(collection, small_model, red, limit=2, include_query_clips=True) == ["red", "dark red"]
    assert len(titles_for(collection, small_model, red)) == len(PALETTE) - 1


def test_a_file_that_is_not_in_the_collection_can_be_searched_with(
    collection: Collection, small_model: Model, tmp_path: Path
) -> None:
    path = write_picture(tmp_path / "teal.png", solid((10, 230, 40)))
    vector = small_model.embed_file(path).vectors[0]
    assert titles_for(collection, small_model, VectorPart(vector), limit=1) == ["green"]


def test_parts_are_mixed_by_their_weights(collection: Collection, small_model: Model) -> None:
    red, blue = TextPart("a red thing", 1), TextPart("a blue thing", 1)
    assert set(titles_for(collection, small_model, red, blue, limit=3)) == {"red", "dark red", "blue"}
    most = ClipPart(clip_of(collection, "blue"), 10)
    assert titles_for(collection, small_model, red, most, limit=1, include_query_clips=True) == ["blue"]
    without = titles_for(collection, small_model, TextPart("red"), ClipPart(clip_of(collection, "red"), -0.5))
    assert "red" not in without
    scaled = search(collection, small_model, Search([TextPart("red", 7), TextPart("blue", 7)])).results
    plain = search(collection, small_model, Search([TextPart("red"), TextPart("blue")])).results
    assert [r.best.similarity for r in scaled] == pytest.approx([r.best.similarity for r in plain], abs=1e-6)


def test_a_search_without_text_is_not_reranked(collection: Collection, small_model: Model) -> None:
    red = ClipPart(clip_of(collection, "red"))
    with pytest.raises(InvalidInput, match="rerank: 5; 0 was expected, as the query has no texts"):
        search(collection, small_model, Search([red], rerank=5))
    mixed = search(collection, small_model, Search([red, TextPart("a red thing")], rerank=2)).results
    assert [result.best.fused is not None for result in mixed] == [True, True, *[False] * 3]
    with pytest.raises(InvalidInput, match="rerank: 5; 0 was expected, as the query has 2 texts"):
        search(collection, small_model, Search([TextPart("red"), TextPart("blue")], rerank=5))


def test_words_of_a_title_bring_up_what_similarity_alone_does_not(collection: Collection, small_model: Model) -> None:
    """ "dark" is no word that the model knows; the title has it."""
    text = TextPart("dark blue")
    assert titles_for(collection, small_model, text, limit=1) == ["blue"]
    found = search(collection, small_model, Search([text], hybrid=True)).results
    assert set(titles([result.best for result in found[:2]])) == {"blue", "dark red"}
    by_title = {result.best.hit.video.title: result.best.ranks for result in found}
    assert by_title["white"].words is None
    assert {by_title["blue"].words, by_title["dark red"].words} == {1, 2}
    assert by_title["blue"].similarity == 1
    kept = search(collection, small_model, Search([text], hybrid=True, where=parse_filter({"dark": True}))).results
    assert set(titles([result.best for result in kept])) == {"dark red", "black"}


def test_less_similar_ones_are_left_out_on_request(collection: Collection, small_model: Model) -> None:
    plain = search_text(collection, small_model, "red", 6)
    least = (plain[1].similarity + plain[2].similarity) / 2
    for hybrid in (False, True):
        found = search(collection, small_model, Search([TextPart("red")], min_similarity=least, hybrid=hybrid)).results
        assert titles([result.best for result in found]) == titles(plain)[:2]


def test_pages_of_a_reranked_search_fit_together(collection: Collection, small_model: Model) -> None:
    whole = titles_for(collection, small_model, TextPart("red"), limit=6, rerank=3)
    pages = all_pages(collection, small_model, Search([TextPart("red")], 2, rerank=3))
    assert [title for page in pages for title in titles([r.best for r in page.results])] == whole
    assert [len(page.results) for page in pages] == [2, 2, 2]
    assert not any(page.changed for page in pages)
    assert [r.best.fused is None for page in pages for r in page.results] == [False] * 3 + [True] * 3


def test_all_videos_are_found_however_many_clips_the_best_one_has(
    tmp_path: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search_module.CANDIDATES, "video", 20)
    with Library(tmp_path) as library:
        collection = library.create("videos", small_model)
        vectors = small_model.embed_text(["red", "blue"])
        tokens = np.zeros((2, 16), np.float16)
        for n, (vector, clips) in enumerate(zip(vectors, (50, 2), strict=True)):
            video = NewVideo(f"{n:064x}", "/v.mp4", f"video {n}", 400.0, 8, 8)
            collection.add_video(video, [NewClip(8.0 * c, 8.0 * c + 8, vector, tokens) for c in range(clips)])
        found = search(collection, small_model, Search([TextPart("red")], group="video")).results
        assert [(result.best.hit.video.title, result.clip_count) for result in found] == [
            ("video 0", 50),
            ("video 1", 2),
        ]
        few = search(collection, small_model, Search([TextPart("red")], group="video", candidates=20)).results
        assert [result.clip_count for result in few] == [20]
        event = search(collection, small_model, Search([TextPart("red")], group="event", listed=3)).results[0]
        assert (event.start, event.end, event.clip_count, len(event.clips)) == (0.0, 400.0, 50, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": []}, "query: no parts"),
        ({"parts": [TextPart("red", 0)]}, r"query\.0\.weight: 0"),
        ({"parts": [TextPart("red"), TextPart("red", float("nan"))]}, r"query\.1\.weight: nan"),
        ({"parts": [TextPart("red", 1), TextPart("red", -1)]}, "query: its parts cancel each other out"),
        ({"parts": [VectorPart(np.ones(3, np.float32))]}, r"vector: shape \(3,\)"),
        ({"parts": [ClipPart(1)], "hybrid": True}, "hybrid: true; false was expected"),
        ({"parts": [TextPart("red", -1)], "rerank": 1}, "rerank: 1; 0 was expected"),
        ({"group": "scene"}, "group: 'scene'; one of clip, event, video"),
        ({"listed": 0}, "clips: 0"),
        ({"candidates": 5}, "candidates: 5; only with group event or video"),
        ({"candidates": 10_001, "group": "event"}, "candidates: 10001"),
        ({"min_similarity": 1.5}, "min_similarity: 1.5"),
    ],
)
def test_what_cannot_be_asked_is_named(
    collection: Collection, small_model: Model, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        search(collection, small_model, Search(**{"parts": [TextPart("red")], **wrong}))


def test_a_clip_that_is_not_there_is_named(collection: Collection, small_model: Model) -> None:
    with pytest.raises(NotFound, match=r"query\.1: clip 999"):
        search(collection, small_model, Search([TextPart("red"), ClipPart(999)]))
