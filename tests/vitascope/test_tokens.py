"""Tokenization of texts, and the encoding of visual tokens: lossless in float16, bounded error in int8."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import decoders, models, pre_tokenizers

from tests.small_bundle import TEXT_LENGTH, VOCABULARY
from vitascope.bundle.bundle import Bundle
from vitascope.errors import BundleCorrupt, InvalidInput, TextError
from vitascope.tokenizer import Tokenizer
from vitascope.visual_token_codec import ENCODINGS, TokenEncoding, check_encoding, decode_tokens, encode_tokens


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


@pytest.mark.parametrize(
    "text",
    [
        "a man turns; a dog's t-shirt, too!",
        'two-door cars (no. 7) say "stop here" and/or "go"',
        "it's 3:30, 2.5% of 1,000: don't",
    ],
)
def test_tokens_of_wordpiece_are_written_without_spaces_around_punctuation(text: str) -> None:
    names = ["[UNK]", *re.findall(r"\w+|[^\w\s]", text)]
    inner = tokenizers.Tokenizer(models.WordPiece({name: i for i, name in enumerate(dict.fromkeys(names))}))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made = Tokenizer(inner, 50)
    [ids], _ = made.encode([text])
    assert made.decode(ids.tolist()) == text


def test_an_empty_batch_has_no_rows(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode([])
    assert ids.shape[0] == mask.shape[0] == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \t\n\u3000", "is empty"),
        ("\u200b\x00 \ufeff\u202e", "is empty"),
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
    ids, mask = tokenizer.encode(["красный 红色 🟥", "red\x00red", "red\u200b"])
    assert ids.shape == mask.shape
    assert mask.any(axis=1).all()


def test_a_malformed_tokenizer_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(BundleCorrupt, match="not a readable tokenizer"):
        Tokenizer.open(tmp_path / "tokenizer.json", 16)


SHAPE = (5, 7)
TOKENS = arrays(np.float16, SHAPE, elements=st.floats(-65504, 65504, width=16))


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float16_is_lossless(tokens: np.ndarray) -> None:
    decoded = decode_tokens(encode_tokens(tokens, "float16"), "float16", SHAPE)
    np.testing.assert_array_equal(decoded, tokens.astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_the_error_of_int8_is_at_most_half_a_step_of_each_token(tokens: np.ndarray) -> None:
    values = tokens.astype(np.float32)
    decoded = decode_tokens(encode_tokens(tokens, "int8"), "int8", SHAPE)
    largest = np.abs(values).max(axis=1, keepdims=True)
    # A scale is rounded up to float16: a step is at most one part in a thousand, or 2**-24, wider.
    step = np.maximum(largest / 127 * 1.001, largest / 127 + 2.0**-24)
    assert (np.abs(decoded - values) <= step / 2 + 1e-12).all()
    assert (decoded[largest[:, 0] == 0] == 0).all()


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_encoding_decoded_float16_gives_the_same_bytes(tokens: np.ndarray) -> None:
    stored = encode_tokens(tokens, "float16")
    assert encode_tokens(decode_tokens(stored, "float16", SHAPE), "float16") == stored


def test_int8_takes_half_the_bytes() -> None:
    tokens = np.random.default_rng(0).standard_normal((49, 256)).astype(np.float16)
    assert len(encode_tokens(tokens, "float16")) == 49 * 512
    assert len(encode_tokens(tokens, "int8")) == 49 * 258


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_of_another_shape_are_rejected(encoding: TokenEncoding) -> None:
    stored = encode_tokens(np.ones(SHAPE), encoding)
    for wrong in (stored[:-1], stored + b"\0", b""):
        with pytest.raises(InvalidInput, match=rf"{len(wrong)} bytes; {len(stored)} were expected, for shape \(5, 7\)"):
            decode_tokens(wrong, encoding, SHAPE)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_values_that_are_not_finite_are_rejected(encoding: TokenEncoding) -> None:
    stored = np.float16(np.nan).tobytes() + encode_tokens(np.ones(SHAPE), encoding)[2:]
    with pytest.raises(InvalidInput, match="not finite"):
        decode_tokens(stored, encoding, SHAPE)


def test_an_unknown_encoding_is_rejected() -> None:
    assert check_encoding("int8") == "int8"
    with pytest.raises(InvalidInput, match="token encoding: 'int4'; float16 or int8 was expected"):
        check_encoding("int4")
