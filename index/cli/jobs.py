"""`vitascope jobs`: list, show, control and follow indexing jobs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape

from index.cli.backend import (
    JSON,
    Backend,
    collect_pages,
    list_failures,
    open_backend,
    parse_id,
    require_success,
)
from vitascope.cli.options import add_bundle, add_collection, add_data, add_engine, add_server
from vitascope.cli.output import ProgressBar, plain_table, print_files
from vitascope.job_states import JOB_STATES

EPILOG = """\
Queued jobs are run by the service of the data folder. Without a service, `follow` runs the job.
`follow` waits until the job has finished; its exit status is 3 if files failed and 2 if the job
failed.

examples:
  vitascope jobs list --state running
  vitascope jobs show 3
  vitascope jobs retry 3 && vitascope jobs follow 3
  vitascope jobs pause 3 --collection cameras --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add_action(name: str, summary: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name != "list":
            action.add_argument("id", metavar="ID", help="id of the job")
        for add in (add_collection, add_data, add_server):
            add(action)
        return action

    list_action = add_action("list", "list jobs, newest first")
    list_action.add_argument("--state", choices=JOB_STATES, help="only jobs in this state")
    list_action.add_argument(
        "--limit", type=int, default=100, metavar="N", help="maximum number (default: %(default)s)"
    )
    list_action.add_argument("--cursor", metavar="CURSOR", help="next_cursor of the previous page")
    add_action("show", "show a job and its failed files")
    add_action("pause", "pause a job, at once or after the files in progress")
    add_action("resume", "queue a paused job again")
    add_action("retry", "queue a finished job again for its failed files")
    add_action("cancel", "cancel a job, at once or after the files in progress")
    follow = add_action("follow", "wait until a job has finished")
    add_bundle(follow)
    add_engine(follow)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.action != "list":
        parse_id("id", args.id)
    with open_backend(args) as backend:
        return {"action": args.action, "collection": args.collection, **_run_action(backend, args)}


def _run_action(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    changes: dict[str, Callable[[str, str], JSON]] = {
        "pause": backend.pause_job,
        "resume": backend.resume_job,
        "retry": backend.retry_job,
        "cancel": backend.cancel_job,
    }
    if args.action in changes:
        return {"job": changes[args.action](args.collection, args.id)}
    if args.action == "list":

        def get_page(limit: int, cursor: str | None) -> JSON:
            return backend.list_jobs(args.collection, state=args.state, limit=limit, cursor=cursor)

        return collect_pages(get_page, "jobs", args.limit, args.cursor)
    if args.action == "show":
        job = backend.get_job(args.collection, args.id)
        return {"job": job, "failures": list_failures(backend, args.collection, args.id)}
    with ProgressBar("indexing", quiet=args.json) as bar:
        job = require_success(backend.follow_job(args.collection, args.id, bar.update))
    failed = job["counts"]["failed"] + job["counts"]["quarantined"]
    return {"job": job, "failures": list_failures(backend, args.collection, args.id), "failed": failed}


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of jobs; for a single one also its failed files."""
    jobs = result["jobs"] if result["action"] == "list" else [result["job"]]
    if not jobs:
        console.print("No jobs")
        return
    table = plain_table(">id", "state", ">files", ">done", ">failed", "created", "source", "")
    for job in jobs:
        failed = job["counts"]["failed"] + job["counts"]["quarantined"]
        table.add_row(
            job["id"],
            f"{job['state']} ({job['requested']} requested)" if job["requested"] else job["state"],
            str(job["total"]) if job["total"] else "-",
            str(job["done"]),
            f"[red]{failed}[/red]" if failed else "0",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created_at"])),
            escape(_format_source(job["source"])),
            f"[red]{escape(job['error'])}[/red]" if job["error"] else "",
        )
    console.print(table)
    if result["action"] == "list" and result["next_cursor"] is not None:
        console.print(f"Next page: --cursor {result['next_cursor']}")
    for kind, counts in jobs[0].get("recognitions", {}).items() if result["action"] == "show" else ():
        failed = f", [red]{counts['failed']} failed[/red]" if counts["failed"] else ""
        console.print(f"{kind.replace('_', ' ')}: {counts['done']} recognised{failed}")
    failures = [(failure["file"], failure["reason"] or "") for failure in result.get("failures", [])]
    print_files(console, failures, "reason")


def _format_source(source: JSON) -> str:
    names = source.get("files") or source.get("shards")
    if names is None:
        return str(source.get("folder") or source.get("file") or source["url"])
    return str(names[0]) if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


COMMANDS = {"jobs": (add_arguments, run, show)}
