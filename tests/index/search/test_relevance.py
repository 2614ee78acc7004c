"""Relevance of results, and warnings where no result is a good match."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.recognitions import store_speech
from index.records import NewClip, NewVideo
from index.search.candidates import RANK_DEPTH, Candidate, WordMatch
from index.search.fusion import Evidence, fuse
from index.search.relevance import GOOD_MATCH, language_warnings
from index.search.request import ClipPart, QueryPart, TextPart
from index.search.search import RankedHit
from tests.index.jobs.fixtures import ingest_file
from tests.index.searches import search_hits, search_page, text_part
from tests.media_files import solid, write_picture
from tests.small_bundle import make_small_bundle
from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.speech.interface import SpeechSegment

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
    for hit in search_hits(collection, small_model, "a red thing", calibration=CALIBRATION, signals={"visual": 1}):
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


@pytest.mark.parametrize(("score", "first"), [(0.3, 1), (1.0, 2)])
def test_only_a_literal_match_outranks_a_clip_that_is_clearly_visible(
    collection: Collection, score: float, first: int
) -> None:
    visible, spoken = Candidate(1, 0.6, {"visual": 0.6}, {"visual": 1}), WordMatch(9, 0.0, score, has_phrase=False)
    evidence = Evidence({"visual": 1.0, "speech": 1.0}, CALIBRATION, {})
    with collection.catalogue.read() as connection:
        fused = fuse(connection, np.ones(16, np.float32), {"visual": [visible]}, [spoken], evidence, 2)
    assert fused[0].clip_id == {1: 1, 2: 9}[first]


def test_relevance_of_a_query_with_a_clip_is_unknown(collection: Collection, small_model: Model) -> None:
    hits = search_hits(collection, small_model, "red", ClipPart(1), calibration=CALIBRATION)
    assert {hit.relevance for hit in hits} == {None}


def test_a_page_without_a_good_match_has_a_warning(collection: Collection, small_model: Model) -> None:
    page = search_page(collection, small_model, "a white thing", calibration=CALIBRATION)
    (warning,) = page.warnings
    assert warning.code == "no_good_match"
    assert f"{max(result.best.relevance or 0 for result in page.results):.2f}" in warning.detail
    assert search_page(collection, small_model, "a red thing", calibration=CALIBRATION).warnings == []


@pytest.mark.parametrize(
    "options", [{"rerank": 0}, {"rerank": 2}, {"group": "video"}, {"signals": {"visual": 1, "speech": 1}}]
)
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
    with pytest.raises(InvalidInput, match=r"min_relevance: .* clips or files have no relevance"):
        search_page(collection, small_model, ClipPart(1), min_relevance=0.5, calibration=CALIBRATION)
    with pytest.raises(InvalidInput, match=r"min_relevance: 2; a number from 0 to 1"):
        search_page(collection, small_model, "red", min_relevance=2, calibration=CALIBRATION)


MIXES = {"even": (0.55, 0.55, 0.0), "strong": (0.98, 0.15, 0.0), "other": (0.7, 0.0, 0.7)}
"""Similarities of clips to red, green and blue."""


@pytest.fixture(scope="module")
def mixes(tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Iterator[Collection]:
    with CollectionStore(tmp_path_factory.mktemp("mixes")) as library:
        collection = library.create("videos", small_model)
        colours = np.linalg.qr(small_model.embed_text(["red", "green", "blue", "black"]).T)[0].T
        colours *= np.sign((colours * small_model.embed_text(["red", "green", "blue", "black"])).sum(axis=1))[:, None]
        for title, mix in MIXES.items():
            rest = np.sqrt(max(0.0, 1 - np.square(mix).sum()))
            clip = NewClip(0.0, 2.0, np.asarray([*mix, rest] @ colours, np.float32), np.zeros((2, 16), np.float16))
            collection.add_video(NewVideo(title.encode().hex().zfill(64), "/v.mp4", title, 2.0, 8, 8), [clip])
        yield collection


def ranked(collection: Collection, model: Model, *parts: str | QueryPart, **options: Any) -> dict[str, RankedHit]:
    hits = search_hits(collection, model, *parts, calibration=CALIBRATION, **options)
    return {hit.hit.video.title: hit for hit in hits}


def test_a_clip_that_meets_all_conditions_ranks_above_one_that_meets_one_strongly(
    mixes: Collection, small_model: Model
) -> None:
    assert next(iter(ranked(mixes, small_model, "red"))) == "strong"
    assert next(iter(ranked(mixes, small_model, "red", "green"))) == "even"
    first = ranked(mixes, small_model, "red", "green", limit=1)
    assert list(first) == ["even"], "the order does not depend on the page"


def test_a_clip_that_meets_all_conditions_is_returned_however_many_meet_one_better(
    small_model: Model, tmp_path: Path
) -> None:
    red, green = np.linalg.qr(small_model.embed_text(["red", "green"]).T)[0].T.astype(np.float32)
    rest = np.linalg.svd(np.stack([red, green]))[2][2]
    mixes = {"red": (0.75, 0.05), "green": (0.05, 0.75), "both": (0.6, 0.6)}
    counts = {"red": RANK_DEPTH + 50, "green": RANK_DEPTH + 50, "both": 1}
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", small_model)
        for title, mix in mixes.items():
            vector = np.asarray([*mix, np.sqrt(1 - np.square(mix).sum())] @ np.stack([red, green, rest]), np.float32)
            tokens = np.zeros((2, 16), np.float16)
            clips = [NewClip(2.0 * n, 2.0 * n + 2.0, vector, tokens) for n in range(counts[title])]
            content = title.encode().hex().zfill(64)
            collection.add_video(NewVideo(content, "/v.mp4", title, 2.0 * len(clips), 8, 8), clips)
        parts = [TextPart("red", red), TextPart("green", green)]
        hit = search_hits(collection, small_model, *parts, calibration=CALIBRATION, limit=1, signals={"visual": 1})[0]
        assert hit.hit.video.title == "both"


def test_a_text_to_avoid_does_not_change_how_much_words_count(mixes: Collection, small_model: Model) -> None:
    """The clip "other" has half of the words and shows nothing green."""
    green = TextPart("other grass", small_model.embed_text(["green"])[0])
    assert next(iter(ranked(mixes, small_model, green))) == "even"
    assert next(iter(ranked(mixes, small_model, green, text_part(small_model, "black", -0.01)))) == "even"


def test_spoken_words_are_relevant_where_there_are_no_pictures(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path / "bundle", tasks=("retrieval", "audio_retrieval")))
    with CollectionStore(tmp_path / "library") as library:
        collection = library.create("videos", model)
        sound = np.ones(16, np.float32)
        clip = NewClip(0.0, 2.0, None, None, audio_embedding=sound)
        collection.add_video(NewVideo("0" * 64, "/talk.wav", "talk", 2.0, 0, 0), [clip])
        store_speech(collection, 1, [SpeechSegment(0, 2, "hello fox")], model="recognizer")
        for avoided in ([], [text_part(model, "zebra", -0.5)]):
            signals = {"visual": 1.0, "speech": 1.0}
            hits = ranked(collection, model, "hello fox", *avoided, signals=signals, min_relevance=0.9)
            assert [hit.relevance for hit in hits.values()] == [1.0]


def test_results_tell_which_conditions_they_meet(mixes: Collection, small_model: Model) -> None:
    parts = ["red", "green", text_part(small_model, "blue", -0.5)]
    hits = ranked(mixes, small_model, *parts)
    met = {title: [condition.met for condition in hit.conditions or ()] for title, hit in hits.items()}
    assert met["strong"] == [True, False, True]
    assert met["other"] == [True, False, False]
    for hit in hits.values():
        red, green, blue = hit.conditions or ()
        assert (red.text, green.text, blue.text, blue.weight) == ("red", "green", "blue", -0.5)
        assert hit.relevance == min(red.relevance, green.relevance, 1 - blue.relevance)
    least = min(hit.relevance or 0 for hit in hits.values())
    assert len(ranked(mixes, small_model, *parts, min_relevance=least + 1e-6)) == len(hits) - 1


def test_a_clip_that_contains_the_words_meets_the_conditions_except_those_to_avoid(
    collection: Collection, small_model: Model
) -> None:
    calibration = Calibration(similarity_scale=1e-6, similarity_bias=-20.0)
    parts = ["green", text_part(small_model, "blue", -0.5)]
    best = search_hits(collection, small_model, *parts, calibration=calibration)[0]
    assert [condition.met for condition in best.conditions or ()] == [True, True]
    assert (best.relevance or 0) >= GOOD_MATCH
    shown = Calibration(similarity_scale=1e-6, similarity_bias=20.0)
    best = search_hits(collection, small_model, *parts, calibration=shown)[0]
    assert [condition.met for condition in best.conditions or ()] == [True, False]
    assert (best.relevance or 0) < GOOD_MATCH


def test_an_excluded_text_leads_away(mixes: Collection, small_model: Model) -> None:
    assert list(ranked(mixes, small_model, "red"))[1] == "other"
    assert list(ranked(mixes, small_model, "red", text_part(small_model, "blue", -0.5)))[-1] == "other"


def test_a_single_text_and_a_bundle_without_calibration_have_no_conditions(
    mixes: Collection, small_model: Model
) -> None:
    assert {hit.conditions for hit in ranked(mixes, small_model, "red").values()} == {None}
    assert {hit.conditions for hit in search_hits(mixes, small_model, "red", "green")} == {None}


def test_a_query_in_a_language_that_the_model_does_not_know_has_a_warning(
    small_model: Model,
) -> None:
    german, tokenizer = "ein Hund rennt am Strand", small_model.tokenizer
    (warning,) = language_warnings(["a dog", german], ["en"], tokenizer)
    assert warning.code == "language"
    assert "(de)" in warning.detail
    assert language_warnings(["a dog runs on the beach"], ["en"], tokenizer) == []
    assert language_warnings([german], None, tokenizer) == [], "the bundle does not state its languages"
