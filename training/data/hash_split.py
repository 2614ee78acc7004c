"""The splits, and the split of a corpus that has no official one: by a hash, so that it stays when it grows."""

from __future__ import annotations

from training.data.errors import CorpusError
from training.data.key_hash import first_byte

SPLITS = ("train", "val", "test")
TEST_BYTES = 13
VALIDATION_BYTES = 26


class EmptySplit(CorpusError):
    """A split that no media of the source fall into, as happens where there are few."""


def split_of(name: str) -> str:
    """test, val or train: by the first byte of the SHA-1 of `name` (13/256 test, 13/256 validation)."""
    first = first_byte(name)
    if first < TEST_BYTES:
        return "test"
    return "val" if first < VALIDATION_BYTES else "train"


def split_rule(name: str) -> str:
    """The rule in words, for Origin; `name` says what is hashed."""
    return (
        f"by {name}: test when the first byte of its SHA-1 is below {TEST_BYTES}, "
        f"validation when it is below {VALIDATION_BYTES}, else train"
    )


def check_split(split: str) -> None:
    """Raises CorpusError unless `split` is train, val or test."""
    if split not in SPLITS:
        raise CorpusError(f"split: {split!r}; one of {SPLITS} was expected")
