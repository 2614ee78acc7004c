"""Pools of decoding processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vitascope.media.file import MediaFile
from vitascope.sandbox.pool import DecodingPool
from vitascope.sandbox.pooled_decoder import PooledDecoder
from vitascope.sandbox.protocol import Question

HOOKED = "tests.vitascope.sandbox.hooked_child"


@pytest.fixture(scope="session")
def pooled() -> Iterator[PooledDecoder]:
    """A decoder whose two processes do nothing but decode."""
    pool = DecodingPool(2)
    pool.start()
    pool.wait_until_ready()
    yield PooledDecoder(pool)
    pool.close()


@pytest.fixture
def new_pool() -> Iterator[Callable[..., DecodingPool]]:
    """Makes pools, ready, of processes that misbehave when they are asked to."""
    made: list[DecodingPool] = []

    def make(size: int = 1, **given: Any) -> DecodingPool:
        pool = DecodingPool(size, **{"module": HOOKED, **given})
        made.append(pool)
        pool.start()
        pool.wait_until_ready()
        return pool

    yield make
    for pool in made:
        pool.close()


def question(operation: str, file: MediaFile | None = None, **arguments: Any) -> Question[Any]:
    """Something that only a hooked process can be asked; the answer is the value."""
    request = {"do": operation, "name": "film.mp4", **arguments}
    return Question(request, 1024 * 1024, lambda value, blobs: value, file=file)


def any_file(name: str = "film.mp4") -> MediaFile:
    """An open file of this name, which has no film in it."""
    return MediaFile(os.open(__file__, os.O_RDONLY), Path(name))
