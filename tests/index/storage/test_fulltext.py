"""Full-text search of titles and spoken words, in several scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.storage.fulltext import MAX_TERMS, query_terms, search_fulltext
from tests.index.sample_data import WIDTH, content, new_collection, tokens_of
from vitascope.errors import InvalidInput

SPOKEN = {
    "cafe": "We met at the Café São João, señor.",
    "decomposed": "Cafe\u0301 noir",
    "dogs": "The dogs don't stop running!",
    "beach": "海滩上的小狗在跑步",
    "harbour": "海边的滩头",
    "sea": "犬が海辺を走る。東京ﾀﾜｰ",
    "korean": "강아지가 해변에서 달린다",
    "hindi": "हिन्दी भाषा",
    "width": "\uff36\uff29\uff24\uff25\uff2f no 42",
    "silent": "",
}


def add(collection: Collection, number: int, title: str, *texts: str) -> list[int]:
    """Add a video with this title and a clip for each text; return the ids of the clips."""
    clips = [NewClip(4.0 * n, 4.0 * n + 4, np.ones(WIDTH), tokens_of(0)[0], text) for n, text in enumerate(texts)]
    video = collection.add_video(NewVideo(content(number), "/v.mp4", title, 99.0, 32, 18), clips)
    return [clip.id for clip in collection.clips(video.id)]


def matches_of(collection: Collection, *texts: str, limit: int = 100) -> list[int]:
    with collection.catalogue.read() as connection:
        terms = query_terms(texts)
        matches = search_fulltext(connection, terms, limit, lambda clip_id: True) if terms else []
        return [clip_id for clip_id, _ in matches]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collection, dict[int, str]]]:
    with new_collection(tmp_path_factory.mktemp("words")) as collection:
        ids = add(collection, 0, "holiday", *SPOKEN.values())
        yield collection, dict(zip(ids, SPOKEN, strict=True))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cafe", {"cafe", "decomposed"}),
        ("CAFÉ", {"cafe", "decomposed"}),
        ("Sao joao", {"cafe"}),
        ("senor", {"cafe"}),
        ("a dog", {"dogs"}),
        ("runs", {"dogs"}),
        ("don\u2019t", {"dogs"}),
        ("海滩", {"beach"}),
        ("小狗", {"beach"}),
        ("狗", {"beach"}),
        ("跑步的小狗", {"beach"}),
        ("犬", {"sea"}),
        ("走る", {"sea"}),
        ("タワー", {"sea"}),
        ("강아지", {"korean"}),
        ("हिन्दी", {"hindi"}),
        ("video", {"width"}),
        ("42", {"width"}),
        ("4", set()),
        ("滩上", {"beach"}),
        ("狗小", set()),
        ("zebra", set()),
    ],
)
def test_words_are_found_in_every_script(spoken: tuple[Collection, dict[int, str]], text: str, names: set[str]) -> None:
    collection, name_of = spoken
    assert {name_of[clip_id] for clip_id in matches_of(collection, text)} == names


@pytest.mark.parametrize(
    "text",
    ['"', "*", "(", "+", "';--", "dog*", "NEAR(dog cafe)", "NOT dog", "dog AND", "title:dog", "^dog", "{dog}", "-dog"],
)
def test_query_syntax_in_a_text_is_searched_literally(spoken: tuple[Collection, dict[int, str]], text: str) -> None:
    collection, name_of = spoken
    names = {name_of[clip_id] for clip_id in matches_of(collection, text)}
    assert "dogs" in names if "dog" in text else names == set()


def test_a_long_text_is_searched_by_its_first_words(spoken: tuple[Collection, dict[int, str]]) -> None:
    many = [f"w{n}" for n in range(5000)]
    assert len(query_terms([" ".join(many)])) == MAX_TERMS
    collection, name_of = spoken
    assert [name_of[clip] for clip in matches_of(collection, " ".join(["noir", *many]))] == ["decomposed"]


def test_stop_words_count_only_on_their_own() -> None:
    assert query_terms(["The dog is on the beach"]) == ["dog", "beach"]
    assert query_terms(["The Who"]) == ["The", "Who"]
    assert query_terms(["to be", "or not to be"]) == ["to", "be", "or", "not"]


def test_a_common_word_is_ignored_beside_a_rarer_one(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        clips = add(collection, 1, "match", *["goal"], *["midfield"] * 5)
        assert matches_of(collection, "match goal") == [clips[0]]
        assert set(matches_of(collection, "match zebra")) == set(clips)


def test_words_of_the_title_match_every_clip(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        first = add(collection, 1, "Beach day", "a kayak", "nothing")
        add(collection, 2, "Office", "a kayak", "a desk", "a chair", "a lamp")
        assert set(matches_of(collection, "beach")) == set(first)
        assert matches_of(collection, "kayak at the beach")[0] == first[0]


def test_the_fulltext_index_follows_adds_and_deletes(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        gone = add(collection, 1, "first", "a kayak", "a paddle")
        kept = add(collection, 2, "second", "a kayak")
        assert matches_of(collection, "kayak") == [gone[0], kept[0]]
        with pytest.raises(InvalidInput, match="text: 10001"):
            add(collection, 3, "third", "a kayak", "x" * 10_001)
        collection.delete_video(1)
        assert matches_of(collection, "kayak") == kept
        assert matches_of(collection, "paddle first") == []
        assert collection.catalogue.integrity_errors() == []
