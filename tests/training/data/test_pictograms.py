from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.corpus_files import animation, pictogram_packages, picture, write_tar
from training.data.errors import CorpusError
from training.data.example import Example
from training.data.packed import Media
from training.data.pictograms import read_words, stills, videos
from training.data.webdataset import EncodedMedia


def by_key(items: list[tuple[Example, Media]]) -> dict[str, tuple[Example, EncodedMedia]]:
    found = {}
    for example, media in items:
        assert isinstance(media, EncodedMedia)
        found[example.key] = (example, media)
    return found


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
    found = by_key(list(stills(packages, read_words(packages), "val")))
    assert set(found) == {"google-1f436", "twitter-1f436"}
    example, media = found["google-1f436"]
    assert example.still
    assert media.data == picture((20, 20, 220), "PNG", (64, 64))


def test_what_is_known_of_a_pictogram_comes_with_it(packages: dict[str, Path]) -> None:
    found = by_key(list(videos(packages, read_words(packages), "test")))
    flag = found["fluent-1f1f5-1f1ea"][0]
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
    assert "country" not in found["fluent-1f550"][0].attributes


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
