"""What an indexing job fetches from hosts that nobody vouched for."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from index.jobs.sources.fetching import Interrupted
from service.outbound.door import Door
from service.outbound.errors import Stopped


def fetch_for_job(door: Door, url: str, file: BinaryIO, should_stop: Callable[[], bool]) -> None:
    """A ``FetchWeb`` by way of ``door``. Raises as ``Door.fetch`` does, but Interrupted for Stopped."""
    try:
        door.fetch(url, file, should_stop)
    except Stopped as stopped:
        raise Interrupted(url) from stopped
