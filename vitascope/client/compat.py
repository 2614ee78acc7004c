"""What cannot be generated: each thing that the two clients do differently, once for either.

Where the asynchronous client calls ``pause_async``, the one that is generated calls ``pause``, and so on.
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

SHIELDED_SECONDS = 10.0


async def pause_async(seconds: float) -> None:
    await anyio.sleep(seconds)


def pause(seconds: float) -> None:
    time.sleep(seconds)


async def blocking_async(call: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """The result of a call that may wait for a disk: in a thread, so that the loop goes on meanwhile."""
    return await anyio.to_thread.run_sync(call, *arguments)


def blocking(call: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    return call(*arguments)


@contextmanager
def shielded_async() -> Iterator[None]:
    """What tidies up after a cancelled call is not cancelled with it, but has no more than ``SHIELDED_SECONDS``."""
    with anyio.move_on_after(SHIELDED_SECONDS, shield=True):
        yield


@contextmanager
def shielded() -> Iterator[None]:
    yield
