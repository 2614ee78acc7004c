"""`vitascope index` and `vitascope search`: folders in, clips out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.search_command import add_search_arguments, run_search, show_search
from vitascope.commands.options import add_bundle, add_collection, add_data, add_engine, collections_folder
from vitascope.commands.output import Steps, plain_table
from vitascope.errors import CollectionExists, Conflict, InvalidInput

if TYPE_CHECKING:
    from index.collection import Collection
    from index.jobs import Job, JobItem, JobOptions
    from index.library import Library
    from vitascope.model import Model

FILES_SHOWN = 20
NOTES_KEPT = 1000

INDEX_EPILOG = """\
Files are recognised by their content: what the collection has already is skipped, under any name, so the
command can be repeated. Interrupted or killed, it goes on where it stopped. A file that cannot be read is
listed with the reason, and the exit status is then 3.

examples:
  vitascope index ~/Videos
  vitascope index /mnt/cameras --collection cameras --metadata site=north --metadata year=2024
  vitascope index lectures --clip-length 20 --clip-overlap 5
  vitascope index films --segment shots --clip-longest 20
  vitascope index talks --segment subtitles --subtitles en
  vitascope index ~/Videos --json | jq .failures
"""


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = INDEX_EPILOG
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="videos and pictures, with all below it")
    parser.add_argument("--flat", action="store_true", help="not what is in folders below it")
    _add_segmentation(parser)
    parser.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="noted with every video added, for filters; numbers, true and false are taken as such",
    )
    for add in (add_collection, add_data, add_bundle, add_engine):
        add(parser)


def _add_segmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how videos are cut into clips")
    group.add_argument(
        "--segment",
        choices=("windows", "shots", "subtitles"),
        default="windows",
        help="windows of one length, one clip per shot, or sentences of the subtitles (default: windows)",
    )
    group.add_argument(
        "--clip-length",
        type=float,
        default=8.0,
        metavar="S",
        help="seconds per window, also in pauses between subtitles (default: %(default)g)",
    )
    group.add_argument(
        "--clip-overlap", type=float, default=0.0, metavar="S", help="seconds shared by neighbours (default: 0)"
    )
    group.add_argument(
        "--clip-shortest",
        type=float,
        metavar="S",
        help="seconds; what is shorter is joined (default: half a window, 1 for shots, 4 for subtitles)",
    )
    group.add_argument(
        "--clip-longest",
        type=float,
        default=16.0,
        metavar="S",
        help="seconds; longer shots and sentences are cut (default: %(default)g)",
    )
    group.add_argument(
        "--subtitles",
        metavar="LANGUAGE",
        help="which subtitles are read, as en or pt-BR (default: those without a language, else the first)",
    )


def run_index(args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs import JobOptions
    from index.library import Library
    from index.segment import Segmentation
    from vitascope.model import Model

    metadata = dict(_key_and_value(text) for text in args.metadata)
    segmentation = Segmentation(
        length=args.clip_length,
        overlap=args.clip_overlap,
        shortest=args.clip_shortest,
        rule=args.segment,
        longest=args.clip_longest,
        language=args.subtitles,
    )
    options = JobOptions(not args.flat, segmentation, metadata)
    if not args.folder.is_dir():
        raise InvalidInput(f"folder: {str(args.folder)!r} is not a folder; an existing folder was expected")
    model = Model.open(args.bundle, threads=args.threads, device=args.device)
    with Library(collections_folder(args.data)) as library:
        collection = _open_or_create(library, args.collection, model)
        resumed = _finish_interrupted(collection, model, args.folder, options, quiet=args.json)
        return {
            "collection": args.collection,
            **_index(collection, model, args.folder, options, resumed, args.json),
        }


def _key_and_value(text: str) -> tuple[str, str | float | int | bool]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise InvalidInput(f"metadata: {text!r}; KEY=VALUE was expected")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return key, parsed if isinstance(parsed, str | float | int) else value


def _open_or_create(library: Library, name: str, model: Model) -> Collection:
    try:
        collection = library.create(name, model)
    except CollectionExists:
        collection = library.open(name)
    collection.require(model.bundle.fingerprint)
    return collection


def _finish_interrupted(
    collection: Collection, model: Model, folder: Path, options: JobOptions, *, quiet: bool
) -> list[Job]:
    """Run interrupted jobs of the same folder to their end; files that came since are not in them."""
    from index.jobs import jobs

    found = [
        job
        for job in jobs(collection)
        if job.state in ("queued", "running") and job.folder == str(folder.absolute()) and job.options == options
    ]
    return [_run(collection, model, job, quiet=quiet) for job in found]


def _index(
    collection: Collection, model: Model, folder: Path, options: JobOptions, resumed: list[Job], quiet: bool
) -> dict[str, Any]:
    from index.jobs import create_folder_job, items

    job = create_folder_job(
        collection,
        folder,
        recursive=options.recursive,
        segmentation=options.segmentation,
        metadata=options.metadata,
    )
    job = _run(collection, model, job, quiet=quiet)
    added = job.counts.succeeded + sum(earlier.counts.succeeded for earlier in resumed)
    stats = collection.stats()
    return {
        "folder": job.folder,
        "job": str(job.id),
        "resumed": [str(earlier.id) for earlier in resumed],
        "files": job.counts.total,
        "added": added,
        "skipped": job.counts.total - added - job.counts.failed,
        "failed": job.counts.failed,
        "failures": [{"file": i.path, "reason": i.reason} for i in items(collection, job.id, "failed")],
        "notes": [note for done in (*resumed, job) for note in _notes(collection, done.id)],
        "videos": stats.videos,
        "clips": stats.clips,
    }


def _notes(collection: Collection, job_id: int) -> list[dict[str, str]]:
    """What was remarked about files that were added, at most ``NOTES_KEPT``."""
    from index.jobs import items

    notes: list[dict[str, str]] = []
    after = -1
    while len(notes) < NOTES_KEPT and (page := items(collection, job_id, "succeeded", after_position=after)):
        notes += [{"file": item.path, "note": item.reason} for item in page if item.reason]
        after = page[-1].position
    return notes[:NOTES_KEPT]


def _run(collection: Collection, model: Model, job: Job, *, quiet: bool) -> Job:
    """Run the job to its end with a bar. Raises Conflict when it did not succeed as a whole."""
    from index.jobs import run_job

    with Steps("indexing", quiet=quiet) as steps:

        def on_item(item: JobItem, done: int, total: int) -> None:
            steps.show(done, total, Path(item.path).name)

        job = run_job(collection, model, job.id, on_item=on_item)
    if job.state != "succeeded":
        raise Conflict(f"job {job.id} of {job.folder}: {job.state}{f': {job.error}' if job.error else ''}")
    return job


def show_index(result: dict[str, Any], console: Console) -> None:
    failed = f", [red]{result['failed']} failed[/red]" if result["failed"] else ""
    console.print(
        f"{result['added']} added, {result['skipped']} skipped{failed}: collection "
        f"[bold]{escape(result['collection'])}[/bold] has {result['videos']} videos, {result['clips']} clips"
    )
    _show_files(console, [(f["file"], f["reason"] or "") for f in result["failures"]], result["failed"], "reason")
    _show_files(console, [(n["file"], n["note"]) for n in result["notes"]], len(result["notes"]), "note")


def _show_files(console: Console, listed: list[tuple[str, str]], count: int, what: str) -> None:
    if not listed:
        return
    table = plain_table("file", what)
    for file, words in listed[:FILES_SHOWN]:
        table.add_row(escape(file), escape(words))
    console.print(table)
    if (more := count - FILES_SHOWN) > 0:
        console.print(f"and {more} more; --json lists up to 1000")


COMMANDS = {
    "index": (add_index_arguments, run_index, show_index),
    "search": (add_search_arguments, run_search, show_search),
}
