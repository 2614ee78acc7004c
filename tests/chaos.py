"""Tests that `make chaos` repeats often, or runs alone."""

from __future__ import annotations

import os

import pytest

only_by_chaos = pytest.mark.chaos
"""Marker of tests that take too long for every run."""


def is_chaos() -> bool:
    """Return whether `make chaos` runs, on a machine that is otherwise idle."""
    return bool(os.environ.get("VITASCOPE_CHAOS"))


def rounds(usual: int, many: int) -> int:
    """Return ``many`` in `make chaos`, else ``usual``."""
    return many if is_chaos() else usual
