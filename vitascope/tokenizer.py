"""Text to token numbers, with the bundle's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vitascope.errors import BundleCorrupt, TextError

_PADDING_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
MAX_CHARACTERS = 20_000


class Tokenizer:
    """Safe to share between threads."""

    def __init__(self, inner: tokenizers.Tokenizer, max_length: int, max_characters: int = MAX_CHARACTERS):
        """``max_length``: tokens, special ones included; longer texts are cut."""
        self.max_length = max_length
        self.max_characters = max_characters
        self._inner = inner
        stated = inner.padding or {}
        self._pad_id = int(stated.get("pad_id", _padding_id(inner)))
        inner.no_padding()  # padding is done here, so that masks and numbers are made in one place
        inner.enable_truncation(max_length)

    @classmethod
    def open(cls, path: Path, max_length: int, max_characters: int = MAX_CHARACTERS) -> Tokenizer:
        """Read a ``tokenizer.json``. Raises BundleCorrupt when it cannot be read."""
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BundleCorrupt(f"{path.name}: not a readable tokenizer: {error}") from error
        return cls(inner, max_length, max_characters)

    @property
    def vocabulary_size(self) -> int:
        """Tokens, special ones included."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    def vocabulary(self) -> dict[str, int]:
        """Token to number, special ones included."""
        return dict(self._inner.get_vocab(with_added_tokens=True))

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, mask), both (B, L) int64, padded to the longest text of the batch; mask 1 marks a token.

        Raises TextError for a text that is empty, blank, too long or not Unicode.
        """
        for number, text in enumerate(texts):
            self._check(number, text)
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=True)  # without offsets
        length = max((len(one.ids) for one in encoded), default=0)
        ids = np.full((len(encoded), length), self._pad_id, np.int64)
        mask = np.zeros((len(encoded), length), np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
        return ids, mask

    def _check(self, number: int, text: str) -> None:
        if not isinstance(text, str):
            raise TextError(f"texts[{number}]: {type(text).__name__}; a string was expected")
        if len(text) > self.max_characters:
            raise TextError(
                f"texts[{number}]: {len(text)} characters; at most {self.max_characters} characters are read"
            )
        if not text.strip():
            raise TextError(f"texts[{number}]: {text[:20]!r} is empty; visible characters were expected")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"texts[{number}]: not valid Unicode at character {error.start}") from error


def _padding_id(inner: tokenizers.Tokenizer) -> int:
    found = (inner.token_to_id(token) for token in _PADDING_TOKENS)
    return next((number for number in found if number is not None), 0)
