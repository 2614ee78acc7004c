"""``python -m tests.service.stopping FILE``: the service, whose shutdown lasts as long as a test needs.

After ``FREE_FILES`` a job goes on only once the service is told to stop, so that some of it is always left. The service
listens until FILE exists, and does not close connections as idle, however slow their clients are.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.jobs.jobs import Job
from service import connections, run, worker
from service.server import Server
from tests.chaos import is_chaos

FREE_FILES = 5
SLOWEST_CLIENT_SECONDS = 60.0


def hold_back(run_job: Callable[..., Job]) -> Callable[..., Job]:
    """Return ``run_job`` with a model that embeds ``FREE_FILES`` and, once told to stop, the files in progress."""

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
        return run_job(collection, model, job_id, should_stop=should_stop, **options)

    return run_held_job


class StoppingServer(Server):
    file: Path

    async def _delay_shutdown(self) -> None:
        await super()._delay_shutdown()
        while not self.file.exists():
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    StoppingServer.file = Path(sys.argv[1])
    run.Server = StoppingServer  # type: ignore[misc]
    worker.run_job = hold_back(worker.run_job)
    if not is_chaos():
        connections.EVICTABLE_SECONDS = SLOWEST_CLIENT_SECONDS
    raise SystemExit(run.main())
