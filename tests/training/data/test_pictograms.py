"""Pictograms: packages, concepts, captions, questions and splits."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from tests.training.data.corpus_files import (
    animation,
    concept,
    icon,
    icon_set,
    pictogram_packages,
    picture,
    write_tar,
)
from training.data.corpus import CorpusError
from training.data.example import Example
from training.data.packed import EncodedMedia, Media
from training.data.pictogram_concepts import (
    Concept,
    Package,
    codes_by_name,
    fetch,
    normal_code,
    read_concepts,
    split_of,
)
from training.data.pictogram_text import (
    captions_of,
    colour_of,
    direction_of,
    noun_phrase,
    questions_by_code,
)
from training.data.pictograms import read_words, stills, videos

CONTENT = b"the package as the registry serves it"
PACKAGE = Package("@someone/pictures", "1.2.3", hashlib.sha256(CONTENT).hexdigest(), "MIT")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command named npm that serves CONTENT and logs its arguments."""
    served = tmp_path / "served"
    served.write_bytes(CONTENT)
    command = tmp_path / "bin" / "npm"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'[ -e {served} ] || {{ echo "E404 not found" >&2; exit 1; }}\n'
        f'cat {served} > "$4/someone-pictures-1.2.3.tgz"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    return tmp_path


def test_a_package_is_fetched_once_by_name_and_version(npm: Path) -> None:
    for _ in range(2):
        paths = fetch([PACKAGE], npm / "cache")
        assert paths == {"@someone/pictures": npm / "cache" / "someone-pictures-1.2.3.tgz"}
        assert paths["@someone/pictures"].read_bytes() == CONTENT
    (call,) = (npm / "calls").read_text().splitlines()
    assert call.startswith("pack @someone/pictures@1.2.3 ")


def test_a_file_with_another_checksum_is_refused(npm: Path) -> None:
    (npm / "served").write_bytes(b"something else")
    with pytest.raises(CorpusError, match=rf"someone-pictures-1\.2\.3\.tgz: SHA-256 .*{PACKAGE.sha256} was expected"):
        fetch([PACKAGE], npm / "cache")


def test_the_message_of_npm_is_part_of_the_error(npm: Path) -> None:
    (npm / "served").unlink()
    with pytest.raises(CorpusError, match=r"npm pack @someone/pictures@1\.2\.3 .*E404 not found"):
        fetch([PACKAGE], npm / "cache")


def test_without_npm_the_file_to_provide_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match=r"npm: not found; .*put someone-pictures-1\.2\.3\.tgz into"):
        fetch([PACKAGE], tmp_path / "cache")


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("1F436", "1f436"),
        ("35-fe0f-20e3", "0035-20e3"),
        ("0035-FE0F-20E3", "0035-20e3"),
        ("2764-fe0f-200d-1f525", "2764-200d-1f525"),
        ("1f3f4-e0067_e0062_e0065_e006e_e0067", "1f3f4-e0067-e0062-e0065-e006e-e0067-e007f"),
    ],
)
def test_every_spelling_of_a_code_has_one_normal_form(written: str, code: str) -> None:
    assert normal_code(written) == code
    assert normal_code(code) == code


def test_the_split_is_that_of_the_published_rule() -> None:
    # By sha1sum the first bytes are 137, 58 and 31.
    assert [split_of(code) for code in ("1f431", "1f436", "1f98a")] == ["train", "val", "test"]


def test_concepts_are_read_without_skin_tones_and_parts_of_flags(tmp_path: Path) -> None:
    concepts = read_concepts(pictogram_packages(tmp_path)["emojibase-data"])
    assert sorted(concepts) == ["0035-20e3", "1f1f5-1f1ea", "1f436", "1f550"]
    dog = concepts["1f436"]
    assert (dog.label, dog.tags, dog.names) == ("dog face", ("dog", "pet"), ("dog face", "puppy head"))
    assert (dog.group, dog.subgroup) == ("animals-nature", "animal-mammal")
    assert concepts["1f550"].label == "one o'clock"


