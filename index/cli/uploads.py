"""`vitascope index --server`: files of this machine are uploaded one after the other."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from index.cli.index import ensure_collection, no_media_error, parse_local_source, parse_metadata, parse_segmentation
from index.cli.remote_backend import RemoteBackend
from vitascope.cli.output import ProgressBar
from vitascope.client import Client, ServiceError
from vitascope.errors import InvalidInput, MediaError

if TYPE_CHECKING:
    from index.jobs.sources.source_types import Source, SourceItem

TIMEOUT = 3600.0
"""Timeout in seconds of a request. Uploads that take long are answered with a job, for which there is no timeout; only
services that do not support that answer when the video is searchable.
"""
PER_FILE_STATUSES = (413, 500, 504)
"""Errors that concern a single file: it is too large, crashes the service, or takes too long."""


@contextmanager
def per_file_errors(path: Path) -> Iterator[None]:
    """Raise MediaError, with the name of the file, for errors of a service that concern only that file."""
    try:
        yield
    except ServiceError as error:
        if error.status not in PER_FILE_STATUSES:
            raise
        raise MediaError(f"{path.name}: {error}") from error


def upload_source(server: str, args: argparse.Namespace) -> dict[str, Any]:
    """Upload the files of a source that the collection does not have; return the result of `vitascope index`."""
    from index.jobs.records import MAX_NOTES
    from index.jobs.sources.source_types import ShardsSource, source_dict

    if any(option is not None for option in (args.transcribe, args.read_text, args.caption)):
        raise InvalidInput(
            "transcribe, read-text, caption: not supported for uploads, which follow the collection: `vitascope "
            f"collection set {args.collection} --transcribe --read-text --caption --server {server}`"
        )
    metadata, segmentation = parse_metadata(args), parse_segmentation(args)
    source = parse_local_source(args)
    if isinstance(source, ShardsSource):
        raise InvalidInput(f"source: {args.source[0]!r}: shards cannot be uploaded; --remote or --local was expected")
    items = list(_list_items(source))
    if all(item.state == "skipped" for item in items):
        raise no_media_error(args.source[0], len(items))
    uploader = _Uploader(args.collection, metadata, segmentation)
    counts: Counter[str] = Counter()
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
                    try:
                        outcome, file_notes = uploader.upload(client, item, report)
                    except (MediaError, InvalidInput) as error:
                        failures.append({"file": item.uri, "reason": str(error)})
                        continue
                    counts[outcome] += 1
                    notes += [{"file": item.uri, "note": "; ".join(file_notes)}] if file_notes else []
        collection = client.get_collection(args.collection)
    return {
        "source": source_dict(source),
        "job": None,
        "resumed": [],
        "files": len(items),
        "added": counts["added"],
        "refreshed": counts["refreshed"],
        "skipped": len(items) - counts["added"] - counts["refreshed"] - len(failures),
        "duplicates": counts["duplicate"],
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


@dataclass
class _Uploader:
    """Uploads files to a collection, or refreshes the videos with the same content."""

    collection: str
    metadata: Mapping[str, Any]
    segmentation: Mapping[str, Any]
    digests: set[str] = field(default_factory=set)
    """SHA-256 of the files so far: only the first file with a content determines title, metadata and subtitles."""

    def upload(
        self, client: Client, item: SourceItem, report: Callable[[int, int], None]
    ) -> tuple[Literal["added", "refreshed", "duplicate"], Sequence[str]]:
        """Upload a file unless the collection has its content; return what was done, and notes.

        If the service lacks the file of the video, the file is sent again.

        Raises MediaError and InvalidInput for problems of this file, and other errors of the client.
        """
        from index.jobs.ingest import content_sha256
        from index.jobs.sources.access_policy import is_url
        from vitascope.media.limits import read_media_limits

        if is_url(item.uri):
            raise InvalidInput("URLs are not uploaded; --remote lets the service download them")
        path, metadata = Path(item.uri), {**self.metadata, **item.metadata}
        digest = content_sha256(path, read_media_limits(os.environ))
        known = client.list_videos(self.collection, limit=1, where={"content_sha256": digest})["videos"]
        is_first = digest not in self.digests
        self.digests.add(digest)
        is_missing = bool(known) and known[0].get("missing", False)  # an older service does not say that
        if known and not is_missing:
            if not is_first or known[0].get("path", "") is not None:  # not an upload, or unknown to an older service
                return "duplicate", ()
            changes, notes = self._refresh(client, known[0]["id"], path, item.title, metadata)
            return ("refreshed", [f"refreshed: {', '.join(changes)}", *notes]) if changes else ("duplicate", ())
        with per_file_errors(path):
            video = client.add_video(
                self.collection,
                path,
                title=item.title,
                metadata=metadata,
                segmentation=self.segmentation,
                progress=report,
            )
        if is_missing:
            changes, notes = self._refresh(client, video["id"], path, item.title, metadata)
            described = [f"refreshed: {', '.join(changes)}"] if changes else []
            return "refreshed", ["its file was missing", *described, *notes]
        changes, notes = self._refresh(client, video["id"], path, None, {})
        if changes and self.segmentation["rule"] == "subtitles":
            notes = ["subtitles beside the file were added after it had been cut", *notes]
        return "added", [*video["notes"], *notes]

    def _refresh(
        self, client: Client, video_id: str, file: Path, title: str | None, metadata: Mapping[str, Any]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Send title, metadata and subtitles of a file; return the changed fields, and notes on the subtitles."""
        from index.clips.subtitles import preferred_sidecar
        from vitascope.media.subtitles import read_text

        subtitles, sidecar, notes = None, None, []
        try:
            sidecar = preferred_sidecar(file, self.segmentation["language"])
            if sidecar is not None:
                subtitles = read_text(sidecar)[0]
        except (OSError, MediaError) as error:
            notes.append(f"subtitles beside {file.name} cannot be read: {error}")
        if title is None and not metadata and subtitles is None:
            return (), notes
        try:
            video = client.update_video(
                self.collection, video_id, title=title, metadata=metadata, subtitles=subtitles, from_source=True
            )
        except (MediaError, InvalidInput) as error:
            name = "subtitles" if sidecar is None else sidecar.name
            return (), [*notes, str(error).replace("subtitles", name, 1)]
        return video["changes"], [*notes, *video["notes"]]
