"""A small synchronous client of the service.

    with Client("http://127.0.0.1:8000") as client:
        client.add_video("videos", "clip.mp4", metadata={"camera": "north"})
        for result in client.search("videos", "a red square moves left")["results"]:
            print(result)

Methods return the service's JSON as it is (dicts, lists, strings, numbers; times in seconds). An error
answer raises the error that the service raised (`vitascope.errors`), so that callers of the client and of
the runtime handle the same names; what has no name there, and a service that cannot be reached, raises
`ServiceError`.

A request that was refused because too much is under way (429, 503), or whose connection could not be opened or broke
off, is sent again where that does no harm: `Retries` says how often and for how long. What is written carries an
Idempotency-Key, so it is done once.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from vitascope import errors
from vitascope.client_following import Following
from vitascope.client_http import IDEMPOTENCY_KEY, JSON, ServiceError, field, given, header_value
from vitascope.client_models import Models
from vitascope.client_retries import Retries
from vitascope.client_tasks import Tasks
from vitascope.client_webhooks import Webhooks

__all__ = ["Client", "Retries", "ServiceError"]

Metadata = Mapping[str, str | float | int | bool]
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Client(Tasks, Models, Following, Webhooks):
    """Speaks version 1 of the HTTP interface. Not for use by several threads at once."""

    # The service itself

    def is_ready(self) -> bool:
        """Whether the service is up, its model loaded and its collections open. Never raises."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait_until_ready(self, timeout: float = 60.0, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Return when the service is ready.

        Raises `ServiceError` after ``timeout`` seconds, or as soon as ``alive`` (is the server still
        there?) says no.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if not alive():
                raise ServiceError(f"the service at {self.url} ended before it was ready")
            if time.monotonic() > deadline:
                raise ServiceError(f"the service at {self.url} was not ready within {timeout:g} s")
            time.sleep(0.05)

    # Collections and videos

    def collections(self) -> JSON:
        return self._call("GET", "/v1/collections")

    def create_collection(
        self,
        name: str,
        *,
        index_kind: str | None = None,
        token_encoding: str | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
    ) -> JSON:
        """Raises `CollectionExists` where there is one of that name.

        ``index_kind``: auto, flat, hnsw or ivfpq; ``token_encoding``: int8 or float16; ``model``: which fills it, by
        name, name@version or fingerprint, if not the default. ``idempotency_key``, here and below: of your choice, for
        this call alone, else a random one. Repeated with it within 24 hours, the call is not done again, and returns
        what it returned first.
        """
        options = given(index_kind=index_kind, token_encoding=token_encoding, model=model)
        body = {"name": name, **options}
        return self._call("POST", "/v1/collections", json=body, headers=_once(idempotency_key))

    def change_collection(self, name: str, *, index_kind: str) -> JSON:
        """Ask for another kind of index; it is built beside the searches. ``index`` in the answer says what serves."""
        return self._call("PATCH", _path(name), json={"index_kind": index_kind})

    def collection(self, name: str) -> JSON:
        return self._call("GET", _path(name))

    def delete_collection(self, name: str) -> None:
        self._call("DELETE", _path(name))

    def add_video(
        self,
        collection: str,
        file: str | Path,
        *,
        title: str | None = None,
        metadata: Metadata | None = None,
        segmentation: JSON | None = None,
        idempotency_key: str | None = None,
    ) -> JSON:
        """Upload and index a file. A file whose content is there already is not indexed again.

        ``segmentation``: how it is cut into clips, such as ``{"rule": "shots", "longest": 16}``.
        """
        fields: dict[str, str] = {}
        if title is not None:
            fields["title"] = title
        if metadata is not None:
            fields["metadata"] = json.dumps(dict(metadata))
        if segmentation is not None:
            fields["segmentation"] = json.dumps(segmentation)
        return self._upload(_path(collection, "videos"), file, fields, headers=_once(idempotency_key))

    def add_url(
        self,
        collection: str,
        url: str,
        *,
        title: str | None = None,
        metadata: Metadata | None = None,
        segmentation: JSON | None = None,
        idempotency_key: str | None = None,
    ) -> JSON:
        """Begin a job in which the service fetches one file from ``url`` and indexes it; see ``wait_for_job``.

        The service must be set up to fetch from that host, as docs/operating.md says.
        """
        given_metadata = None if metadata is None else dict(metadata)
        body = {"url": url, **given(title=title, metadata=given_metadata, segmentation=segmentation)}
        return self._call("POST", _path(collection, "videos"), json=body, headers=_once(idempotency_key))

    def videos(
        self,
        collection: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> JSON:
        """One page of videos; its ``next_cursor`` is the ``cursor`` of the next page, null at the end.

        ``where`` filters by metadata and fields of videos, as for ``search``.
        """
        asked = given(limit=limit, cursor=cursor, filter=None if where is None else json.dumps(dict(where)))
        return self._call("GET", _path(collection, "videos"), params=asked)

    def all_videos(self, collection: str, *, where: Mapping[str, Any] | None = None) -> Iterator[JSON]:
        """All videos, or those that pass the filter, page by page."""
        cursor: str | None = None
        while True:
            page = self.videos(collection, limit=100, cursor=cursor, where=where)
            yield from page["videos"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def video(self, collection: str, video_id: str) -> JSON:
        return self._call("GET", _path(collection, "videos", video_id))

    def delete_video(self, collection: str, video_id: str) -> None:
        self._call("DELETE", _path(collection, "videos", video_id))

    # Jobs

    def create_job(
        self,
        collection: str,
        folder: str | None = None,
        *,
        source: Mapping[str, Any] | None = None,
        recursive: bool = True,
        metadata: Metadata | None = None,
        segmentation: JSON | None = None,
        idempotency_key: str | None = None,
    ) -> JSON:
        """Index a folder on the service's machine, or another ``source``, in the background.

        A source is ``{"kind": "folder" | "files" | "list" | "shards" | "url", ...}`` as docs/jobs.md describes it. It
        must lie below an allowed root or URL. ``segmentation`` as for ``add_video``.
        """
        if (folder is None) == (source is None):
            raise errors.InvalidInput(f"folder: {folder!r}, source: {source!r}; exactly one of them was expected")
        body: JSON = {"metadata": dict(metadata or {}), **given(segmentation=segmentation)}
        body |= {"folder": folder, "recursive": recursive} if source is None else {"source": dict(source)}
        return self._call("POST", _path(collection, "jobs"), json=body, headers=_once(idempotency_key))

    def jobs(
        self, collection: str, *, state: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> JSON:
        """One page of jobs, newest first, of one ``state`` if given."""
        params = given(state=state, limit=limit, cursor=cursor)
        return self._call("GET", _path(collection, "jobs"), params=params)

    def job(self, collection: str, job_id: str) -> JSON:
        return self._call("GET", _path(collection, "jobs", job_id))

    def job_items(self, collection: str, job_id: str, *, state: str | None = None, cursor: str | None = None) -> JSON:
        """One page of a job's files, of one ``state`` if given, with the reason for a failure."""
        params = given(state=state, cursor=cursor)
        return self._call("GET", _path(collection, "jobs", job_id, "items"), params=params)

    def pause_job(self, collection: str, job_id: str) -> JSON:
        """Let a job rest, at once or after the files at hand."""
        return self._call("POST", _path(collection, "jobs", job_id, "pause"))

    def resume_job(self, collection: str, job_id: str) -> JSON:
        """Let a paused job go on."""
        return self._call("POST", _path(collection, "jobs", job_id, "resume"))

    def retry_job(self, collection: str, job_id: str) -> JSON:
        """Try again what failed in a finished job."""
        return self._call("POST", _path(collection, "jobs", job_id, "retry"))

    def cancel_job(self, collection: str, job_id: str) -> JSON:
        return self._call("DELETE", _path(collection, "jobs", job_id))

    def job_events(self, collection: str, job_id: str, *, after: int | None = None) -> Iterator[JSON]:
        """What happens to a job, as it happens, until it has ended: ``{"id": …, "event": …, "data": …}``.

        ``event`` is ``state``, ``progress`` (``data``: the job) or ``item`` (one of its files). A connection that is
        lost is made again, and nothing is missed. ``after``: the ``id`` of the last event that is known, 0 for all from
        the first; else it begins with the job as it is. Raises `ServiceError` where the service stays away.
        """
        return self._follow(_path(collection, "jobs", job_id, "events"), after, FINAL_STATES, None)

    def wait_for_job(
        self,
        collection: str,
        job_id: str,
        *,
        interval: float = 0.5,
        on_change: Callable[[JSON], None] | None = None,
    ) -> JSON:
        """Follow the job until it has ended, through pauses, too; ``on_change`` gets it whenever something happened.

        Where it cannot be followed, it is asked for every ``interval`` seconds.
        """
        job: JSON | None = None
        events = self._follow(_path(collection, "jobs", job_id, "events"), None, FINAL_STATES, Retries(tries=1))
        while True:
            try:
                event = next(events, None)
            except ServiceError:  # an earlier version, or as many streams as it has
                break
            if event is None and job is not None:
                return job
            if event is not None and event["event"] != "item":
                job = event["data"]
                if on_change:
                    on_change(job)
        while True:
            job = self.job(collection, job_id)
            if on_change:
                on_change(job)
            if job["state"] in FINAL_STATES:
                return job
            time.sleep(interval)

    # Operations: backups, exports, embedding again

    def create_operation(self, kind: str, collection: str, **options: bool | str) -> JSON:
        """Begin work on a whole collection in the background.

        ``kind``: ``backup``; ``export``, with ``tokens`` and ``thumbnails``; ``reembed`` by the default model or
        ``model``, with ``skip_missing``.
        """
        body = {"kind": kind, "collection": collection, **options}
        return self._call("POST", "/v1/operations", json=body, headers=_once(None))

    def operations(self) -> JSON:
        return self._call("GET", "/v1/operations")

    def operation(self, operation_id: str) -> JSON:
        return self._call("GET", _operation(operation_id))

    def delete_operation(self, operation_id: str) -> None:
        """Break it off if it is under way, and remove its files."""
        self._call("DELETE", _operation(operation_id))

    def wait_for_operation(
        self, operation_id: str, *, interval: float = 0.5, on_change: Callable[[JSON], None] | None = None
    ) -> JSON:
        """Ask every ``interval`` seconds until it has ended; ``on_change`` gets every answer.

        Raises `Conflict` with the reason where it failed.
        """
        while True:
            operation = self.operation(operation_id)
            if on_change:
                on_change(operation)
            if operation["state"] == "failed":
                raise errors.Conflict(f"{operation['kind']} of {operation['collection']}: {operation['error']}")
            if operation["state"] == "succeeded":
                return operation
            time.sleep(interval)

    def back_up(self, collection: str, file: str | Path, **waiting: Any) -> JSON:
        """Write a collection as it is now to ``file`` on this machine; an earlier one there is replaced at the end.

        ``waiting`` as for `wait_for_operation`, whose errors this raises, and `InvalidInput` where ``file`` cannot be
        written.
        """
        return self._make_and_fetch(self.create_operation("backup", collection), lambda name: Path(file), waiting)

    def export(
        self, collection: str, folder: str | Path, *, tokens: bool = False, thumbnails: bool = False, **waiting: Any
    ) -> JSON:
        """Write a collection as it is now as Parquet files into the new ``folder`` on this machine; as `back_up`."""
        target = Path(folder)
        try:
            target.mkdir()
        except OSError as error:
            raise errors.InvalidInput(f"folder: {str(target)!r} cannot be made ({error.strerror})") from error
        try:
            begun = self.create_operation("export", collection, tokens=tokens, thumbnails=thumbnails)
            return self._make_and_fetch(begun, lambda name: target / Path(name).name, waiting)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    def _make_and_fetch(self, begun: JSON, target: Callable[[str], Path], waiting: Mapping[str, Any]) -> JSON:
        """Wait for an operation, fetch its files to the ``target`` of their names, and delete it at the service."""
        try:
            made = self.wait_for_operation(begun["id"], **waiting)
            for file in made["files"]:
                self._fetch(file["url"], target(file["name"]))
        except BaseException:
            with suppress(errors.VitascopeError):
                self.delete_operation(begun["id"])
            raise
        self.delete_operation(begun["id"])
        return made

    # Search

    def search(
        self,
        collection: str,
        text: str | None = None,
        *,
        query: Sequence[Mapping[str, Any]] | None = None,
        file: str | Path | None = None,
        limit: int = 10,
        where: Mapping[str, Any] | None = None,
        rerank: int = 0,
        hybrid: bool | None = None,
        min_similarity: float | None = None,
        group: str | None = None,
        clips: int | None = None,
        candidates: int | None = None,
        include_query_clips: bool | None = None,
        cursor: str | None = None,
    ) -> JSON:
        """Clips that fit a sentence, a picture or video (``file``, not kept), or a mix of several things.

        ``query``: parts such as ``{"kind": "text", "value": "a dog", "weight": 1}``, ``{"kind": "clip", "value":
        "41"}`` and ``{"kind": "file"}``, in place of ``text``. ``where`` filters by metadata, fields of videos and,
        inside of ``clip``, of the clip itself. ``hybrid``: words of titles and of what is said count, too. The best
        ``rerank`` clips are ordered by fused score. ``group``: ``clip``, ``event`` or ``video``, made of the
        ``candidates`` best clips, listing at most ``clips`` of theirs.
        ``cursor``: the answer's ``next_cursor``, with all else but ``limit`` and ``clips`` as before; ``file`` is
        left out then, with ``query`` naming it.
        """
        options = given(
            filter=where,
            hybrid=hybrid,
            min_similarity=min_similarity,
            group=group,
            clips=clips,
            candidates=candidates,
            include_query_clips=include_query_clips,
            cursor=cursor,
        )
        asked = {**given(text=text, query=query), "limit": limit, "rerank": rerank, **options}
        if file is None:
            return self._call("POST", _path(collection, "search"), json=asked, reads=True)
        fields = {name: field(value) for name, value in asked.items()}
        return self._upload(_path(collection, "search"), file, fields, reads=True)

    def search_pages(
        self, collection: str, text: str | None = None, *, file: str | Path | None = None, **options: Any
    ) -> Iterator[JSON]:
        """The answers of ``search``, page by page to the last; a file is sent once."""
        query = options.pop("query", None)
        page = self.search(collection, text, query=query, file=file, **options)
        if file is not None and query is None:
            sentence = [] if text is None else [{"kind": "text", "value": text}]
            text, query = None, [*sentence, {"kind": "file"}]
        yield page
        while page["next_cursor"] is not None:
            page = self.search(collection, text, query=query, cursor=page["next_cursor"], **options)
            yield page


def _path(collection: str, *parts: str) -> str:
    return "/".join(["/v1/collections", *(quote(part, safe="") for part in (collection, *parts))])


def _operation(operation_id: str) -> str:
    return f"/v1/operations/{quote(operation_id, safe='')}"


def _once(idempotency_key: str | None) -> dict[str, str]:
    return {IDEMPOTENCY_KEY: str(uuid.uuid4()) if idempotency_key is None else header_value(idempotency_key)}