def test_a_malformed_entry_is_named(tmp_path: Path) -> None:
    members = {
        "package/en/data.json": json.dumps([{"hexcode": "1F436", "label": None}]).encode(),
        "package/meta/groups.json": b"{}",
        "package/en/shortcodes/emojibase.json": b"{}",
    }
    archive = write_tar(tmp_path / "words.tgz", members)
    with pytest.raises(CorpusError, match=r"words\.tgz: en/data\.json\[0\]: label: None; a string"):
        read_concepts(archive)


def test_a_package_without_its_files_is_named(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "words.tgz", {"package/en/data.json": b"[]"})
    with pytest.raises(CorpusError, match=r"words\.tgz: .*package/meta/groups\.json.* missing"):
        read_concepts(archive)


DOG = concept("dog face", group="animals-nature", subgroup="animal-mammal", tags=("dog", "pet", "puppy"))
PERU = concept("flag: Peru", "1f1f5-1f1ea", "flags", "country-flag", tags=("PE", "flag"))


@pytest.mark.parametrize(
    ("inputs", "phrase"),
    [
        (DOG, "a dog face"),
        (concept("octopus"), "an octopus"),
        (concept("unicorn"), "a unicorn"),
        (concept("glasses"), "glasses"),
        (concept("compass"), "a compass"),
        (concept("one o'clock"), "a clock showing one o'clock"),
        (concept("eleven-thirty"), "a clock showing half past eleven"),
        (concept("keycap: 5"), "a key with 5 on it"),
        (concept("person: red hair"), "a person with red hair"),
        (concept("man running: facing right"), "a man running facing right"),
        (PERU, "the flag of Peru"),
        (
            concept("flag: United States", group="flags", subgroup="country-flag"),
            "the flag of the United States",
        ),
    ],
)
def test_labels_read_well_inside_a_sentence(inputs: Concept, phrase: str) -> None:
    assert noun_phrase(inputs) == phrase


def test_the_label_is_the_first_caption_and_none_comes_twice() -> None:
    for still in (True, False):
        captions = captions_of(DOG, still=still, style="google")
        assert captions[0] == "dog face"
        assert "a dog face, a mammal" in captions
        assert len(set(captions)) == len(captions)
        assert any("pet" in caption for caption in captions)


def test_captions_of_a_still_do_not_speak_of_an_animation() -> None:
    moving, still = (" ".join(captions_of(DOG, still=s, style="x")) for s in (False, True))
    assert not any(word in still for word in ("animat", "clip", "moving"))
    assert any(word in moving for word in ("animat", "clip", "moving"))


def test_country_codes_are_not_used_as_words() -> None:
    assert not any("PE" in caption.split() for caption in captions_of(PERU, still=True, style="google"))


CONCEPTS = {
    c.code: c
    for c in (
        concept("dog face", "1f436", "animals-nature", "animal-mammal"),
        concept("cat face", "1f431", "animals-nature", "animal-mammal"),
        concept("octopus", "1f419", "animals-nature", "animal-marine"),
        concept("flag: Peru", "1f1f5-1f1ea", "flags", "country-flag"),
        concept("half past", "0001", "symbols", "arrow"),
        concept("up-left arrow", "2196", "symbols", "arrow"),
        concept("two-thirty", "1f55d", "travel-places", "time"),
        concept("red heart", "2764", "smileys-emotion", "heart"),
    )
}


def answers(code: str) -> dict[str, tuple[str, ...]]:
    return {q.kind: q.answers for q in questions_by_code(CONCEPTS)[code] if q.kind != "yesno"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1f436", {"what": ("dog face",), "category": ("mammal",), "group": ("animals and nature",)}),
        ("1f1f5-1f1ea", {"what": ("flag",), "country": ("peru",), "group": ("flags",)}),
        ("1f55d", {"what": ("clock",), "time": ("half past two",)}),
        ("2196", {"direction": ("up-left",), "category": ("arrow",)}),
        ("2764", {"what": ("red heart",), "colour": ("red",)}),
    ],
)
def test_answers_come_from_the_metadata(code: str, expected: dict[str, tuple[str, ...]]) -> None:
    actual = answers(code)
    assert {kind: actual[kind] for kind in expected} == expected


