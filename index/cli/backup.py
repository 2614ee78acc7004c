"""`vitascope backup`: copies of a whole data folder, and a data folder out of a copy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from index.cli.collection_shown import show_missing_media
from index.cli.places import allowed_paths
from vitascope.cli.options import add_data, add_roots, collections_folder
from vitascope.cli.output import ProgressBar
from vitascope.errors import InvalidInput

EPILOG = """\
A copy holds collections, keys, webhooks, uploads and which models were added. The service goes on meanwhile; each
collection is of one moment. Folders of videos that were indexed where they lie are not in it, nor are operations and
what waits in `incoming`. To copy or restore a single collection: `vitascope collection backup` and `restore`.

examples:
  vitascope backup /mnt/backups                            makes /mnt/backups/2026-11-26T03-30-00Z
  vitascope backup /mnt/backups --keep 30                  and keeps the last thirty
  vitascope backup --restore /mnt/backups/2026-11-26T03-30-00Z --data /srv/vitascope
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="where copies go; an existing folder")
    what.add_argument(
        "--restore", type=Path, metavar="COPY", help="put a copy into the data folder, which must hold no collections"
    )
    parser.add_argument("--keep", type=int, default=7, metavar="N", help="copies, the oldest go (default: %(default)s)")
    add_data(parser)
    add_roots(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from index.collection_store import CollectionStore
    from index.transfer.data_backup import copy_data, restore_data
    from index.transfer.media_links import missing_videos

    if args.restore is None and args.roots is not None:
        raise InvalidInput("--root: goes with --restore, which reads paths of files; a copy takes them as they are")
    if args.restore is not None:
        with ProgressBar("restoring", quiet=args.json) as steps:
            names = restore_data(args.restore, args.data, allowed_paths(args), steps.update)
        with CollectionStore(collections_folder(args.data)) as library:
            missing = missing_videos(library, names)
        done = {"restored": str(args.restore), "data": str(args.data), "collections": names}
        return {**done, "missing": len(missing), "missing_media": missing}
    with ProgressBar("copying", quiet=args.json) as steps:
        made = copy_data(args.data, args.folder, args.keep, steps.update)
    return {
        "copy": str(made.folder),
        "collections": made.collections,
        "media_files": made.media_files,
        "bytes": made.bytes,
        "failed": len(made.failures),
        "failures": [{"collection": name, "reason": reason} for name, reason in made.failures],
        "removed": [str(path) for path in made.removed],
    }


def show(result: dict[str, Any], console: Console) -> None:
    names = ", ".join(result["collections"]) or "no collections"
    if "restored" in result:
        console.print(f"{escape(result['data'])}: {names} restored from {escape(result['restored'])}")
        show_missing_media(result["missing_media"], console)
        return
    told = f"{names}, {result['media_files']} media files, {decimal(result['bytes'])}"
    console.print(f"{escape(result['copy'])}: {told}")
    for path in result["removed"]:
        console.print(f"{escape(path)} removed")
    for failure in result["failures"]:
        console.print(
            f"[red]collection {escape(failure['collection'])} is not in it: {escape(failure['reason'])}[/red]"
        )
    if result["failures"]:
        console.print("No earlier copy was removed.")


COMMANDS = {"backup": (add_arguments, run, show)}
