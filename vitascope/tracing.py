"""Callbacks that measure the stages of a request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

StageContext = Callable[[str], AbstractContextManager[None]]
"""Returns the context manager to hold during the stage of this name."""


def no_op_stage(name: str) -> AbstractContextManager[None]:
    """``StageContext`` that does nothing."""
    return nullcontext()
