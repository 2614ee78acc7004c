"""Relevance of results, and warnings where no result is a good match."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.search.request import ClipPart
from tests.index.jobs.fixtures import ingest_file
from tests.index.searches import search_hits, search_page
from tests.media_files import solid, write_picture
from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput
from vitascope.model import Model

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CALIBRATION = Calibration(similarity_scale=10.0, similarity_bias=-5.0)
"""A similarity of 0.5 has the relevance 0.5."""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Iterator[Collection]:
    root = tmp_path_factory.mktemp("relevance")
    with CollectionStore(root / "library") as library:
        collection = library.create("videos", small_model)
        for name, colour in COLOURS.items():
            ingest_file(collection, small_model, write_picture(root / f"{name}.png", solid(colour)))
        yield collection


def test_relevance_is_the_calibrated_similarity(collection: Collection, small_model: Model) -> None:
    for hit in search_hits(collection, small_model, "a red thing", calibration=CALIBRATION, hybrid=False):
        assert hit.relevance == pytest.approx(1 / (1 + np.exp(5 - 10 * hit.similarity)))


def test_relevance_of_a_reranked_clip_is_its_fused_score(collection: Collection, small_model: Model) -> None:
    hits = search_hits(collection, small_model, "a red thing", rerank=1)
    assert [hit.relevance for hit in hits] == [hits[0].fused, None, None]


def test_without_calibration_relevance_is_unknown_and_there_is_no_warning(
    collection: Collection, small_model: Model
) -> None:
    page = search_page(collection, small_model, "a yellow thing")
    assert ({result.best.relevance for result in page.results}, page.warnings) == ({None}, [])


def test_a_clip_that_contains_the_words_is_relevant_whatever_it_shows(
    collection: Collection, small_model: Model
) -> None:
    """The name of the green picture has the word; by similarity alone nothing is relevant."""
    calibration = Calibration(similarity_scale=1.0, similarity_bias=-20.0)
    page = search_page(collection, small_model, "green", calibration=calibration)
    assert [result.best.relevance for result in page.results] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert page.warnings == []
    some = search_hits(collection, small_model, "green", calibration=calibration, min_relevance=0.9)
    assert [hit.hit.video.title for hit in some] == ["green"]
    page = search_page(collection, small_model, "a green submarine under ice", calibration=calibration)
    assert [warning.code for warning in page.warnings] == ["no_good_match"]


def test_relevance_of_a_query_with_a_clip_is_unknown(collection: Collection, small_model: Model) -> None:
    hits = search_hits(collection, small_model, "red", ClipPart(1), calibration=CALIBRATION)
    assert {hit.relevance for hit in hits} == {None}


def test_a_page_without_a_good_match_has_a_warning(collection: Collection, small_model: Model) -> None:
    page = search_page(collection, small_model, "a white thing", calibration=CALIBRATION)
    (warning,) = page.warnings
    assert warning.code == "no_good_match"
    assert f"{max(result.best.relevance or 0 for result in page.results):.2f}" in warning.detail
    assert search_page(collection, small_model, "a red thing", calibration=CALIBRATION).warnings == []


@pytest.mark.parametrize("options", [{"rerank": 0}, {"rerank": 2}, {"group": "video"}, {"hybrid": True}])
def test_clips_of_lower_relevance_are_left_out(
    collection: Collection, small_model: Model, options: dict[str, object]
) -> None:
    def best(**bounds: float) -> list[tuple[int, float | None]]:
        arguments = {**options, **bounds, "calibration": CALIBRATION}
        hits = search_hits(collection, small_model, "a blue thing", **arguments)
        return [(hit.hit.clip_id, hit.relevance) for hit in hits]

    everything = best()
    assert best(min_relevance=0.5) == [pair for pair in everything if (pair[1] or 0) >= 0.5] != everything
    assert best(min_relevance=0.0) == everything
    assert best(min_relevance=1.0) == []


def test_min_relevance_needs_a_query_whose_relevance_is_known(collection: Collection, small_model: Model) -> None:
    with pytest.raises(InvalidInput, match=r"min_relevance: 0\.5; null was expected, as the bundle has no calibration"):
        search_page(collection, small_model, "red", min_relevance=0.5)
    with pytest.raises(InvalidInput, match=r"min_relevance: .* only a text and reranked clips have a relevance"):
        search_page(collection, small_model, ClipPart(1), min_relevance=0.5, calibration=CALIBRATION)
    with pytest.raises(InvalidInput, match=r"min_relevance: 2; a number from 0 to 1"):
        search_page(collection, small_model, "red", min_relevance=2, calibration=CALIBRATION)
