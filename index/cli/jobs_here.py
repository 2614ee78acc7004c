"""`vitascope jobs`: what is done in this process, on a collection of a data folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from index.cli.files_told import failures, files_here
from index.cli.running import run_here
from index.cli.views import job_here
from vitascope.errors import Conflict

if TYPE_CHECKING:
    from index.collection import Collection
    from index.jobs.records import Job

LOOK_SECONDS = 0.5
"""How often a job that somebody else runs, or that rests, is looked at."""


def _list(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.jobs import list_jobs
    from index.pagination import decode_cursor, paginate

    found = list_jobs(collection, args.limit + 1, decode_cursor(args.cursor), args.state)
    page, following = paginate(found, args.limit, lambda job: job.id)
    return {"jobs": [job_here(job) for job in page], "next_cursor": following}


def _show(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.jobs import get_job

    found = get_job(collection, int(args.id))
    return {"job": job_here(found), "failures": failures(files_here(collection, found.id))}


def _steer(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs import jobs

    changes: dict[str, Callable[[Collection, int], Job]] = {
        "pause": jobs.pause,
        "resume": jobs.resume,
        "retry": jobs.retry,
        "cancel": jobs.cancel,
    }
    return {"job": job_here(changes[args.action](collection, int(args.id)))}


def _follow(collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.jobs import get_job
    from vitascope.job_states import FINAL_JOB_STATES
    from vitascope.model import Model

    model: Model | None = None
    found = get_job(collection, int(args.id))
    while found.state not in FINAL_JOB_STATES:
        if _waits_for_us(collection, found):
            model = model or Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
            collection.require_fingerprint(model.bundle.fingerprint)
            with suppress(Conflict):  # somebody else was faster, who is looked at then
                run_here(collection, model, found.id, quiet=args.json)
        else:
            time.sleep(LOOK_SECONDS)
        found = get_job(collection, found.id)
    return {"job": job_here(found), "failures": failures(files_here(collection, found.id))}


def _waits_for_us(collection: Collection, found: Job) -> bool:
    """Whether nobody runs the job, and nobody lets it rest. Raises Conflict for one that only a service may run."""
    from index.storage.job_transitions import is_abandoned

    if found.state == "paused":
        return False
    with collection.catalogue.read() as connection:
        if found.state == "running" and not is_abandoned(connection, found.id):
            return False
    if found.options.confined:
        raise Conflict(
            f"job {found.id}: belongs to a service, or came with a backup, and is not running; --server URL of a "
            "service, which knows what it may read, was expected"
        )
    return True


ACTIONS: dict[str, Callable[[Collection, argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "pause": _steer,
    "resume": _steer,
    "retry": _steer,
    "cancel": _steer,
    "follow": _follow,
}