def test_there_are_no_meaningless_questions() -> None:
    assert set(answers("1f436")) == {"what", "category", "group"}


def test_yes_and_no_are_balanced_for_every_name() -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for questions in questions_by_code(CONCEPTS).values():
        for question in questions:
            if question.kind == "yesno":
                name = question.question.removesuffix("?")
                for start in ("is this ", "is it ", "does this show "):
                    name = name.removeprefix(start)
                counts[name][question.answers[0]] += 1
    assert len(counts) == len(CONCEPTS) + len({c.group for c in CONCEPTS.values()})
    assert all(count["yes"] == count["no"] for count in counts.values()), counts


def test_no_is_never_the_answer_to_the_right_name() -> None:
    for code, questions in questions_by_code(CONCEPTS).items():
        wrong = [q.question for q in questions if q.kind == "yesno" and q.answers == ("no",)]
        assert len(wrong) == 2
        assert not any(noun_phrase(CONCEPTS[code]) + "?" in question for question in wrong)


def test_the_order_of_the_concepts_changes_nothing() -> None:
    backwards = dict(reversed(CONCEPTS.items()))
    assert questions_by_code(backwards) == questions_by_code(CONCEPTS)


def test_a_lone_concept_has_no_question_whose_words_tell_the_answer() -> None:
    (questions,) = questions_by_code({"1f436": CONCEPTS["1f436"]}).values()
    assert not [q for q in questions if q.kind == "yesno"]
    assert questions_by_code({}) == {}


@pytest.mark.parametrize(
    ("label", "direction"),
    [
        ("down arrow", "down"),
        ("left-right arrow", "left-right"),
        ("backhand index pointing left", "left"),
        ("woman running: facing right", "right"),
        ("leftwards pushing hand", "left"),
        ("thumbs down", "down"),
        ("right arrow curving up", None),
        ("left luggage", None),
    ],
)
def test_direction(label: str, direction: str | None) -> None:
    assert direction_of(concept(label)) == direction


@pytest.mark.parametrize(
    ("label", "colour"),
    [
        ("light blue heart", "light blue"),
        ("black medium-small square", "black"),
        ("hollow red circle", "red"),
        ("large orange diamond", "orange"),
        ("green salad", None),
        ("person: red hair", None),
    ],
)
def test_colour(label: str, colour: str | None) -> None:
    assert colour_of(_shape(label)) == colour


def _shape(label: str) -> Concept:
    return concept(label, group="symbols", subgroup="geometric")


def by_key(items: list[tuple[Example, Media]]) -> dict[str, tuple[Example, EncodedMedia]]:
    actual = {}
    for example, media in items:
        assert isinstance(media, EncodedMedia)
        actual[example.key] = (example, media)
    return actual


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    return pictogram_packages(tmp_path)


def test_videos_are_split_by_concept_without_skin_tones(packages: dict[str, Path]) -> None:
    words = read_words(packages)
    keys = {split: {example.key for example, _ in videos(packages, words, split)} for split in ("train", "val", "test")}
    assert keys == {
        "train": {"fluent-0035-20e3"},
        "val": {"fluent-1f436"},
        "test": {"fluent-1f1f5-1f1ea", "fluent-1f550"},
    }


def test_stills_and_videos_of_a_concept_are_in_the_same_split(packages: dict[str, Path]) -> None:
    words = read_words(packages)
    for split in ("train", "val", "test"):
        moving = {example.attributes["hexcode"] for example, _ in videos(packages, words, split)}
        still = {example.attributes["hexcode"] for example, _ in stills(packages, words, split)}
        assert still <= moving


def test_a_concept_under_two_spellings_is_one_video(packages: dict[str, Path]) -> None:
    ((example, media),) = videos(packages, read_words(packages), "train")
    assert example.captions[0] == "keycap: 5"
    assert isinstance(media, EncodedMedia)
    assert media.data != animation([(20, 20, 220)] * 2)


