from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.data.corpus_files import pictogram_packages, write_tar
from training.data.errors import CorpusError
from training.data.pictogram_concepts import is_skin_toned, normal_code, read_concepts, split_of


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


def test_a_name_that_is_no_code_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        normal_code("sheet-64")


def test_skin_tones_are_told_from_look_alikes() -> None:
    assert is_skin_toned("1f44b-1f3fb")
    assert not is_skin_toned("1f3fa")


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
