"""`vitascope backup`: back up and restore a whole data folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from index.cli.collection import print_missing_media
from vitascope.cli.options import add_data, add_roots
from vitascope.cli.output import ProgressBar
from vitascope.errors import InvalidInput

EPILOG = """\
A backup contains collections, keys, webhooks, uploads and the list of added models. The service may
run meanwhile; each collection is a consistent snapshot. Not included: folders of videos indexed in
place, operations, and files that wait in `incoming`. For a single collection, see `vitascope
collection backup` and `restore`.

examples:
  vitascope backup /mnt/backups                            creates /mnt/backups/2026-11-26T03-30-00Z
  vitascope backup /mnt/backups --keep 30                  and keeps the last thirty
  vitascope backup --restore /mnt/backups/2026-11-26T03-30-00Z --data /srv/vitascope
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="existing folder for backups")
    target.add_argument(
        "--restore", type=Path, metavar="BACKUP", help="restore a backup into the data folder, which must be empty"
    )
    parser.add_argument(
        "--keep", type=int, default=7, metavar="N", help="number of backups to keep (default: %(default)s)"
    )
    add_data(parser)
    add_roots(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.restore is not None:
        return _restore(args)
    from index.transfer.data_backup import backup_data

    if args.roots is not None:
        raise InvalidInput("--root: only valid with --restore, which checks the paths of media files")
    with ProgressBar("copying", quiet=args.json) as bar:
        backup = backup_data(args.data, args.folder, args.keep, bar.update)
    return {
        "copy": str(backup.folder),
        "collections": backup.collections,
        "media_files": backup.media_files,
        "bytes": backup.bytes,
        "failed": len(backup.failures),
        "failures": [{"collection": name, "reason": reason} for name, reason in backup.failures],
        "removed": [str(path) for path in backup.removed],
    }


def _restore(args: argparse.Namespace) -> dict[str, Any]:
    from index.cli.local_backend import LocalBackend
    from index.transfer.data_backup import restore_data
    from index.transfer.media import describe_missing_media

    with LocalBackend.from_args(args) as backend:
        with ProgressBar("restoring", quiet=args.json) as bar:
            names = restore_data(args.restore, args.data, backend.allowed_paths(), bar.update)
        missing = describe_missing_media(backend.store(create=True), names)
    return {
        "restored": str(args.restore),
        "data": str(args.data),
        "collections": names,
        "missing": len(missing),
        "missing_media": missing,
    }


def show(result: dict[str, Any], console: Console) -> None:
    names = ", ".join(result["collections"]) or "no collections"
    if "restored" in result:
        console.print(f"{escape(result['data'])}: {names} restored from {escape(result['restored'])}")
        print_missing_media(result["missing_media"], console)
        return
    contents = f"{names}, {result['media_files']} media files, {decimal(result['bytes'])}"
    console.print(f"{escape(result['copy'])}: {contents}")
    for path in result["removed"]:
        console.print(f"{escape(path)} removed")
    for failure in result["failures"]:
        name, reason = escape(failure["collection"]), escape(failure["reason"])
        console.print(f"[red]collection {name} is not included: {reason}[/red]")
    if result["failures"]:
        console.print("No earlier backup was removed")


COMMANDS = {"backup": (add_arguments, run, show)}
