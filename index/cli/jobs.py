"""`vitascope jobs`: indexing jobs of a collection, here or at a running service."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.console import Console
from rich.markup import escape

from index.cli.paging import check_limit
from index.cli.places import opened_collection
from index.cli.record_ids import record_number
from index.cli.running import check_succeeded
from vitascope.cli.options import (
    add_bundle,
    add_collection,
    add_data,
    add_engine,
    add_server,
    server_url,
)
from vitascope.cli.output import FILES_SHOWN, plain_table, show_files

STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
STEERING = {
    "pause": "let a job rest, at once or after the files at hand",
    "resume": "queue a paused job again",
    "retry": "queue a finished job again for what failed",
    "cancel": "end a job, at once or after the files at hand",
}
EPILOG = """\
A queued job is run by the service that has the data folder. Where there is none, `follow` runs it: it stays with a job
until it has ended, whoever runs it. `follow` exits with 3 where files failed, and with 2 where the job did.

examples:
  vitascope jobs list --state running
  vitascope jobs show 3                          how far it is, and which files failed
  vitascope jobs retry 3 && vitascope jobs follow 3
  vitascope jobs pause 3 --collection cameras --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name != "list":
            sub.add_argument("id", metavar="ID", help="of a job")
        for add in (add_collection, add_data, add_server):
            add(sub)
        return sub

    listing = action("list", "list jobs, newest first")
    listing.add_argument("--state", choices=STATES, help="only jobs in this state")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="jobs (default: %(default)s)")
    listing.add_argument("--cursor", metavar="CURSOR", help="next_cursor of an answer: its next page")
    action("show", "tell of a job and the files that failed")
    for name, summary in STEERING.items():
        action(name, summary)
    follow = action("follow", "stay with a job until it has ended")
    add_bundle(follow)
    add_engine(follow)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.action == "list":
        check_limit(args.limit)
    else:
        record_number("id", args.id)
    if (server := server_url(args)) is not None:
        from index.cli import jobs_server
        from vitascope.client import Client

        with Client(server) as client:
            done = jobs_server.ACTIONS[args.action](client, args)
    else:
        from index.cli import jobs_here

        with opened_collection(args, args.collection) as collection:
            done = jobs_here.ACTIONS[args.action](collection, args)
    if args.action == "follow":
        check_succeeded(done["job"])
        counts = done["job"]["counts"]
        done["failed"] = counts["failed"] + counts["quarantined"]
    return {"action": args.action, "collection": args.collection, **done}


def show(result: dict[str, Any], console: Console) -> None:
    """A table of jobs, and where one is looked at, the files that failed."""
    jobs = result["jobs"] if result["action"] == "list" else [result["job"]]
    if not jobs:
        console.print("no jobs")
        return
    table = plain_table(">id", "state", ">files", ">done", ">failed", "begun", "source", "")
    for job in jobs:
        counts = job["counts"]
        failed = counts["failed"] + counts["quarantined"]
        state = f"{job['state']}, to {job['requested']}" if job["requested"] else job["state"]
        table.add_row(
            job["id"],
            state,
            str(job["total"]) if job["total"] else "-",
            str(job["done"]),
            f"[red]{failed}[/red]" if failed else "0",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created_at"])),
            escape(_source(job["source"])),
            f"[red]{escape(job['error'])}[/red]" if job["error"] else "",
        )
    console.print(table)
    if result["action"] == "list":
        if result["next_cursor"] is not None:
            console.print(f"there are more: --cursor {result['next_cursor']}")
        return
    failures = [(failure["file"], failure["reason"] or "") for failure in result.get("failures", [])]
    show_files(console, failures, "reason")
    if (more := len(failures) - FILES_SHOWN) > 0:
        console.print(f"and {more} more; --json lists them")


def _source(source: dict[str, Any]) -> str:
    """In a few words."""
    named = source.get("files") or source.get("shards")
    if named is None:
        return str(source.get("folder") or source.get("file") or source["url"])
    return str(named[0]) if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"


COMMANDS = {"jobs": (add_arguments, run, show)}
