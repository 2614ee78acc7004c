"""Searches by several signals: what is seen, said, written and in the name, each with its rank, score and times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection
from index.recognitions import store_captions, store_screen_text, store_speech
from index.records import NewClip, NewVideo
from index.search.search import RankedHit
from index.search.text_matches import TextMatch
from index.storage.filters import parse_filter
from index.video_text import ClipCaption
from tests.index.sample_data import TOKENS, content, new_collection
from tests.index.searches import MODEL, search_hits
from vitascope.errors import InvalidInput
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment, SpokenWord

BOX = (0.1, 0.2, 0.5, 0.3)
FOX = SpeechSegment(
    1,
    3,
    "The red fox, jumps.",
    words=(SpokenWord("The", 1, 1.2), SpokenWord("red", 1.2, 1.5), SpokenWord("fox,", 1.5, 2)),
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A video for each signal that "red foxes" can be found by, and others."""
    rng = np.random.default_rng(0)
    with new_collection(tmp_path_factory.mktemp("signals")) as collection:
        titles = ["seen", "said", "written", "red foxes of Kent", *(f"other {n}" for n in range(20))]
        for number, title in enumerate(titles):
            seen = (
                MODEL.embed_text(["red foxes"])[0]
                if title == "seen"
                else rng.standard_normal(len(MODEL.embed_text(["a"])[0]))
            )
            clips = [NewClip(4.0 * n, 4.0 * n + 4, (-1.0) ** n * seen, np.zeros(TOKENS)) for n in range(2)]
            collection.add_video(NewVideo(content(number), f"/{number}.mp4", title, 8.0, 8, 8), clips)
        store_speech(collection, 2, [FOX, SpeechSegment(5, 7, "a fox that is red")], model="recognizer")
        store_screen_text(
            collection, 3, [TextSpan("EXIT", 0, 8, BOX, 1), TextSpan("Réd  Foxes!", 5, 6, BOX, 1)], "reader"
        )
        store_captions(collection, 5, [ClipCaption(4, 8, "two grey herons land")], "captioner")
        yield collection


def find_hits(collection: Collection, text: str, **options: Any) -> dict[tuple[str, float], RankedHit]:
    """By title of the video and start of the clip, best first."""
    return {(hit.hit.video.title, hit.hit.start): hit for hit in search_hits(collection, MODEL, text, **options)}


def test_every_signal_finds_its_clip_and_states_rank_score_and_times(collection: Collection) -> None:
    hits = find_hits(collection, "red foxes", limit=6)
    assert {title for title, _ in hits} == {"seen", "said", "written", "red foxes of Kent"}
    visual = hits["seen", 0.0].signals["visual"]
    assert (visual.rank, visual.score, visual.matches) == (1, pytest.approx(1.0), ())
    speech = hits["said", 0.0].signals["speech"]
    assert (speech.rank, speech.score, speech.matches) == (1, 1.0, (TextMatch("red fox", 1.2, 2),))
    assert [m.text for m in hits["said", 4.0].signals["speech"].matches] == ["fox", "red"]
    shown = hits["written", 4.0].signals["screen_text"]
    assert (shown.score, shown.matches) == (1.0, (TextMatch("Réd  Foxes", 5, 6, BOX),))
    assert hits["written", 4.0].hit.screen_text == "EXIT\nRéd  Foxes!"
    assert hits["red foxes of Kent", 0.0].signals["name"].matches == (TextMatch("red foxes", 0, 4),)


def test_a_caption_is_a_signal_and_a_field_of_filters(collection: Collection) -> None:
    hits = find_hits(collection, "grey heron", limit=1)
    assert next(iter(hits)) == ("other 0", 4.0)
    hit = hits["other 0", 4.0]
    caption = hit.signals["caption"]
    assert (caption.rank, caption.score, caption.matches) == (1, 1.0, (TextMatch("grey herons", 4, 8),))
    assert hit.hit.caption == "two grey herons land"
    assert set(find_hits(collection, '"herons land"', signals={"caption": 1})) == {("other 0", 4.0)}
    assert find_hits(collection, '"herons land"', signals={"speech": 1, "name": 1}) == {}
    where = parse_filter({"clip": {"caption": {"ne": ""}}})
    assert set(find_hits(collection, "red foxes", where=where)) == {("other 0", 4.0)}


