"""Tokenization with the bundle's tokenizer, and batching of texts by length.

Shape letters: B texts, L tokens of the longest text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vitascope.errors import BundleCorrupt, TextError
from vitascope.text_format import is_blank

_PADDING_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
MAX_CHARACTERS = 20_000
_JOINED = (
    (re.compile(r" ([.,;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{]) "), r"\1"),
    (re.compile(r"(?<=\w) ' (?=(?:s|t|d|m|ll|re|ve)\b)"), "'"),
    (re.compile(r"(?<=\w) ([-/]) (?=\w)"), r"\1"),
    (re.compile(r'" ([^"]*) "'), r'"\1"'),
    (re.compile(r"(?<=\d)([.:]|,(?= \d{3}\b)) (?=\d)"), r"\1"),
)
"""Patterns of punctuation with superfluous spaces, and their replacements."""


class Tokenizer:
    """Thread-safe wrapper of a `tokenizers.Tokenizer` that truncates, pads and validates texts."""

    def __init__(self, inner: tokenizers.Tokenizer, max_length: int, max_characters: int = MAX_CHARACTERS):
        """Wrap a tokenizer.

        Args:
            inner: The tokenizer; its padding and truncation are replaced.
            max_length: Maximum tokens, including special ones; longer texts are truncated.
            max_characters: Maximum length of a text in characters.
        """
        self.max_length = max_length
        self.max_characters = max_characters
        self._inner = inner
        padding = inner.padding or {}
        self._pad_id = int(padding.get("pad_id", _padding_id(inner)))
        inner.no_padding()  # ``encode`` pads ids and masks together
        inner.enable_truncation(max_length)

    @classmethod
    def open(cls, path: Path, max_length: int, max_characters: int = MAX_CHARACTERS) -> Tokenizer:
        """Read a ``tokenizer.json``. Raises BundleCorrupt if it is not readable."""
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BundleCorrupt(f"{path.name}: not a readable tokenizer: {error}") from error
        return cls(inner, max_length, max_characters)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, including special ones."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token, including special ones."""
        return dict(self._inner.get_vocab(with_added_tokens=True))

    def special_ids(self) -> list[int]:
        """Return the ids of special tokens, such as padding, beginning and end."""
        return [i for i, token in self._inner.get_added_tokens_decoder().items() if token.special]

    def knows(self, words: Sequence[str]) -> bool:
        """Return whether each word (of ASCII letters) is a single token."""
        encodings = self._inner.encode_batch(list(words), add_special_tokens=False)
        tokens = [encoding.tokens for encoding in encodings]
        # A token may also have a mark of the beginning or end of a word; the token for unknown words contains no word.
        return all(len(ts) == 1 and word.lower() in ts[0].lower() for word, ts in zip(words, tokens, strict=True))

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokenize texts.

        Returns:
            (ids, mask), each (B, L) int64, padded to the longest text; mask is 1 for tokens and 0 for padding.

        Raises:
            TextError: A text is blank, too long or not valid Unicode.
        """
        self.check(texts)
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=True)  # fast: without offsets
        length = max((len(encoding.ids) for encoding in encodings), default=0)
        ids = np.full((len(encodings), length), self._pad_id, np.int64)
        mask = np.zeros((len(encodings), length), np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        return ids, mask

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens and WordPiece's spaces around punctuation."""
        text = str(self._inner.decode(list(ids), skip_special_tokens=True))
        return _join_punctuation(text) if isinstance(self._inner.decoder, tokenizers.decoders.WordPiece) else text

    def check(self, texts: Sequence[str]) -> None:
        """Raise TextError for the first text that is blank, too long or not valid Unicode."""
        for index, text in enumerate(texts):
            self._check(index, text)

    def _check(self, index: int, text: str) -> None:
        if not isinstance(text, str):
            raise TextError(f"texts[{index}]: {type(text).__name__}; a string was expected")
        if len(text) > self.max_characters:
            raise TextError(
                f"texts[{index}]: {len(text)} characters; at most {self.max_characters} characters were expected"
            )
        if is_blank(text):
            raise TextError(f"texts[{index}]: {text[:20]!r} is empty; visible characters were expected")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"texts[{index}]: not valid Unicode at character {error.start}") from error


@dataclass(frozen=True)
class TextBatch:
    """Tokenized texts of one run.

    Attributes:
        rows: (B,) indices of the texts.
        inputs: ``input_ids`` and ``attention_mask``, each (B, L) int64.
        tokens: Number of tokens without padding.
    """

    rows: NDArray[np.int64]
    inputs: dict[str, NDArray[Any]]
    tokens: int


def length_sorted_batches(tokenizer: Tokenizer, texts: Sequence[str], size: int) -> list[TextBatch]:
    """Tokenize texts into batches of at most ``size``, shortest texts first, which minimizes padding.

    Raises:
        TextError: A text is blank, too long or not valid Unicode.
    """
    ids, mask = tokenizer.encode(texts)
    lengths = mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    batches = []
    for first in range(0, len(texts), size):
        rows = order[first : first + size]
        longest = max(1, int(lengths[rows[-1]]))
        inputs = {"input_ids": ids[rows, :longest], "attention_mask": mask[rows, :longest]}
        batches.append(TextBatch(rows, inputs, int(lengths[rows].sum())))
    return batches


def _join_punctuation(text: str) -> str:
    """Remove the spaces around punctuation that is separated like words, as in ``a man ' s t - shirt .``."""
    for pattern, replacement in _JOINED:
        text = pattern.sub(replacement, text)
    return text


def _padding_id(inner: tokenizers.Tokenizer) -> int:
    ids = (inner.token_to_id(token) for token in _PADDING_TOKENS)
    return next((token_id for token_id in ids if token_id is not None), 0)
