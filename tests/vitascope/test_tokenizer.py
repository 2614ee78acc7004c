"""Tokenization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.small_bundle import TEXT_LENGTH, VOCABULARY
from vitascope.bundle.bundle import Bundle
from vitascope.errors import BundleCorrupt, TextError
from vitascope.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_bundle: Path) -> Tokenizer:
    return Bundle.open(small_bundle).tokenizer()


def words(*names: str) -> list[int]:
    return [VOCABULARY[name] for name in names]


def test_a_batch_is_padded_to_its_longest_text(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["a RED thing", "blue", "zebra"])
    assert ids.dtype == mask.dtype == np.int64
    assert ids[0].tolist() == words("[CLS]", "a", "red", "thing", "[SEP]")
    assert ids[1].tolist() == words("[CLS]", "blue", "[SEP]", "[PAD]", "[PAD]")
    assert ids[2].tolist() == words("[CLS]", "[UNK]", "[SEP]", "[PAD]", "[PAD]")
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]


def test_long_texts_are_truncated_and_keep_the_final_token(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["red " * 500])
    assert ids.shape == (1, TEXT_LENGTH)
    assert mask.all()
    assert ids[0, -1] == VOCABULARY["[SEP]"]


def test_an_empty_batch_has_no_rows(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode([])
    assert ids.shape[0] == mask.shape[0] == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \t\n\u3000", "is empty"),
        ("x" * 100_000, "100000 characters; at most 20000"),
        ("a \ud800 b", "not valid Unicode at character 2"),
    ],
)
def test_invalid_texts_are_named_by_index(text: str, reason: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match=rf"texts\[1\]: .*{reason}"):
        tokenizer.encode(["red", text])


@pytest.mark.parametrize("value", [None, 5, b"red", ["red"]])
def test_values_that_are_not_strings_are_rejected(value: object, tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="a string was expected"):
        tokenizer.encode([value])  # type: ignore[list-item]


def test_any_script_and_control_characters_are_accepted(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["красный 红色 🟥", "red\x00red", "\u200b"])
    assert ids.shape == mask.shape
    assert mask.any(axis=1).all()


def test_a_malformed_tokenizer_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(BundleCorrupt, match="not a readable tokenizer"):
        Tokenizer.open(tmp_path / "tokenizer.json", 16)
