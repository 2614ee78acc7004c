"""`vitascope index`: a folder, a file list, shards or URLs become searchable, once or for as long as it is watched."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.commands.segment_options import add_segmentation, asked_segmentation
from vitascope.commands.options import (
    add_bundle,
    add_collection,
    add_data,
    add_engine,
    collections_folder,
    default_vectors,
)
from vitascope.commands.output import FILES_SHOWN, Steps, show_files
from vitascope.errors import CollectionExists, Conflict, InvalidInput

if TYPE_CHECKING:
    from index.collection import Collection
    from index.jobs.cluster.executor import RayCluster
    from index.jobs.jobs import Job, JobItem, JobOptions
    from index.jobs.sources.description import Source
    from index.library import Library
    from vitascope.model import Model

NOTES_KEPT = 1000

EPILOG = """\
Files are recognised by their content: what the collection has already is skipped, under any name, so the
command can be repeated. Interrupted or killed, it goes on where it stopped. A file that cannot be read is
listed with the reason, and the exit status is then 3.

A SOURCE is a folder; a file list (.csv, .tsv, .jsonl, .parquet) with a column of paths; WebDataset shards
(.tar); a URL of a file or folder that fsspec can read; or single files.

examples:
  vitascope index ~/Videos
  vitascope index ~/Videos --watch
  vitascope index /mnt/cameras --collection cameras --metadata site=north --metadata year=2024
  vitascope index lectures --clip-length 20 --clip-overlap 5
  vitascope index films --segment shots --clip-longest 20
  vitascope index talks --segment subtitles --subtitles en
  vitascope index films.csv --path-column file --title-column name
  vitascope index shards/*.tar
  vitascope index s3://bucket/videos/
  vitascope index /mnt/videos --ray auto
  vitascope index ~/Videos --json | jq .failures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="folder, file list, shards, URL or files")
    add("--flat", action="store_true", help="of a folder: not what is in folders below it")
    add("--path-column", default="path", metavar="NAME", help="of a file list (default: %(default)s)")
    add("--title-column", default="title", metavar="NAME", help="of a file list (default: %(default)s)")
    add_segmentation(parser)
    add(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="noted with every video added, for filters; numbers, true and false are taken as such",
    )
    add("--watch", action="store_true", help="follow the folder until Ctrl-C: index what comes, report what goes")
    add("--watch-delete", action="store_true", help="with --watch: what goes is removed from the collection, too")
    add("--interval", type=float, default=5.0, metavar="S", help="seconds between two looks (default: %(default)g)")
    add(
        "--settle",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds for which a file must not change before it is taken as complete (default: %(default)g)",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="decode and embed on a Ray cluster: HOST:PORT, auto (the one this machine belongs to) or local",
    )
    add("--ray-actors", type=int, default=0, metavar="N", help="workers (default: as many as it has CPUs for)")
    for add_shared in (add_collection, add_data, add_bundle, add_engine):
        add_shared(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.jobs import JobOptions, create_job
    from index.jobs.sources.description import check_source
    from index.library import Library
    from vitascope.model import Model

    metadata = dict(_key_and_value(text) for text in args.metadata)
    options = JobOptions(asked_segmentation(args), metadata)
    source = check_source(_source(args))
    if args.watch or args.watch_delete:
        _check_watch(args, source)
    _check_ray(args)
    model = Model.open(args.bundle, args.threads, "cpu" if args.ray else args.device, args.engine)
    folder = collections_folder(args.data)
    with _cluster(args) as cluster, Library(folder, vectors=default_vectors()) as library:
        collection = _open_or_create(library, args.collection, model)
        if args.watch:
            return {"collection": args.collection, **_watch(args, collection, model, source, options)}
        run = partial(_run, collection, model, cluster=cluster, quiet=args.json)
        resumed = [run(job) for job in _interrupted(collection, source, options)]
        done = run(create_job(collection, source, options))
        return {"collection": args.collection, **_summary(collection, done, resumed)}


def _source(args: argparse.Namespace) -> Source:
    from index.jobs.sources.description import ListSource, guess_source

    source = guess_source(args.source, recursive=not args.flat)
    if isinstance(source, ListSource):
        return replace(source, path_column=args.path_column, title_column=args.title_column)
    return source


def _check_watch(args: argparse.Namespace, source: Source) -> None:
    from index.jobs.sources.description import FolderSource

    if not args.watch:
        raise InvalidInput("watch-delete: without --watch nothing is followed; --watch was expected")
    if not isinstance(source, FolderSource):
        raise InvalidInput(f"watch: {args.source[0]!r} is no folder; only a folder can be followed")
    for name in ("interval", "settle"):
        if not 0 < getattr(args, name) < 1e6:
            raise InvalidInput(f"{name}: {getattr(args, name)}; seconds above 0 were expected")


def _check_ray(args: argparse.Namespace) -> None:
    if args.ray is None and args.ray_actors:
        raise InvalidInput("ray-actors: without --ray there is no cluster; --ray was expected")
    if args.ray is not None and args.watch:
        raise InvalidInput("ray: together with --watch; a folder is followed by this machine alone")
    if args.ray is not None and args.engine != "onnxruntime":
        raise InvalidInput(f"engine: {args.engine!r} with --ray, whose workers run graphs; onnxruntime was expected")


@contextmanager
def _cluster(args: argparse.Namespace) -> Iterator[RayCluster | None]:
    """The cluster that was asked for, while the block runs."""
    if args.ray is None:
        yield None
        return
    from index.jobs.cluster.connect import connected
    from index.jobs.cluster.executor import RayCluster

    with connected(args.ray):
        cluster = RayCluster(args.ray_actors, args.threads or 1, args.device)
        cluster.size()  # said before a job is written down
        yield cluster


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


def _interrupted(collection: Collection, source: Source, options: JobOptions) -> list[Job]:
    """Jobs of the same source that were begun and not ended; files that came since are not in them."""
    from index.jobs.jobs import jobs

    unfinished = [*jobs(collection, state="queued"), *jobs(collection, state="running")]
    return [job for job in unfinished if job.source == source and job.options == options]


def _summary(collection: Collection, job: Job, resumed: list[Job]) -> dict[str, Any]:
    from index.jobs.jobs import items
    from index.jobs.sources.description import source_dict

    added = job.counts.succeeded + sum(earlier.counts.succeeded for earlier in resumed)
    failed = job.counts.failed + job.counts.quarantined
    failures = [*items(collection, job.id, "failed"), *items(collection, job.id, "quarantined")]
    stats = collection.stats()
    return {
        "source": source_dict(job.source),
        "job": str(job.id),
        "resumed": [str(earlier.id) for earlier in resumed],
        "files": job.counts.total,
        "added": added,
        "skipped": job.counts.total - added - failed,
        "failed": failed,
        "failures": [{"file": i.path, "reason": i.reason} for i in failures],
        "notes": [note for done in (*resumed, job) for note in _notes(collection, done.id)],
        "videos": stats.videos,
        "clips": stats.clips,
    }


def _notes(collection: Collection, job_id: int) -> list[dict[str, str]]:
    """What was remarked about files that were added, at most ``NOTES_KEPT``."""
    from index.jobs.jobs import items

    notes: list[dict[str, str]] = []
    after = -1
    while len(notes) < NOTES_KEPT and (page := items(collection, job_id, "succeeded", after_position=after)):
        notes += [{"file": item.path, "note": item.reason} for item in page if item.reason]
        after = page[-1].position
    return notes[:NOTES_KEPT]


def _run(collection: Collection, model: Model, job: Job, *, cluster: RayCluster | None, quiet: bool) -> Job:
    """Run the job to its end with a bar. Raises Conflict when it did not succeed as a whole."""
    from index.jobs.jobs import run_job
    from index.jobs.outcome import file_name
    from index.jobs.sources.description import source_name

    with Steps("indexing", quiet=quiet) as steps:

        def on_item(item: JobItem, done: int, total: int) -> None:
            steps.show(done, total, file_name(item.path))

        if cluster is None:
            job = run_job(collection, model, job.id, on_item=on_item)
        else:
            job = run_job(collection, model, job.id, on_item=on_item, pace=cluster.pace(), workplace=cluster)
    if job.state != "succeeded":
        why = f": {job.error}" if job.error else ""
        raise Conflict(f"job {job.id} of {source_name(job.source)}: {job.state}{why}")
    return job


def _watch(
    args: argparse.Namespace, collection: Collection, model: Model, source: Source, options: JobOptions
) -> dict[str, Any]:
    from index.jobs.sources.description import FolderSource
    from index.jobs.watch import Watch, summary, watch

    assert isinstance(source, FolderSource)
    console = Console(highlight=False)

    def say(event: dict[str, Any]) -> None:
        if args.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            detail = f": {event['reason']}" if event.get("reason") else ""
            console.print(escape(f"{event['event']}  {event['path']}{detail}"), soft_wrap=True)

    wanted = Watch(source, options, interval=args.interval, settle=args.settle, delete=args.watch_delete)
    return summary(collection, source, watch(collection, model, wanted, say))


def show(result: dict[str, Any], console: Console) -> None:
    failed = f", [red]{result['failed']} failed[/red]" if result["failed"] else ""
    console.print(
        f"{result['added']} added, {result['skipped']} skipped{failed}: collection "
        f"[bold]{escape(result['collection'])}[/bold] has {result['videos']} videos, {result['clips']} clips"
    )
    _show_files(console, [(f["file"], f["reason"] or "") for f in result["failures"]], result["failed"], "reason")
    _show_files(console, [(n["file"], n["note"]) for n in result["notes"]], len(result["notes"]), "note")


def _show_files(console: Console, listed: list[tuple[str, str]], count: int, what: str) -> None:
    show_files(console, listed, what)
    if (more := count - FILES_SHOWN) > 0:
        console.print(f"and {more} more; --json lists up to 1000")
