"""`vitascope index --server`: files of this machine are uploaded one after the other."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index.cli.index import ensure_collection, no_media_error, parse_local_source, parse_metadata, parse_segmentation
from index.cli.remote_backend import RemoteBackend
from vitascope.cli.output import ProgressBar
from vitascope.client import Client, ServiceError
from vitascope.errors import InvalidInput, MediaError

if TYPE_CHECKING:
    from index.jobs.sources.source_types import Source, SourceItem

TIMEOUT = 3600.0
"""Seconds for the response to an upload, which comes when the video is searchable."""
PER_FILE_STATUSES = (413, 500, 504)
"""Errors that concern a single file: it is too large, crashes the service, or takes too long."""


def upload_source(server: str, args: argparse.Namespace) -> dict[str, Any]:
    """Upload the files of a source that the collection does not have; return the result of `vitascope index`."""
    from index.jobs.records import MAX_NOTES
    from index.jobs.sources.source_types import ShardsSource, source_dict

    metadata, segmentation = parse_metadata(args), parse_segmentation(args)
    source = parse_local_source(args)
    if isinstance(source, ShardsSource):
        raise InvalidInput(f"source: {args.source[0]!r}: shards cannot be uploaded; --remote or --local was expected")
    items = list(_list_items(source))
    if all(item.state == "skipped" for item in items):
        raise no_media_error(args.source[0], len(items))
    added = duplicates = 0
    failures: list[dict[str, Any]] = []
    notes: list[dict[str, str]] = []
    with RemoteBackend(server, timeout=TIMEOUT) as client:
        ensure_collection(client, args)
        with ProgressBar("uploading", quiet=args.json) as bar:
            for done, item in enumerate(items):
                report = partial(_report_upload, bar, done, len(items), Path(item.uri).name)
                report(0, 1)
                if item.state == "failed":
                    failures.append({"file": item.uri, "reason": item.reason})
                elif item.state == "queued":
                    fields = {"metadata": {**metadata, **item.metadata}, "segmentation": segmentation}
                    try:
                        file_notes = _upload(client, args.collection, item, {**fields, "progress": report})
                    except (MediaError, InvalidInput) as error:
                        failures.append({"file": item.uri, "reason": str(error)})
                        continue
                    if file_notes is None:
                        duplicates += 1
                    else:
                        added += 1
                        notes += [{"file": item.uri, "note": "; ".join(file_notes)}] if file_notes else []
        collection = client.get_collection(args.collection)
    return {
        "source": source_dict(source),
        "job": None,
        "resumed": [],
        "files": len(items),
        "added": added,
        "skipped": len(items) - added - len(failures),
        "duplicates": duplicates,
        "failed": len(failures),
        "failures": failures,
        "notes": notes[:MAX_NOTES],
        "videos": collection["videos"],
        "clips": collection["clips"],
    }


def _list_items(source: Source) -> Iterator[SourceItem]:
    """Yield the items of a source. Raises InvalidInput if it cannot be read."""
    from index.jobs.source_items import list_source
    from index.jobs.sources.access_policy import UNRESTRICTED
    from index.jobs.sources.list_limits import read_list_limits

    try:
        yield from list_source(source, UNRESTRICTED, read_list_limits(os.environ))
    except OSError as error:
        raise InvalidInput(f"source: cannot be listed: {error}") from error


def _report_upload(bar: ProgressBar, done: int, total: int, name: str, sent: int, size: int) -> None:
    bar.update(done, total, f"{name} {sent / max(size, 1):.0%}")


def _upload(client: Client, collection: str, item: SourceItem, options: dict[str, Any]) -> list[str] | None:
    """Upload a file and return the notes on it; None if the collection has its content.

    Raises MediaError and InvalidInput for problems of this file, and other errors of the client.
    """
    from index.clips.subtitles import sidecar_names
    from index.jobs.ingest import content_sha256
    from index.jobs.sources.access_policy import is_url
    from vitascope.media.limits import read_media_limits

    if is_url(item.uri):
        raise InvalidInput("URLs are not uploaded; --remote lets the service download them")
    path = Path(item.uri)
    digest = content_sha256(path, read_media_limits(os.environ))
    if client.list_videos(collection, limit=1, where={"content_sha256": digest})["videos"]:
        return None
    try:
        video = client.add_video(collection, path, title=item.title, **options)
    except ServiceError as error:
        if error.status not in PER_FILE_STATUSES:
            raise
        raise MediaError(f"{path.name}: {error}") from error
    sidecars = [f"{name}: not uploaded; a service reads embedded subtitles only" for name in sidecar_names(path)]
    return [*video["notes"], *sidecars]
