"""Pools of decoding processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vitascope.decoding.pool import DecodingPool
from vitascope.decoding.pooled import PooledDecoder
from vitascope.decoding.questions import Question

HOOKED = "tests.vitascope.decoding.hooked_child"


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


def question(operation: str, **arguments: Any) -> Question[Any]:
    """Something that only a hooked process can be asked; the answer is the value."""
    request = {"do": operation, "path": "/films/film.mp4", **arguments}
    return Question(request, 1024 * 1024, lambda value, blobs: value)
