"""`vitascope orphans`: media files of a data folder that nothing needs."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from index.cli.places import opened_library
from vitascope.cli.options import add_data
from vitascope.cli.output import plain_table

EPILOG = """\
Vitascope removes a media file only with the video or job that needed it. What is left over in other ways (files that
were put there by hand, a catalogue that was replaced by an older one, kills of version 0.2.0) stays, and is listed
here. Files of collections that cannot be opened are listed and never removed. A service may go on meanwhile.

examples:
  vitascope orphans                             path, size and reason of each
  vitascope orphans --remove                    and removes them
  vitascope orphans --json | jq -r '.orphans[].file'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--remove", action="store_true", help="remove them, but for those that may be needed")
    add_data(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from index.orphans import find_orphans, remove_orphans

    with opened_library(args) as library:
        removed = remove_orphans(library) if args.remove else []
        left = find_orphans(library)
    return {
        "data": str(args.data),
        "orphans": [
            {"file": str(one.file), "bytes": one.bytes, "reason": one.reason, "removed": one in removed}
            for one in [*removed, *left]
        ],
        "removed": len(removed),
        "bytes": sum(one.bytes for one in [*removed, *left]),
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
