"""Fixtures of tests that train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from training.models.fusion import FusedModel
    from training.recipe import Stage


@pytest.fixture(scope="session", autouse=True)
def skip_curves() -> Iterator[None]:
    """Write an empty picture of a run's curves, since drawing takes longer than the few steps of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.curves.plot", lambda log, picture: picture.touch())
        yield


@pytest.fixture(scope="session", autouse=True)
def encode_with_torch() -> Iterator[None]:
    """Compute features with torch, since exporting the encoder to ONNX takes longer than the few steps of a test."""
    from training import visual_token_cache

    def encoder(model: FusedModel, stage: Stage, clips: int, bf16: bool) -> visual_token_cache.Encode:
        return visual_token_cache._TorchEncoder(model, stage, bf16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_token_cache, "_encoder", encoder)
        yield