def test_a_search_uses_the_signals_of_the_request_with_their_weights(collection: Collection) -> None:
    assert next(iter(find_hits(collection, "red foxes", signals={"speech": 2})))[0] == "said"
    assert {title for title, _ in find_hits(collection, "red foxes", signals={"screen_text": 1})} == {"written"}
    for speech, best in ((0.5, "written"), (2, "said")):
        weights = {"speech": speech, "screen_text": 1, "visual": 0.01}
        assert next(iter(find_hits(collection, "red foxes", signals=weights)))[0] == best
    for signals, message in (
        ({"audio": 1.0}, r"signals: 'audio'; visual was expected in videos, as bundle .* embeds no sound"),
        ({"smell": 1.0}, "signals: 'smell'; one of visual, audio, speech, screen_text, caption, name was expected"),
        ({"speech": 0}, r"signals\.speech: 0; a number above 0, at most 1000, was expected"),
        ({}, "signals: {}; at least one of visual"),
    ):
        with pytest.raises(InvalidInput, match=message):
            find_hits(collection, "red foxes", signals=signals)
    with pytest.raises(InvalidInput, match="rerank: 5; 0 was expected, as signals lack visual"):
        find_hits(collection, "red foxes", signals={"speech": 1}, rerank=5)


def test_a_part_in_quotes_must_be_said_shown_or_in_the_name(collection: Collection) -> None:
    assert set(find_hits(collection, '"red fox"')) == {("said", 0.0)}
    assert set(find_hits(collection, 'seen "RED foxes"')) == {
        ("written", 4.0),
        ("red foxes of Kent", 0.0),
        ("red foxes of Kent", 4.0),
    }
    assert set(find_hits(collection, '"red foxes"', signals={"screen_text": 1, "visual": 1})) == {("written", 4.0)}
    assert find_hits(collection, '"foxes red"') == {}
    prefix = find_hits(collection, "fo*", signals={"speech": 1})
    assert [hit.signals["speech"].matches[0].text for hit in prefix.values()] == ["fox", "fox"]


def test_matched_words_are_whole_in_every_script(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        clip = NewClip(0, 8, np.eye(len(MODEL.embed_text(["a"])[0]))[0], np.zeros(TOKENS))
        collection.add_video(NewVideo(content(0), "/0.mp4", "", 8.0, 8, 8), [clip])
        store_speech(collection, 1, [SpeechSegment(1, 3, "(東京タワー), हिन्दी भाषा.")], model="recognizer")
        for query, match in (("東京*", "東京"), ("タワ*", "タワ"), ("हिन्*", "हिन्दी"), ("भाषा", "भाषा")):
            [hit] = find_hits(collection, query, signals={"speech": 1}).values()
            assert [match.text for match in hit.signals["speech"].matches] == [match]


def test_without_stemming_the_words_of_a_match_are_those_of_the_query(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        for number in range(20):
            clip = NewClip(0, 8, np.eye(len(MODEL.embed_text(["a"])[0]))[0], np.zeros(TOKENS))
            collection.add_video(NewVideo(content(number), f"/{number}.mp4", "", 8.0, 8, 8), [clip])
        store_speech(collection, 1, [SpeechSegment(1, 3, "a fox, then foxes")], model="recognizer")
        store_screen_text(collection, 1, [TextSpan("Foxes or a fox", 5, 6, BOX, 1)], "reader")
        matches = []
        for stemming in ("english", "none"):
            collection.set_stemming(stemming)
            [hit] = find_hits(collection, '"foxes"', signals={"speech": 1, "screen_text": 1}).values()
            matches.append({name: [match.text for match in score.matches] for name, score in hit.signals.items()})
        assert matches == [
            {"speech": ["fox", "foxes"], "screen_text": ["Foxes", "fox"]},
            {"speech": ["foxes"], "screen_text": ["Foxes"]},
        ]
