"""Search by a sentence, and reranking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from index.collection import Collection
from index.filters import parse_filter
from index.ingest import ingest_file
from index.library import Library
from index.search import MAX_RERANK, RankedHit, search_text
from tests.index.numbered import new_collection
from tests.media_files import solid, write_picture
from tests.small_bundle import make_small_bundle
from vitascope.errors import FingerprintMismatch, InvalidInput, TaskMissing, TextError
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


def test_an_empty_collection_finds_nothing(tmp_path: Path, small_model: Model) -> None:
    with Library(tmp_path) as library:
        assert search_text(library.create("none", small_model), small_model, "red", 5, rerank=5) == []


def test_what_cannot_be_searched_is_named(collection: Collection, small_model: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="rerank: -1"):
        search_text(collection, small_model, "red", 5, rerank=-1)
    with pytest.raises(InvalidInput, match=f"rerank: {MAX_RERANK + 1}"):
        search_text(collection, small_model, "red", 5, rerank=MAX_RERANK + 1)
    with pytest.raises(InvalidInput, match="k: 0"):
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
