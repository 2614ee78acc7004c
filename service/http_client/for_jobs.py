"""What an indexing job fetches from hosts that nobody vouched for."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from index.jobs.sources.fetcher import FetchInterrupted
from service.http_client.deadline import Cancelled
from service.http_client.safe_client import Door


def fetch_for_job(door: Door, url: str, file: BinaryIO, should_stop: Callable[[], bool]) -> None:
    """A ``UrlFetcher`` by way of ``door``. Raises as ``Door.fetch`` does, but FetchInterrupted for Cancelled."""
    try:
        door.fetch(url, file, should_stop)
    except Cancelled as stopped:
        raise FetchInterrupted(url) from stopped
