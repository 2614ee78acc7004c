from __future__ import annotations

import hashlib

import pytest

from training.data.errors import CorpusError
from training.data.hash_split import check_split, split_of, split_rule


def test_the_split_is_what_the_written_rule_says() -> None:
    names = [f"videos/{n}.mp4" for n in range(3000)]
    first = {name: int(hashlib.sha1(name.encode()).hexdigest()[:2], 16) for name in names}
    assert split_rule("key") == (
        "by key: test when the first byte of its SHA-1 is below 13, validation when it is below 26, else train"
    )
    assert all(split_of(name) == ("test" if b < 13 else "val" if b < 26 else "train") for name, b in first.items())
    assert {split_of(name) for name in names} == {"train", "val", "test"}


def test_the_split_rule_does_not_change() -> None:
    keys = [f"{number:09d}" for number in range(100)]
    assert [int(key) for key in keys if split_of(key) == "test"] == [12, 16, 32, 36, 43, 45, 50, 56, 64, 65, 98]
    assert [int(key) for key in keys if split_of(key) == "val"] == [0, 5, 74]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"split: 'dev'; one of \('train', 'val', 'test'\)"):
        check_split("dev")
