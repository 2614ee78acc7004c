"""What is repeated a little with every change and a lot by `make chaos`, and what only the latter runs."""

from __future__ import annotations

import os

import pytest

only_by_chaos = pytest.mark.chaos
"""Of a test that takes too long for every run: `make chaos` has it, and so has whoever changes what it tests."""


def is_chaos() -> bool:
    """Whether `make chaos` runs, on a machine that is quiet: nothing else may ask how fast something is."""
    return bool(os.environ.get("VITASCOPE_CHAOS"))


def rounds(usual: int, many: int) -> int:
    """``many`` where `make chaos` runs, else ``usual``."""
    return many if is_chaos() else usual
