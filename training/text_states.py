"""Cached text states, for stages that do not train the text layers: every text is encoded once.

Shape letters: B texts, L text tokens, D text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.data.batch import Tokens
from training.models.fusion import FusedModel

TEXTS_PER_PASS, LENGTH_STEP = 16, 8
"""Number of texts per pass (the last text is repeated to fill it), and the multiple to which token counts are padded.
With arrays of fixed sizes the states of a text do not depend on the other texts, so that a resumed run computes exactly
the same states."""
MAX_STORED_BYTES = 6 << 30
"""Maximum size of the cache; states of further texts are computed at every step. Six GiB hold about 400,000 captions of
a model of width 384."""


def text_keys(tokens: Tokens) -> list[bytes]:
    """Return a cache key for each text: its token ids without padding, as bytes."""
    ids, lengths = tokens.ids.cpu().numpy(), tokens.mask.sum(dim=1).tolist()
    return [row[:length].tobytes() for row, length in zip(ids, lengths, strict=True)]


class _StoredTexts(ABC):
    """Cached outputs of frozen text layers, by token ids."""

    def __init__(self, model: FusedModel) -> None:
        self._model: Final = model
        self._stored: dict[bytes, Tensor] = {}
        self._bytes = 0

    @abstractmethod
    def _encode(self, tokens: Tokens) -> Sequence[Tensor]:
        """Compute the cached output for each text."""

    @torch.no_grad()
    def _of(self, tokens: Tokens) -> list[Tensor]:
        keys = text_keys(tokens)
        missing = {key: row for row, key in enumerate(keys) if key not in self._stored}
        lengths = tokens.mask.sum(dim=1).tolist()
        by_length: dict[int, list[int]] = defaultdict(list)
        for row in missing.values():
            by_length[min(-(-lengths[row] // LENGTH_STEP) * LENGTH_STEP, self._model.cfg.text_length)].append(row)
        new: dict[bytes, Tensor] = {}
        for length, rows in by_length.items():
            ids, mask = (F.pad(x, (0, length))[:, :length] for x in (tokens.ids, tokens.mask))
            for start in range(0, len(rows), TEXTS_PER_PASS):
                part = rows[start : start + TEXTS_PER_PASS]
                some = torch.tensor(part + part[-1:] * (TEXTS_PER_PASS - len(part)), device=ids.device)
                new.update(zip((keys[row] for row in part), self._encode(Tokens(ids[some], mask[some])), strict=False))
        if self._bytes < MAX_STORED_BYTES:
            self._stored.update(new)
            self._bytes += sum(x.nbytes for x in new.values())
        return [new[key] if key in new else self._stored[key] for key in keys]


class MeanTextStates(_StoredTexts):
    """Cached mean text states."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """Return the mean states (B, D) of texts."""
        return torch.stack(self._of(tokens))

    def _encode(self, tokens: Tokens) -> Sequence[Tensor]:
        return list(mean_text_state(self._model, tokens).float())


class TextStates(_StoredTexts):
    """Cached text states, stored in float16."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """Return the states (B, L, D) float32 of texts, 0 for padding."""
        states = pad_sequence([x.float() for x in self._of(tokens)], batch_first=True)
        return F.pad(states, (0, 0, 0, tokens.ids.shape[1] - states.shape[1]))

    def _encode(self, tokens: Tokens) -> Sequence[Tensor]:
        states = self._model.text.encode(tokens.ids, tokens.mask).half()
        return [x[:length].clone() for x, length in zip(states, tokens.mask.sum(dim=1).tolist(), strict=True)]


def mean_text_state(model: FusedModel, tokens: Tokens) -> Tensor:
    """Return the mean states (B, D) of texts."""
    return model.mean_text_state(model.text.encode(tokens.ids, tokens.mask), tokens.mask)
