"""`vitascope index`: a folder, a file list, shards or URLs become searchable, here or at a running service."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.markup import escape

from index.cli.segment_options import add_segmentation
from vitascope.cli.options import (
    LocalOnlyAction,
    add_bundle,
    add_collection,
    add_data,
    add_engine,
    add_model,
    add_server,
    server_url,
)
from vitascope.cli.output import FILES_SHOWN, show_files
from vitascope.errors import InvalidInput

EPILOG = """\
Files are recognised by their content: what the collection has already is skipped, under any name, so the
command can be repeated. Interrupted or killed, it goes on where it stopped. A file that cannot be read is
listed with the reason, and the exit status is then 3.

With --watch, a file that was replaced is read again, also by an older one and while nothing watched. --watch-delete
removes no video whose folder or drive is away, and none while more than --max-delete have lost their files.

A SOURCE is a folder; a file list (.csv, .tsv, .jsonl, .parquet) with a column of paths; WebDataset shards
(.tar); a URL of a file or folder that fsspec can read; or single files.

examples:
  vitascope index ~/Videos
  vitascope index ~/Videos --watch
  vitascope index /mnt/cameras --watch --watch-delete --max-delete 0.5
  vitascope index /mnt/cameras --collection cameras --metadata site=north --metadata year=2024
  vitascope index lectures --clip-length 20 --clip-overlap 5
  vitascope index films --segment shots --clip-longest 20
  vitascope index talks --segment subtitles --subtitles en
  vitascope index films.csv --path-column file --title-column name
  vitascope index shards/*.tar
  vitascope index s3://bucket/videos/
  vitascope index /mnt/videos --ray auto
  vitascope index ~/Videos --json | jq .failures
  vitascope index ~/Videos --server http://127.0.0.1:8000               sends the files
  vitascope index /mnt/videos --server http://search.lan --remote       a job, where they lie

To a service, files are sent one after the other; what it has already is not sent. Subtitles beside a video stay here;
those inside of it go along. Shards, and what --remote names, are read by the service, below its allowed roots.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    _add_source(parser)
    add_segmentation(parser)
    _add_watching(parser)
    _add_cluster(parser)
    for add_shared in (add_collection, add_data, add_bundle, add_engine, add_server, add_model):
        add_shared(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="folder, file list, shards, URL or files")
    add("--flat", action="store_true", help="of a folder: not what is in folders below it")
    add("--path-column", default="path", metavar="NAME", help="of a file list (default: %(default)s)")
    add("--title-column", default="title", metavar="NAME", help="of a file list (default: %(default)s)")
    add(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="noted with every video added, for filters; numbers, true and false are taken as such",
    )
    add(
        "--remote",
        action="store_true",
        help="with --server: SOURCE lies on the service's machine, where a job indexes it; nothing is sent",
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how a folder is watched")
    group.add_argument(
        "--watch",
        action=LocalOnlyAction,
        nargs=0,
        const=True,
        default=False,
        help="follow the folder until Ctrl-C: index what comes, report what goes",
    )
    group.add_argument(
        "--watch-delete",
        action=LocalOnlyAction,
        nargs=0,
        const=True,
        default=False,
        help="with --watch: what goes is removed from the collection, too",
    )
    group.add_argument(
        "--interval",
        action=LocalOnlyAction,
        type=float,
        default=5.0,
        metavar="S",
        help="seconds between two looks (default: %(default)g)",
    )
    group.add_argument(
        "--settle",
        action=LocalOnlyAction,
        type=float,
        default=5.0,
        metavar="S",
        help="seconds for which a file must not change before it is taken as complete, or be gone before its video is "
        "removed (default: %(default)g)",
    )
    group.add_argument(
        "--max-delete",
        action=LocalOnlyAction,
        type=float,
        default=0.2,
        metavar="SHARE",
        help="with --watch-delete: if more than this share of the folder's videos, 0 to 1, has lost its files, nothing "
        "is removed until they are back; a single video always is (default: %(default)g)",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on a Ray cluster")
    group.add_argument(
        "--ray",
        action=LocalOnlyAction,
        metavar="ADDRESS",
        help="decode and embed on a Ray cluster: HOST:PORT, auto (the one this machine belongs to) or local",
    )
    group.add_argument(
        "--ray-actors",
        action=LocalOnlyAction,
        type=int,
        default=0,
        metavar="N",
        help="workers (default: as many as it has CPUs for)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is not None:
        from index.cli.index_server import PATIENCE, index_there
        from vitascope.client import Client

        with Client(server, timeout=PATIENCE) as client:
            return {"collection": args.collection, **index_there(client, args)}
    if args.remote:
        raise InvalidInput("--remote: goes with --server URL, on whose machine SOURCE lies; --server was expected")
    from index.cli.index_here import index_here

    return {"collection": args.collection, **index_here(args)}


def show(result: dict[str, Any], console: Console) -> None:
    failed = f", [red]{result['failed']} failed[/red]" if result["failed"] else ""
    console.print(
        f"{result['added']} added, {result['skipped']} skipped{failed}: collection "
        f"[bold]{escape(result['collection'])}[/bold] has {result['videos']} videos, {result['clips']} clips"
    )
    if "gone" in result:
        _show_watched(result, console)
    _show_files(console, [(f["file"], f["reason"] or "") for f in result["failures"]], result["failed"], "reason")
    _show_files(console, [(n["file"], n["note"]) for n in result["notes"]], len(result["notes"]), "note")


def _show_watched(result: dict[str, Any], console: Console) -> None:
    """What became of files that went while the folder was watched."""
    if result["gone"]:
        console.print(f"{result['gone']} lost their file, {result['removed']} of them removed")
    if result["held_videos"]:
        reason = f": {escape(result['held_reason'])}" if result["held_reason"] else ""
        console.print(f"[red]{result['held_videos']} not removed[/red]{reason}")
    _show_files(
        console, [(a["path"], a["reason"]) for a in result["unavailable"]], len(result["unavailable"]), "unavailable"
    )


def _show_files(console: Console, listed: list[tuple[str, str]], count: int, what: str) -> None:
    show_files(console, listed, what)
    if (more := count - FILES_SHOWN) > 0:
        console.print(f"and {more} more; --json lists them")


COMMANDS = {"index": (add_arguments, run, show)}
