"""`vitascope index` in this process: a job that is run at once, or a folder that is watched."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.cli.files_told import failures, files_here, notes
from index.cli.index_asked import asked_metadata, asked_source
from index.cli.places import opened_library
from index.cli.running import check_succeeded, run_here
from index.cli.segment_options import asked_segmentation
from index.cli.views import job_here
from vitascope.errors import CollectionExists, InvalidInput

if TYPE_CHECKING:
    from index.collection import Collection
    from index.collection_store import CollectionStore
    from index.integrations.ray.executor import RayCluster
    from index.jobs.records import Job, JobOptions
    from index.jobs.sources.source_types import Source
    from vitascope.model import Model


def index_here(args: argparse.Namespace) -> dict[str, Any]:
    """What was done and what the collection holds now. Raises as jobs do, and Conflict for one that did not succeed."""
    from index.jobs.jobs import create_job
    from index.jobs.records import JobOptions
    from index.jobs.sources.source_types import check_source
    from vitascope.model import Model

    metadata = asked_metadata(args)
    options = JobOptions(asked_segmentation(args), metadata)
    source = check_source(asked_source(args))
    if args.watch or args.watch_delete:
        _check_watch(args, source)
    _check_ray(args)
    model = Model.open(args.bundle, args.threads, "cpu" if args.ray else args.device, args.engine)
    with _cluster(args) as cluster, opened_library(args, make=True) as library:
        collection = _open_or_create(library, args.collection, model)
        if args.watch:
            return _watch(args, collection, model, source, options)

        def run(job: Job) -> Job:
            done = run_here(collection, model, job.id, cluster=cluster, quiet=args.json)
            check_succeeded(job_here(done))
            return done

        resumed = [run(job) for job in _interrupted(collection, source, options)]
        done = run(create_job(collection, source, options))
        return _summary(collection, done, resumed)


def _check_watch(args: argparse.Namespace, source: Source) -> None:
    from index.jobs.sources.source_types import FolderSource

    if not args.watch:
        raise InvalidInput("watch-delete: without --watch nothing is followed; --watch was expected")
    if not isinstance(source, FolderSource):
        raise InvalidInput(f"watch: {args.source[0]!r} is no folder; only a folder can be followed")
    for name in ("interval", "settle"):
        if not 0 < getattr(args, name) < 1e6:
            raise InvalidInput(f"{name}: {getattr(args, name)}; seconds above 0 were expected")
    if not 0 <= args.max_delete <= 1:
        raise InvalidInput(f"max-delete: {args.max_delete}; a share from 0 to 1 was expected")


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
    from index.integrations.ray.executor import RayCluster, connect

    with connect(args.ray):
        cluster = RayCluster(args.ray_actors, args.threads or 1, args.device)
        cluster.size()  # said before a job is written down
        yield cluster


def _open_or_create(library: CollectionStore, name: str, model: Model) -> Collection:
    try:
        collection = library.create(name, model)
    except CollectionExists:
        collection = library.open(name)
    collection.require_fingerprint(model.bundle.fingerprint)
    return collection


def _interrupted(collection: Collection, source: Source, options: JobOptions) -> list[Job]:
    """Jobs of the same source that were begun and not ended; files that came since are not in them."""
    from index.jobs.jobs import list_jobs

    unfinished = [*list_jobs(collection, state="queued"), *list_jobs(collection, state="running")]
    return [job for job in unfinished if job.source == source and job.options == options]


def _summary(collection: Collection, job: Job, resumed: list[Job]) -> dict[str, Any]:
    from index.jobs.jobs import count_added_by
    from index.jobs.sources.source_types import source_dict

    added = job.counts.succeeded + sum(earlier.counts.succeeded for earlier in resumed)
    # What a resumed job has added is skipped by the new one, unless its file has gone since.
    skipped = job.counts.skipped - count_added_by(collection, job.id, [earlier.id for earlier in resumed])
    failed = job.counts.failed + job.counts.quarantined
    stats = collection.stats()
    return {
        "source": source_dict(job.source),
        "job": str(job.id),
        "resumed": [str(earlier.id) for earlier in resumed],
        "files": added + skipped + failed,
        "added": added,
        "skipped": skipped,
        "failed": failed,
        "failures": failures(files_here(collection, job.id)),
        "notes": [note for done in (*resumed, job) for note in notes(files_here(collection, done.id))],
        "videos": stats.videos,
        "clips": stats.clips,
    }


def _watch(
    args: argparse.Namespace, collection: Collection, model: Model, source: Source, options: JobOptions
) -> dict[str, Any]:
    from index.jobs.folder_watcher import WatchOptions, watch_folder
    from index.jobs.sources.source_types import FolderSource

    assert isinstance(source, FolderSource)
    console = Console(highlight=False)

    def say(event: dict[str, Any]) -> None:
        if args.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            detail = f": {event['reason']}" if event.get("reason") else ""
            console.print(escape(f"{event['event']}  {event['path']}{detail}"), soft_wrap=True)

    watch = WatchOptions(source, options, args.interval, args.settle, args.watch_delete, args.max_delete)
    return watch_folder(collection, model, watch, say).summary(collection, source)
