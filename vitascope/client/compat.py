"""Functions that differ between the asynchronous and the blocking client.

The package `_sync` is generated from `_async` by removing the suffix ``_async``: a call of ``sleep_async`` becomes a
call of ``sleep``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

CLEANUP_SECONDS = 10.0
"""Time limit of requests that clean up after a cancelled call."""


async def sleep_async(seconds: float) -> None:
    await anyio.sleep(seconds)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


async def run_blocking_async(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Run blocking file I/O in a thread."""
    return await anyio.to_thread.run_sync(function, *arguments)


def run_blocking(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    return function(*arguments)


@contextmanager
def shield_async() -> Iterator[None]:
    """Protect cleanup from cancellation, for at most `CLEANUP_SECONDS`."""
    with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
        yield


@contextmanager
def shield() -> Iterator[None]:
    yield
