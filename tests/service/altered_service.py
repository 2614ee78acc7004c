"""``python -m tests.service.altered_service NAME [ARGUMENT]``: the service with delays or faults that tests need."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.jobs.jobs import Job
from index.vectors import faiss_index, faiss_kinds, snapshot
from service import connections, run, worker
from service.server import Server
from tests.chaos import is_chaos
from vitascope.model import Model

FREE_FILES = 5
"""Files of a job that ``stopping`` indexes at once."""
SLOWEST_CLIENT_SECONDS = 60.0


def retrying() -> None:
    """Retry a job after a fault without much delay."""
    worker.FAULT_SECONDS = 0.2


def stalling(count: str) -> None:
    """Embed so many clips, and never return from the next call."""
    embed, calls = Model.embed_video, itertools.count(1)

    def stall(*args: Any) -> Any:
        if next(calls) > int(count):
            threading.Event().wait()
        return embed(*args)

    Model.embed_video = stall  # type: ignore[method-assign]


def stopping(file: str) -> None:
    """Have work left at a shutdown, and listen until ``file`` exists.

    A job continues after ``FREE_FILES`` files only during the shutdown. Idle connections are not closed, however slow
    their clients are.
    """
    run_job = worker.run_job

    def run_held_job(
        collection: object, model: Any, job_id: int, *, should_stop: Callable[[], bool], **options: Any
    ) -> Job:
        embed, calls = model.embed_video, itertools.count()

        def embed_later(*args: Any) -> Any:
            number = next(calls)
            while number >= FREE_FILES and not should_stop():
                time.sleep(0.01)
            return embed(*args)

        model.embed_video = embed_later
        return run_job(collection, model, job_id, should_stop=should_stop, **options)  # type: ignore[arg-type]

    class StoppingServer(Server):
        async def _delay_shutdown(self) -> None:
            await super()._delay_shutdown()
            while not Path(file).exists():
                await asyncio.sleep(0.01)

    run.Server = StoppingServer  # type: ignore[misc]
    worker.run_job = run_held_job  # type: ignore[assignment]
    if not is_chaos():
        connections.EVICTABLE_SECONDS = SLOWEST_CLIENT_SECONDS


def swapping(file: str) -> None:
    """Rebuild indexes however small they are, and append a byte to ``file`` at each swap."""
    swap_in = faiss_index.FaissIndex._swap_in

    def count_swap(index: faiss_index.FaissIndex) -> None:
        before = index._current
        swap_in(index)
        if index._current is not before:
            with open(file, "ab") as swaps:
                swaps.write(b".")

    faiss_index.FaissIndex._swap_in = count_swap  # type: ignore[method-assign]
    faiss_kinds.MIN_CLIPS.update(dict.fromkeys(faiss_kinds.MIN_CLIPS, 0))
    faiss_index.MIN_CHANGED, faiss_index.RETRY_SECONDS, snapshot._POLL_SECONDS = 1, 0.0, 0.01


def terminated() -> None:
    """Send SIGTERM just before uvicorn installs its signal handlers."""

    class TerminatedServer(Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().run(sockets)

    run.Server = TerminatedServer  # type: ignore[misc]


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    for function in (retrying, stalling, stopping, swapping, terminated):
        if function.__name__ == name:
            function(*arguments)
    raise SystemExit(run.main())
