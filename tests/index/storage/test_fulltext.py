"""Full-text search of spoken words, titles and paths, in several scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.storage.fulltext import (
    MAX_TERMS,
    WordMatches,
    index_names,
    literal_clips,
    match_words,
    parse_words,
    set_stemming,
    weigh_order,
)
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
    "cherokee": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "width": "\uff36\uff29\uff24\uff25\uff2f no 42",
    "silent": "",
}


def add(collection: Collection, number: int, title: str, *texts: str, path: str = "/v.mp4") -> list[int]:
    """Add a video with this title and a clip for each text; return the ids of the clips."""
    clips = [NewClip(4.0 * n, 4.0 * n + 4, np.ones(WIDTH), tokens_of(0)[0], text) for n, text in enumerate(texts)]
    video = collection.add_video(NewVideo(content(number), path, title, 99.0, 32, 18), clips)
    return [clip.id for clip in collection.clips(video.id)]


def search(collection: Collection, *texts: str) -> WordMatches:
    words = parse_words(texts)
    with collection.catalogue.read() as connection:
        matches = match_words(connection, words)
        return replace(matches, clips=weigh_order(connection, words, matches.clips))


def matches_of(collection: Collection, *texts: str) -> list[int]:
    """The clips whose speech matches, best first."""
    clips = search(collection, *texts).clips
    return sorted(clips, key=lambda clip_id: (-clips[clip_id].score, not clips[clip_id].has_phrase, clip_id))


def titles_of(collection: Collection, *texts: str) -> set[str]:
    """The titles of videos whose names match."""
    return {collection.get_video(video_id).title for video_id in search(collection, *texts).names}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collection, dict[int, str]]]:
    with new_collection(tmp_path_factory.mktemp("words")) as collection:
        ids = add(collection, 0, "holiday", *SPOKEN.values())
        yield collection, dict(zip(ids, SPOKEN, strict=True))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cafe", {"cafe", "decomposed"}),
        ("ᎦᏬᏂᎯᏍᏗ", {"cherokee"}),
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
        ("हिन्*", {"hindi"}),
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
    [
        '"',
        "*",
        "(",
        "+",
        "';--",
        "dog*",
        "d_*",
        "NEAR(dog cafe)",
        "NOT dog",
        "dog AND",
        "title:dog",
        "^dog",
        "{dog}",
        "-dog",
    ],
)
def test_query_syntax_in_a_text_is_searched_literally(spoken: tuple[Collection, dict[int, str]], text: str) -> None:
    collection, name_of = spoken
    names = {name_of[clip_id] for clip_id in matches_of(collection, text)}
    assert "dogs" in names if "dog" in text else names == set()


def test_a_long_text_is_searched_by_its_first_words(spoken: tuple[Collection, dict[int, str]]) -> None:
    many = [f"w{n}" for n in range(5000)]
    assert len(parse_words([" ".join(many)]).terms) == MAX_TERMS
    collection, name_of = spoken
    assert [name_of[clip] for clip in matches_of(collection, " ".join(["noir", *many]))] == ["decomposed"]


def test_stop_words_count_only_on_their_own() -> None:
    assert parse_words(["The dog is on the beach"]).terms == ["dog", "beach"]
    assert parse_words(["someone plays with something"]).terms == ["plays"]
    assert parse_words(["The Who"]).terms == ["The", "Who"]
    assert parse_words(["to be", "or not to be"]).terms == ["to", "be", "or", "not"]


def test_rare_words_score_higher_than_common_ones(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        clips = add(collection, 1, "match", *["a goal"] * 2, "the ball and a whistle", *["the ball"] * 50, *[""] * 50)
        scores = search(collection, "the ball").clips
        assert len(scores) == 51
        assert 0.2 < scores[clips[3]].score < 0.5
        assert [search(collection, word).clips[clips[2]].score for word in ("whistle", "a whistle")] == [1.0, 1.0]
        assert matches_of(collection, "ball whistle")[0] == clips[2]
        assert matches_of(collection, "ball goal")[:2] == clips[:2]


def test_words_of_nearly_all_clips_are_ignored(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        clips = add(collection, 1, "match", *["a goal in this match"], *["a match"] * 20)
        assert matches_of(collection, "match") == []
        assert search(collection, "match goal").clips == {clips[0]: (1.0, False, False)}


def test_half_of_a_long_query_scores_less_than_half_of_a_short_one(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        ids = add(collection, 1, "talk", "a kayak by the blue lake", *[""] * 20)
        half = [search(collection, text).clips[ids[0]].score for text in ("kayak snow", "kayak lake snow moon")]
        assert half == pytest.approx([1 / 2, 2 / (2 + 2**2) / 4])


def test_some_words_of_a_query_score_more_as_neighbours_in_its_order(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        ids = add(collection, 1, "talk", "the blue kayak drifts", "drifts on a kayak, blue", *[""] * 20)
        scores = search(collection, "a blue kayak drifts on the lake").clips
        # Pairs of the query: "a blue", "blue kayak", "kayak drifts", "drifts on", "the lake".
        assert [scores[clip_id].score for clip_id in ids[:2]] == pytest.approx([3 / 4 * 3 / 6, 3 / 4 * 2 / 6])


def test_a_score_grows_with_the_share_of_the_query_and_is_full_for_all_of_it(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        ids = add(collection, 1, "talk", "a kayak", "snow on a kayak", "a kayak on snow", *[""] * 20)
        scores = search(collection, "a kayak on snow").clips
        assert scores[ids[0]].score == pytest.approx(0.5)
        assert scores[ids[1]][:2] == (1.0, False)
        assert scores[ids[2]][:2] == (1.0, True)
        absent = search(collection, "a kayak on snow by moonlight").clips
        assert absent[ids[2]].score == pytest.approx(2 / 3 * 4 / 6)


def test_a_phrase_of_common_words_is_rare(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        ids = add(collection, 1, "play", "or not to be", "to be or not to be", *["to be", "not or"] * 20, *[""] * 50)
        assert search(collection, "to be or not to be").clips[ids[1]][:2] == (1.0, True)
        assert matches_of(collection, "to be or not to be")[0] == ids[1]


def test_names_are_titles_folders_and_files_split_into_words(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        for number, path in enumerate(
            [
                "/mnt/Sports/arm_wrestling.mp4",
                "/mnt/CAM2/0001.mp4",
                "/mnt/holiday2019/BeachDay.mov",
                "media/0aWedding7.mp4",
                "/mnt/日本/海滩.mkv",
                *(f"/mnt/other/{n}.mp4" for n in range(100, 120)),
            ]
        ):
            add(collection, number, Path(path).stem, "", path=path)
        add(collection, 99, "Opening of the iPhone shop", "", path="media/1.mp4")
        assert titles_of(collection, "arm wrestling") == {"arm_wrestling"}
        assert titles_of(collection, "arm_wrestling.mp4") == {"arm_wrestling"}
        assert titles_of(collection, "sport") == {"arm_wrestling"}
        assert titles_of(collection, "CAM2/0001") == titles_of(collection, "cam 2") == {"0001"}
        for text in ("beach day", "BeachDay", "holiday", "2019", "mov"):
            assert titles_of(collection, text) == {"BeachDay"}
        assert titles_of(collection, "日本") == titles_of(collection, "海滩") == {"海滩"}
        assert titles_of(collection, "iphone") == {"Opening of the iPhone shop"}
        assert titles_of(collection, "media") == set(), "the folder of uploads"
        assert titles_of(collection, "mnt") == set(), "of nearly all files"


def test_a_clip_matches_by_its_speech_and_its_name_together(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        first = add(collection, 1, "Beach day", "a kayak", "nothing")
        for number in range(2, 9):
            add(collection, number, "Office", *(["a kayak"] if number == 2 else ["a desk"] * 9))
        matches = search(collection, "kayak at the beach")
        assert matches.clips[first[0]].score == 1.0
        assert list(matches.names) == [1]
        assert matches_of(collection, "kayak at the beach")[0] == first[0]


def test_a_prefix_matches_words_and_a_quote_the_words_themselves(tmp_path: Path) -> None:
    texts = [
        "Der Haustürschlüssel",
        "die HÄUSER hauen",
        "Generalization runs",
        "two red foxes",
        "a red fox hides",
        "try",
        "adding pies, tied",
        "Чайка над 한국",
        "ᎦᏬᏂᎯᏍᏗ",
    ]
    with new_collection(tmp_path) as collection:
        ids = add(collection, 1, "Talk", *texts, *[""] * 30)
        clips_by_text = {"haus*": [0, 1], "hauen": [1], "generaliza*": [2], "tr*": [5], "tri*": []}
        clips_by_text |= {"add*": [6], "pie*": [6], "tie*": [6], "TIE*": [6], "чай*": [7], "한국*": [7], "ᎦᏬ*": [8]}
        for text, numbers in clips_by_text.items():
            assert matches_of(collection, text) == [ids[number] for number in numbers], text
        literals = parse_words(['show "Red FOX" and \u201etwo red\u201c, "чайка", "한국", not 5" or 3"']).literals
        assert literals == ("Red FOX", "two red", "чайка", "한 국")
        with collection.catalogue.read() as connection:
            named, spoken = (
                [np.flatnonzero(literal_clips(connection, literal, [signal])).tolist() for literal in quoted]
                for signal, quoted in (("name", ("talk", "talks")), ("speech", literals))
            )
        assert (named, spoken) == ([ids, []], [[ids[4]], [ids[3]], [ids[7]], [ids[7]]])


def change_and_interrupt(collection: Collection) -> None:
    with collection.catalogue.write() as connection:
        set_stemming(connection, "english")
        raise KeyboardInterrupt


def test_stemming_can_be_changed_while_others_search(tmp_path: Path) -> None:
    texts = ("the universe grows", "a university", "大学の宇宙")
    with new_collection(tmp_path) as collection, Collection(collection.folder) as other:
        ids = add(collection, 1, "Universal", *texts, *[""] * 20)
        assert (matches_of(other, "universe"), titles_of(other, "universe")) == (ids[:2], {"Universal"})
        collection.set_stemming("none")
        later = add(collection, 2, "later", "universes")
        assert (matches_of(other, "universe"), titles_of(other, "universe")) == (ids[:1], set())
        assert (matches_of(other, "univ*"), matches_of(other, "宇宙")) == ([*ids[:2], *later], ids[2:3])
        with pytest.raises(KeyboardInterrupt):
            change_and_interrupt(collection)
        assert (other.stemming(), matches_of(other, "universe")) == ("none", ids[:1])
        collection.set_stemming("english")
        assert (other.stemming(), matches_of(other, "universe")) == ("english", [*ids[:2], *later])
        assert collection.catalogue.integrity_errors() == []
        with pytest.raises(InvalidInput, match="stemming: 'german'; one of english, none was expected"):
            collection.set_stemming("german")


def test_names_can_be_changed(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        add(collection, 1, "first", "")
        add(collection, 2, "second", "")
        with collection.catalogue.write() as connection:
            index_names(connection, [(1, "renamed", "/moved.mp4")])
        assert (titles_of(collection, "renamed"), titles_of(collection, "moved")) == ({"first"}, {"first"})
        assert titles_of(collection, "first") == set()


def test_the_fulltext_index_follows_adds_and_deletes(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        gone = add(collection, 1, "first", "a kayak", "a paddle")
        kept = add(collection, 2, "second", "a kayak")
        assert matches_of(collection, "kayak") == [gone[0], kept[0]]
        assert titles_of(collection, "first") == {"first"}
        with pytest.raises(InvalidInput, match="text: 10001"):
            add(collection, 3, "third", "a kayak", "x" * 10_001)
        collection.delete_video(1)
        assert matches_of(collection, "kayak") == kept
        matches = search(collection, "paddle first")
        assert (matches.clips, matches.names) == ({}, {})
        assert collection.catalogue.integrity_errors() == []