def test_stills_come_from_both_vendors_and_only_from_the_small_pictures(packages: dict[str, Path]) -> None:
    actual = by_key(list(stills(packages, read_words(packages), "val")))
    assert set(actual) == {"google-1f436", "twitter-1f436"}
    example, media = actual["google-1f436"]
    assert example.still
    assert media.data == picture((20, 20, 220), "PNG", (64, 64))


def test_only_training_has_the_icon_sets_after_the_other_styles(packages: dict[str, Path]) -> None:
    words = read_words(packages)
    styles = {
        split: [example.attributes["style"] for example, _ in stills(packages, words, split)]
        for split in ("train", "val", "test")
    }
    assert styles["train"][:3] == ["google", "twitter", "noto"]
    assert len(set(styles["train"])) == len(styles["train"]) == 10
    assert (styles["val"], styles["test"]) == (["google", "twitter"], [])


def test_icons_are_known_by_code_or_by_name(packages: dict[str, Path]) -> None:
    """Codes of other uses of an icon are ignored; of several drawings of a concept the first is taken."""
    by_code = {"1F436": "dog-face", "35-20e3": "5", "e1d1": "5"}
    write_tar(packages["@iconify-json/noto"], icon_set({"keycap-5": icon("blue"), "5": icon()}, by_code))
    write_tar(packages["@iconify-json/fxemoji"], icon_set({"keycap5": icon(), "keycap-5-1": icon("blue")}, {}))
    actual = by_key(list(stills(packages, read_words(packages), "train")))
    for key in ("noto-0035-20e3", "fxemoji-0035-20e3"):
        drawn = Image.open(io.BytesIO(actual[key][1].data))
        assert drawn.size == (256, 256)
        assert [drawn.getpixel(xy) for xy in ((128, 128), (20, 128))] == [(220, 20, 20, 255), (0, 0, 0, 0)]


def test_names_of_icons_are_labels_or_names_of_unicode() -> None:
    octopus, peru = concept("octopus", "1f419"), concept("flag: Peru", "1f1f5-1f1ea")
    bear, face = concept("bear", "1f43b"), concept("bear face", "0001")
    codes = codes_by_name({c.code: c for c in (bear, octopus, peru)})
    assert {codes[name] for name in ("bear", "bearface")} == {"1f43b"}
    assert codes["flagperu"] == codes["flagforperu"] == "1f1f5-1f1ea"
    assert codes_by_name({c.code: c for c in (bear, face)})["bearface"] == "0001"


def test_a_pictogram_has_its_metadata(packages: dict[str, Path]) -> None:
    actual = by_key(list(videos(packages, read_words(packages), "test")))
    flag = actual["fluent-1f1f5-1f1ea"][0]
    assert not flag.still
    assert flag.captions[0] == "flag: Peru"
    assert flag.attributes == {
        "hexcode": "1f1f5-1f1ea",
        "label": "flag: Peru",
        "tags": ["PE", "flag"],
        "group": "flags",
        "subgroup": "country-flag",
        "style": "fluent",
        "country": "Peru",
    }
    assert "country" not in actual["fluent-1f550"][0].attributes


def test_a_damaged_package_is_named(packages: dict[str, Path]) -> None:
    words = read_words(packages)
    broken = packages["@lobehub/fluent-emoji-anim-2"]
    broken.write_bytes(b"<html>the proxy says no</html>")
    with pytest.raises(CorpusError, match=broken.name):
        list(videos(packages, words, "val"))


def test_a_picture_whose_name_is_no_code_is_named(packages: dict[str, Path]) -> None:
    words = read_words(packages)
    write_tar(packages["@lobehub/fluent-emoji-anim-4"], {"package/assets/smile.webp": b""})
    with pytest.raises(CorpusError, match=r"package/assets/smile\.webp: the file name is no hexcode"):
        list(videos(packages, words, "val"))
