"""`vitascope index … --server URL`: files sent one after the other, or a job of what lies on the service's machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index.cli.files_told import failures, files_there, notes
from index.cli.index_asked import asked_metadata, asked_source
from index.cli.jobs_server import followed
from index.cli.running import check_succeeded
from index.cli.segment_options import asked_segmentation, segmentation_json
from vitascope.cli.output import ProgressBar
from vitascope.client import Client, ServiceError
from vitascope.errors import CollectionNotFound, InvalidInput, MediaError, VitascopeError

if TYPE_CHECKING:
    from index.jobs.sources.source_types import Source, SourceItem

OF_ONE_FILE = (413, 500, 504)
"""Statuses that say nothing of the next file: too large, a defect in reading it, longer than a request may take."""
PATIENCE = 3600.0
"""Seconds for the answer to an upload, which comes when the video can be found; the service sets its own limit."""


def index_there(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    """What was done and what the collection holds now, with the keys that indexing here has. Raises as the client
    does, and Conflict for a job that did not succeed.
    """
    from index.jobs.sources.access_policy import is_url

    if args.remote or is_url(args.source[0]):
        return _by_job(client, args)
    return _by_uploads(client, args)


def _open_or_create(client: Client, args: argparse.Namespace) -> bool:
    """Whether it was made for this."""
    try:
        client.get_collection(args.collection)
    except CollectionNotFound:
        client.create_collection(args.collection, model=args.model)
        return True
    return False


def _by_job(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    metadata, segmentation = asked_metadata(args), segmentation_json(asked_segmentation(args))
    is_new = _open_or_create(client, args)
    source = _source_there(args)
    try:
        begun = client.create_job(args.collection, source=source, metadata=metadata, segmentation=segmentation)
    except VitascopeError:
        if is_new:  # nobody asked for an empty one
            client.delete_collection(args.collection)
        raise
    job = followed(client, args.collection, begun["id"], quiet=args.json)
    check_succeeded(job)
    counts = job["counts"]
    failed = counts["failed"] + counts["quarantined"]
    files = files_there(client, args.collection, job["id"])
    now = client.get_collection(args.collection)
    return {
        "source": job["source"],
        "job": job["id"],
        "resumed": [],
        "files": job["total"],
        "added": counts["succeeded"],
        "skipped": counts["skipped"],
        "failed": failed,
        "failures": failures(files),
        "notes": notes(files),
        "videos": now["videos"],
        "clips": now["clips"],
    }


def _source_there(args: argparse.Namespace) -> dict[str, Any]:
    """The source as a service takes it. What lies there cannot be looked at here: its name says what it is."""
    from index.jobs.sources.access_policy import is_url
    from index.jobs.sources.source_types import LIST_SUFFIXES, SHARD_SUFFIXES

    first: str = args.source[0]
    if len(args.source) == 1 and is_url(first):
        return {"kind": "url", "url": first}
    if all(name.lower().endswith(SHARD_SUFFIXES) for name in args.source):
        return {"kind": "shards", "shards": args.source}
    if len(args.source) > 1:
        return {"kind": "files", "files": args.source}
    if first.lower().endswith(LIST_SUFFIXES):
        columns = {"path_column": args.path_column, "title_column": args.title_column}
        return {"kind": "list", "file": first, **columns}
    if Path(first).suffix and Path(first).is_absolute() and not args.flat:
        return {"kind": "url", "url": Path(first).as_uri()}  # a file or a folder, as the service will see
    return {"kind": "folder", "folder": first, "recursive": not args.flat}


@dataclass
class _Sent:
    """What became of the files."""

    files: int = 0
    added: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)


def _by_uploads(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    from index.jobs.records import MAX_NOTES
    from index.jobs.sources.source_types import ShardsSource, check_source, source_dict

    metadata, segmentation = asked_metadata(args), segmentation_json(asked_segmentation(args))
    source = check_source(asked_source(args))
    if isinstance(source, ShardsSource):
        raise InvalidInput(
            f"source: {args.source[0]!r} is a shard, which is not sent; --remote or --local was expected"
        )
    _open_or_create(client, args)
    found = list(_items(source))
    sent = _Sent(files=len(found))
    with ProgressBar("sending", quiet=args.json) as steps:
        for done, item in enumerate(found):
            shown = partial(_shown, steps, done, len(found), Path(item.uri).name)
            shown(0, 1)
            about = {"metadata": {**metadata, **item.metadata}, "segmentation": segmentation, "progress": shown}
            if item.state == "failed":
                sent.failures.append({"file": item.uri, "reason": item.reason})
            elif item.state == "queued":
                try:
                    _send(client, args.collection, item, about, sent)
                except (MediaError, InvalidInput) as error:
                    sent.failures.append({"file": item.uri, "reason": str(error)})
    now = client.get_collection(args.collection)
    return {
        "source": source_dict(source),
        "job": None,
        "resumed": [],
        "files": sent.files,
        "added": sent.added,
        "skipped": sent.files - sent.added - len(sent.failures),
        "failed": len(sent.failures),
        "failures": sent.failures,
        "notes": sent.notes[:MAX_NOTES],
        "videos": now["videos"],
        "clips": now["clips"],
    }


def _items(source: Source) -> Iterator[SourceItem]:
    """The source's items. Raises InvalidInput where it cannot be read."""
    from index.jobs.sources.access_policy import UNRESTRICTED
    from index.jobs.sources.iterate_source import list_source
    from index.jobs.sources.list_limits import read_list_limits

    try:
        yield from list_source(source, UNRESTRICTED, read_list_limits(os.environ))
    except OSError as error:
        raise InvalidInput(f"source: cannot be listed: {error}") from error


def _shown(steps: ProgressBar, done: int, total: int, name: str, sent: int, size: int) -> None:
    steps.update(done, total, f"{name} {sent / max(size, 1):.0%}")


def _send(client: Client, collection: str, item: SourceItem, about: dict[str, Any], sent: _Sent) -> None:
    """Upload a file unless the collection has its content. Raises MediaError and InvalidInput for what only this file
    is to blame for, and what else the client raises.
    """
    from index.clips.subtitles import named_beside
    from index.jobs.ingest import content_sha256
    from index.jobs.sources.access_policy import is_url

    if is_url(item.uri):
        raise InvalidInput("a URL, which is not sent from here; --remote has the service fetch it")
    path = Path(item.uri)
    digest = content_sha256(path)
    if client.list_videos(collection, limit=1, where={"content_sha256": digest})["videos"]:
        return
    try:
        added = client.add_video(collection, path, title=item.title, **about)
    except ServiceError as error:
        if error.status not in OF_ONE_FILE:
            raise
        raise MediaError(f"{path.name}: {error}") from error
    sent.added += 1
    left = [f"{name}: stays here; a service reads the subtitles inside of a file" for name in named_beside(path)]
    if remarks := "; ".join([*added["notes"], *left]):
        sent.notes.append({"file": item.uri, "note": remarks})
