"""What is measured about storing tokens: pooling as it is said, and numbers that tell a good way from a bad one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from training.evaluation import token_storage
from training.evaluation.gallery import Gallery
from training.evaluation.token_storage import Storage, pooled, spread, storages
from vitascope.model import Match


def test_pooling_means_neighbours_and_keeps_the_mean_of_all_also_at_odd_edges() -> None:
    tokens = np.random.default_rng(0).standard_normal((49, 3)).astype(np.float32)
    small = pooled(tokens, 7)
    assert small.shape == (16, 3)
    grid = tokens.reshape(7, 7, 3)
    np.testing.assert_allclose(small[1], grid[:2, 2:4].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(small[3], grid[:2, 6:].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(small[15], grid[6, 6], rtol=1e-5)
    np.testing.assert_allclose(spread(small, 7).mean(axis=0), tokens.mean(axis=0), atol=1e-6)


def test_each_way_of_storing_states_its_bytes() -> None:
    assert [storage.clip_bytes for storage in storages((49, 256))] == [25088, 12642, 4128]
    assert len(storages((50, 256))) == 2  # no square grid to pool
    tokens = np.random.default_rng(0).standard_normal((49, 8)).astype(np.float32)
    assert all(storage.stored(tokens).shape == tokens.shape for storage in storages((49, 8)))


class _Dots:
    """Text "n" matches tokens by their n-th number; similarity knows nothing but is right in the end."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[[int(text) for text in texts]]

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray) -> Match:
        logits = np.array([tokens[0, int(text)] for text, tokens in zip(texts, visual_tokens, strict=True)])
        return Match(logits, logits)

    def fused(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        return match_logits


def test_a_way_of_storing_that_loses_the_tokens_shows_in_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.zeros((4, 4, 4), np.float16)
    tokens[:, 0] = 4 * np.eye(4)
    ways = [Storage("whole", lambda t: t.astype(np.float32), 8), Storage("nothing", lambda t: np.zeros_like(t), 0)]
    monkeypatch.setattr(token_storage, "storages", lambda shape: ways)
    videos = Gallery(np.roll(np.eye(4, dtype=np.float32), 1, axis=0))  # the own video is never the most similar
    asked = [(row, str(row)) for row in range(4)]
    whole, nothing = token_storage._measured(_Dots(), "drawn", videos, tokens, asked, 4)  # type: ignore[arg-type]
    assert (whole.recall_1, whole.match, whole.shift) == (100.0, 100.0, 0.0)
    assert nothing.recall_1 < 50
    assert nothing.match == 50.0
    assert nothing.shift > 10
    assert "| drawn | nothing | 0 |" in token_storage.table([whole, nothing])
