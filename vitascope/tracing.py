"""The stages of a request, for whoever wants to know how long each one takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Stage = Callable[[str], AbstractContextManager[None]]
"""Given the name of a stage, what to enter while it lasts."""


def unnoticed(name: str) -> AbstractContextManager[None]:
    """A ``Stage`` for when nobody wants to know."""
    return nullcontext()
