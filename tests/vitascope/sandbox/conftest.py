"""Pools of decoding workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vitascope.media.file import MediaFile
from vitascope.sandbox.pool import DecodingPool, PooledDecoder

HOOKED_WORKER = "tests.vitascope.sandbox.hooked_worker"


@pytest.fixture(scope="session")
def pooled() -> Iterator[PooledDecoder]:
    """A decoder with two ordinary workers."""
    pool = DecodingPool(2)
    pool.start()
    pool.wait_until_ready()
    yield PooledDecoder(pool)
    pool.close()


@pytest.fixture
def new_pool() -> Iterator[Callable[..., DecodingPool]]:
    """Create pools, ready, of workers that misbehave on request."""
    pools: list[DecodingPool] = []

    def create(size: int = 1, **options: Any) -> DecodingPool:
        pool = DecodingPool(size, **{"module": HOOKED_WORKER, **options})
        pools.append(pool)
        pool.start()
        pool.wait_until_ready()
        return pool

    yield create
    for pool in pools:
        pool.close()


def any_file(name: str = "film.mp4") -> MediaFile:
    """An open file of this name that contains no video."""
    return MediaFile(os.open(__file__, os.O_RDONLY), Path(name))
