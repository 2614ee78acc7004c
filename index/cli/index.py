"""`vitascope index`: index videos and images into a collection."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.cli.backend import JSON, Backend, list_failures, list_notes, open_backend, require_success
from index.cli.index_arguments import (
    add_arguments,
    parse_local_source,
    parse_metadata,
    parse_remote_source,
    parse_segmentation,
)
from vitascope.cli.options import server_url
from vitascope.cli.output import ProgressBar, print_files
from vitascope.errors import CollectionExists, CollectionNotFound, InvalidInput, VitascopeError

if TYPE_CHECKING:
    from index.cli.local_backend import LocalBackend
    from index.jobs.sources.source_types import FolderSource, Source


def run(args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.sources.access_policy import is_url

    server = server_url(args)
    if server is None:
        if args.remote:
            raise InvalidInput("--remote: only valid with --server URL")
        result = _index_locally(args)
    elif args.remote or is_url(args.source[0]):
        with open_backend(args) as backend:
            result = _index_by_job(backend, args, parse_remote_source(args))
    else:
        from index.cli.uploads import upload_source

        result = upload_source(server, args)
    return {"collection": args.collection, **result}


def _index_locally(args: argparse.Namespace) -> dict[str, Any]:
    from index.cli.local_backend import LocalBackend
    from index.jobs.sources.source_types import source_dict

    source = parse_local_source(args)
    _check_ray(args)
    with LocalBackend.from_args(args) as backend:
        if args.watch or args.watch_delete:
            return _watch(backend, args, _check_watch(args, source))
        if args.ray is not None:
            backend.use_ray(args.ray, args.ray_actors)
        return _index_by_job(backend, args, source_dict(source))


def _index_by_job(backend: Backend, args: argparse.Namespace, source: JSON) -> dict[str, Any]:
    """Create a job, after finishing those that were interrupted, and wait for it. Raises Conflict if it fails."""
    metadata, segmentation = parse_metadata(args), parse_segmentation(args)
    is_new = ensure_collection(backend, args)
    with ProgressBar("indexing", quiet=args.json) as bar:
        resumed = [
            require_success(backend.run_job(args.collection, job_id, bar.update))
            for job_id in backend.interrupted_jobs(args.collection, source, metadata, segmentation)
        ]
        try:
            job = backend.create_job(args.collection, source=source, metadata=metadata, segmentation=segmentation)
        except VitascopeError:
            if is_new:
                backend.delete_collection(args.collection)
            raise
        job = require_success(backend.run_job(args.collection, job["id"], bar.update))
    added = sum(each["counts"]["succeeded"] for each in [*resumed, job])
    # The new job skips what the resumed ones have added.
    skipped = job["counts"]["skipped"] - _count_added_before(backend, args.collection, job, resumed)
    failed = job["counts"]["failed"] + job["counts"]["quarantined"]
    collection = backend.get_collection(args.collection)
    return {
        "source": job["source"],
        "job": job["id"],
        "resumed": [each["id"] for each in resumed],
        "files": added + skipped + failed,
        "added": added,
        "skipped": skipped,
        "failed": failed,
        "failures": list_failures(backend, args.collection, job["id"]),
        "notes": [note for each in [*resumed, job] for note in list_notes(backend, args.collection, each["id"])],
        "videos": collection["videos"],
        "clips": collection["clips"],
    }


def ensure_collection(backend: Backend, args: argparse.Namespace) -> bool:
    """Create the collection if it does not exist; return whether it was created."""
    try:
        backend.get_collection(args.collection)
    except CollectionNotFound:
        try:
            backend.create_collection(args.collection, model=args.model)
        except CollectionExists:  # another process was faster
            return False
        return True
    return False


def _count_added_before(backend: Backend, collection: str, job: JSON, resumed: list[JSON]) -> int:
    """Count the files that ``job`` skipped because one of the ``resumed`` jobs had added them."""
    if not resumed:
        return 0
    added = {
        item["path"] for each in resumed for item in backend.iter_job_items(collection, each["id"], state="succeeded")
    }
    return sum(item["path"] in added for item in backend.iter_job_items(collection, job["id"], state="skipped"))


def _check_watch(args: argparse.Namespace, source: Source) -> FolderSource:
    from index.jobs.sources.source_types import FolderSource

    if not args.watch:
        raise InvalidInput("watch-delete: only valid with --watch")
    if not isinstance(source, FolderSource):
        raise InvalidInput(f"watch: {args.source[0]!r} is not a folder; a folder was expected")
    for name in ("interval", "settle"):
        if not 0 < getattr(args, name) < 1e6:
            raise InvalidInput(f"{name}: {getattr(args, name)}; seconds above 0 were expected")
    if not 0 <= args.max_delete <= 1:
        raise InvalidInput(f"max-delete: {args.max_delete}; a ratio from 0 to 1 was expected")
    return source


def _check_ray(args: argparse.Namespace) -> None:
    if args.ray is None and args.ray_actors:
        raise InvalidInput("ray-actors: only valid with --ray")
    if args.ray is not None and args.watch:
        raise InvalidInput("ray: cannot be combined with --watch, which indexes on this machine")
    if args.ray is not None and args.engine != "onnxruntime":
        raise InvalidInput(f"engine: {args.engine!r} with --ray, whose workers run graphs; onnxruntime was expected")


def _watch(backend: LocalBackend, args: argparse.Namespace, source: FolderSource) -> dict[str, Any]:
    from index.cli.local_backend import job_options
    from index.jobs.folder_watcher import WatchOptions, watch_folder

    console = Console(highlight=False)

    def print_event(event: Mapping[str, Any]) -> None:
        if args.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            detail = f": {event['reason']}" if event.get("reason") else ""
            console.print(escape(f"{event['event']}  {event['path']}{detail}"), soft_wrap=True)

    model = backend.model  # an error must not leave a new collection
    ensure_collection(backend, args)
    collection = backend.open_collection(args.collection)
    collection.require_fingerprint(model.bundle.fingerprint)
    options = job_options(parse_metadata(args), parse_segmentation(args))
    watch = WatchOptions(source, options, args.interval, args.settle, args.watch_delete, args.max_delete)
    return watch_folder(collection, model, watch, print_event).summary(collection, source)


def show(result: dict[str, Any], console: Console) -> None:
    failed = f", [red]{result['failed']} failed[/red]" if result["failed"] else ""
    console.print(
        f"{result['added']} added, {result['skipped']} skipped{failed}: collection "
        f"[bold]{escape(result['collection'])}[/bold] has {result['videos']} videos, {result['clips']} clips"
    )
    if "gone" in result:
        _show_removed_files(result, console)
    print_files(console, [(failure["file"], failure["reason"] or "") for failure in result["failures"]], "reason")
    print_files(console, [(note["file"], note["note"]) for note in result["notes"]], "note")


def _show_removed_files(result: dict[str, Any], console: Console) -> None:
    """Print what happened to the videos of files that disappeared from a watched folder."""
    if result["gone"]:
        console.print(f"{result['gone']} files removed, {result['removed']} of their videos deleted")
    if result["held_videos"]:
        reason = f": {escape(result['held_reason'])}" if result["held_reason"] else ""
        console.print(f"[red]{result['held_videos']} not deleted[/red]{reason}")
    print_files(console, [(folder["path"], folder["reason"]) for folder in result["unavailable"]], "unavailable")


COMMANDS = {"index": (add_arguments, run, show)}
