"""Fixtures of tests that train."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def skip_curves() -> Iterator[None]:
    """Write an empty picture of a run's curves, since drawing takes longer than the few steps of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.curves.plot", lambda log, picture: picture.touch())
        yield
