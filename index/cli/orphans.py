"""`vitascope orphans`: media files of a data folder that nothing refers to."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.options import add_data
from vitascope.cli.output import plain_table

EPILOG = """\
Vitascope deletes a media file together with the video or job that needed it. Other leftovers (files
added by hand, a catalogue replaced by an older one, processes of version 0.2.0 that were killed)
are listed here. Files of collections that cannot be opened are listed and never removed. A service
may run meanwhile.

examples:
  vitascope orphans                             list path, size and reason
  vitascope orphans --remove                    delete them
  vitascope orphans --json | jq -r '.orphans[].file'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--remove", action="store_true", help="delete the files, except those that may be needed")
    add_data(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from index.cli.local_backend import LocalBackend
    from index.orphans import find_orphans, remove_orphans

    with LocalBackend.from_args(args) as backend:
        removed = remove_orphans(backend.store()) if args.remove else []
        remaining = find_orphans(backend.store())
    orphans = [*removed, *remaining]
    return {
        "data": str(args.data),
        "orphans": [
            {"file": str(orphan.file), "bytes": orphan.bytes, "reason": orphan.reason, "removed": orphan in removed}
            for orphan in orphans
        ],
        "removed": len(removed),
        "bytes": sum(orphan.bytes for orphan in orphans),
    }


def show(result: dict[str, Any], console: Console) -> None:
    orphans = result["orphans"]
    if not orphans:
        console.print(f"{escape(result['data'])}: no orphans")
        return
    table = plain_table("file", ">size", "reason")
    for orphan in orphans:
        table.add_row(escape(orphan["file"]), decimal(orphan["bytes"]), escape(orphan["reason"]))
    console.print(table)
    if result["removed"]:
        console.print(f"{result['removed']} of {len(orphans)} files removed")
    else:
        console.print(f"{len(orphans)} files, {decimal(result['bytes'])}")


COMMANDS = {"orphans": (add_arguments, run, show)}
