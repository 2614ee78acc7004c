"""`vitascope jobs … --server URL`: the same at a running service."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from index.cli.files_told import failures, files_there
from index.cli.paging import gathered
from vitascope.cli.output import ProgressBar
from vitascope.client import Client
from vitascope.client.response_types import Job


def _list(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return gathered(
        lambda limit, cursor: client.list_jobs(args.collection, state=args.state, limit=limit, cursor=cursor),
        "jobs",
        args.limit,
        args.cursor,
    )


def _show(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    job = client.get_job(args.collection, args.id)
    return {"job": job, "failures": failures(files_there(client, args.collection, args.id))}


def _steer(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    changes = {
        "pause": client.pause_job,
        "resume": client.resume_job,
        "retry": client.retry_job,
        "cancel": client.cancel_job,
    }
    return {"job": changes[args.action](args.collection, args.id)}


def _follow(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    job = followed(client, args.collection, args.id, quiet=args.json)
    return {"job": job, "failures": failures(files_there(client, args.collection, args.id))}


def followed(client: Client, collection: str, job_id: str, *, quiet: bool) -> Job:
    """The job once it has ended, with a bar until then."""

    def show(job: Job) -> None:
        steps.update(job["progress"] * job["total"], job["total"], job["state"])

    with ProgressBar("indexing", quiet=quiet) as steps:
        return client.wait_for_job(collection, job_id, on_change=show)


ACTIONS: dict[str, Callable[[Client, argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "pause": _steer,
    "resume": _steer,
    "retry": _steer,
    "cancel": _steer,
    "follow": _follow,
}
