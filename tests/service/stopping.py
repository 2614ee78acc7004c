"""``python -m tests.service.stopping FILE``: the service, whose end can be looked at for as long as a test needs.

From the file after ``FREE_FILES`` on a job goes on only once the service is told to stop, so there is always something
left to do. Between being not ready and letting nobody in there is, after the time for it, all that passes until FILE is
there. Clients may be as slow as they are: who is on the way is not taken for one who has nothing to ask.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.jobs.records import Job
from service import connections, run, worker
from service.server import Server
from tests.chaos import is_chaos

FREE_FILES = 5
SLOWEST_CLIENT = 60.0


def held_back(run_job: Callable[..., Job]) -> Callable[..., Job]:
    """``run_job``, whose model embeds ``FREE_FILES`` and from then on only what is at hand when a stop comes."""

    def run_held_job(
        collection: object, model: Any, job_id: int, *, should_stop: Callable[[], bool], **given: Any
    ) -> Job:
        embed, begun = model.embed_video, itertools.count()

        def embed_in_time(*args: Any) -> Any:
            number = next(begun)
            while number >= FREE_FILES and not should_stop():
                time.sleep(0.01)
            return embed(*args)

        model.embed_video = embed_in_time
        return run_job(collection, model, job_id, should_stop=should_stop, **given)

    return run_held_job


class LongDrain:
    """``Server._drain``, and then what passes until a file is there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._drain = Server._drain

    async def __call__(self, server: Server) -> None:
        await self._drain(server)
        while not self._file.exists():
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    drain = LongDrain(Path(sys.argv[1]))
    Server._drain = lambda self: drain(self)  # type: ignore[method-assign]
    worker.run_job = held_back(worker.run_job)
    if not is_chaos():
        connections.YIELDING_SECONDS = SLOWEST_CLIENT
    raise SystemExit(run.main())
