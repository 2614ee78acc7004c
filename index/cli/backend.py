"""Backend protocol of commands (a data folder or a service), and functions that commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

from vitascope.cli.options import server_url
from vitascope.errors import Conflict, InvalidInput
from vitascope.job_states import FAILED_ITEM_STATES

if TYPE_CHECKING:
    from index.jobs.recognition_settings import RecognitionChanges
    from index.records import SearchSignal
    from vitascope.client.api import Group, IndexKind, Metadata, Stemming, TokenEncoding
    from vitascope.job_states import ItemState, JobState

JSON = Mapping[str, Any]
"""An object of the HTTP API; see `vitascope.client.response_types`."""
OnProgress = Callable[[float, int, str], None]
"""Called with the steps done, their total, and a note on the current one."""

VIDEO_DEFAULTS: JSON = {"path": None, "missing": False}
"""Fields of videos that older services do not return."""
MAX_LIMIT = 9_999
PAGE_SIZE = 100
"""Records per request of a list; the limit of a service is usually higher."""


class SearchOptions(TypedDict):
    """Options of ``Backend.search_collection``, which the client's ``search`` describes."""

    limit: int | None
    cursor: str | None
    where: JSON | None
    rerank: int | None
    refine: bool
    signals: Mapping[SearchSignal, float] | None
    min_similarity: float | None
    min_relevance: float | None
    group: Group
    candidates: int | None


class Backend(Protocol):
    """Collections in a data folder (`LocalBackend`) or of a service (`RemoteBackend`).

    Methods without a docstring are documented in `vitascope.client.Client`. All return JSON in the form of the HTTP
    API; a data folder adds ``vectors`` to collections. Methods that may take long report progress.
    """

    def list_collections(self) -> JSON: ...

    def get_collection(self, name: str, /) -> JSON: ...

    def create_collection(
        self,
        name: str,
        /,
        *,
        index_kind: IndexKind | None = None,
        token_encoding: TokenEncoding | None = None,
        dimensions: int | None = None,
        model: str | None = None,
        stemming: Stemming | None = None,
        **recognition: Unpack[RecognitionChanges],
    ) -> JSON: ...

    def update_collection(
        self,
        name: str,
        /,
        *,
        index_kind: IndexKind | None = None,
        stemming: Stemming | None = None,
        **recognition: Unpack[RecognitionChanges],
    ) -> JSON: ...

    def delete_collection(self, name: str, /) -> list[str] | None:
        """Return the names of Milvus collections that could not be deleted, if any."""

    def backup_collection(self, name: str, file: Path, on_progress: OnProgress) -> JSON:
        """Return ``bytes`` and ``media_not_included``."""

    def export_collection(
        self, name: str, folder: Path, on_progress: OnProgress, *, tokens: bool, thumbnails: bool
    ) -> JSON:
        """Return ``videos``, ``clips``, ``bytes`` and ``media_not_included``."""

    def reembed_collection(self, name: str, on_progress: OnProgress, *, model: str | None, skip_missing: bool) -> JSON:
        """Return ``switched``, ``embedded`` and ``failures``."""

    def transcribe_collection(
        self, name: str, on_progress: OnProgress, *, model: str | None, includes_subtitled: bool
    ) -> JSON:
        """Return ``recognized``, ``failed`` and ``failures``."""

    def read_collection_text(self, name: str, on_progress: OnProgress, *, interval: float) -> JSON:
        """Return ``recognized``, ``failed`` and ``failures``."""

    def caption_collection(self, name: str, on_progress: OnProgress, *, model: str | None) -> JSON:
        """Return ``recognized``, ``failed`` and ``failures``."""

    def list_videos(self, collection: str, /, *, limit: int | None, cursor: str | None, where: JSON | None) -> JSON: ...

    def get_video(self, collection: str, video_id: str, /) -> JSON: ...

    def update_video(
        self,
        collection: str,
        video_id: str,
        /,
        *,
        title: str | None,
        metadata: Mapping[str, Any] | None,
        subtitles: str | None,
        from_source: bool = False,
    ) -> JSON: ...

    def delete_video(self, collection: str, video_id: str, /) -> None: ...

    def search_collection(
        self,
        collection: str,
        query: Sequence[JSON],
        files: Sequence[Path],
        **options: Unpack[SearchOptions],
    ) -> JSON:
        """Return a page of results; ``files`` are those of the parts of ``query`` with the kind ``file``."""

    def language_warnings(self, query: Sequence[JSON]) -> list[JSON]:
        """Return the warnings of a query that ``search_collection`` leaves out because they may take half a second."""

    def create_job(
        self,
        collection: str,
        /,
        *,
        source: JSON,
        metadata: Metadata,
        segmentation: JSON,
        **recognition: Unpack[RecognitionChanges],
    ) -> JSON: ...

    def list_jobs(
        self, collection: str, /, *, state: JobState | None, limit: int | None, cursor: str | None
    ) -> JSON: ...

    def get_job(self, collection: str, job_id: str, /) -> JSON: ...

    def iter_job_items(self, collection: str, job_id: str, /, *, state: ItemState) -> Iterator[JSON]: ...

    def pause_job(self, collection: str, job_id: str, /) -> JSON: ...

    def resume_job(self, collection: str, job_id: str, /) -> JSON: ...

    def retry_job(self, collection: str, job_id: str, /) -> JSON: ...

    def cancel_job(self, collection: str, job_id: str, /) -> JSON: ...

    def interrupted_jobs(
        self,
        collection: str,
        source: JSON,
        metadata: Metadata,
        segmentation: JSON,
        **recognition: Unpack[RecognitionChanges],
    ) -> list[str]:
        """Return the ids of unfinished jobs with the same arguments that no service will continue."""

    def run_job(self, collection: str, job_id: str, on_progress: OnProgress) -> JSON:
        """Run a job, or wait for the service that does, until it has finished; a data folder also stops at a pause."""

    def follow_job(self, collection: str, job_id: str, on_progress: OnProgress) -> JSON:
        """Wait until a job has finished, through pauses; in a data folder it is run if no other process does."""


def open_backend(args: argparse.Namespace) -> AbstractContextManager[Backend]:
    """Return the backend that ``--server``, VITASCOPE_SERVER and ``--local`` choose."""
    if (server := server_url(args)) is not None:
        from index.cli.remote_backend import RemoteBackend

        return RemoteBackend(server)
    from index.cli.local_backend import LocalBackend

    return LocalBackend.from_args(args)


def collect_pages(
    get_page: Callable[[int, str | None], JSON], key: str, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return up to ``limit`` records of a paginated list and the cursor of the next page.

    Args:
        get_page: returns the page for a limit and a cursor.
        key: field of a page that has the records.
        limit: maximum number of records, 1 to `MAX_LIMIT`.
        cursor: cursor of the first page; None: the beginning of the list.
    """
    from vitascope.client.api import PageCursors

    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit: {limit}; 1 to {MAX_LIMIT} was expected")
    cursors = PageCursors()
    records: list[Any] = []
    while True:
        page = get_page(min(limit - len(records), PAGE_SIZE), cursor)
        records += page[key]
        cursor = cursors.next_of(page)
        if cursor is None or len(records) >= limit:
            return {key: records, "next_cursor": cursor}


def list_failures(backend: Backend, collection: str, job_id: str) -> list[dict[str, Any]]:
    """Return the files of a job that failed or were quarantined, with reasons."""
    items = (item for state in FAILED_ITEM_STATES for item in backend.iter_job_items(collection, job_id, state=state))
    return [{"file": item["path"], "reason": item["reason"]} for item in items]


def list_notes(backend: Backend, collection: str, job: JSON) -> list[dict[str, Any]]:
    """Return notes on files of a job, at most ``MAX_NOTES``: on added ones, what was refreshed, and skipped links."""
    from index.jobs.records import LINK_LEAVES_FOLDER, MAX_NOTES

    states: list[ItemState] = ["succeeded", "refreshed"]
    if job["counts"]["skipped"] > job["duplicates"]:  # there may be links; duplicates alone can be a million
        states.append("skipped")
    notes = (
        {"file": item["path"], "note": item["reason"]}
        for state in states
        for item in backend.iter_job_items(collection, job["id"], state=state)
        if item["reason"] and (state != "skipped" or item["reason"] == LINK_LEAVES_FOLDER)
    )
    return list(islice(notes, MAX_NOTES))


def require_success(job: JSON) -> JSON:
    """Return the job. Raises Conflict if it did not succeed."""
    if job["state"] != "succeeded":
        source = job["source"]
        name = next((source[key] for key in ("folder", "file", "url") if key in source), f"named {source['kind']}")
        error = f": {job['error']}" if job["error"] else ""
        raise Conflict(f"job {job['id']} of {name}: {job['state']}{error}")
    return job


def require_confirmation(args: argparse.Namespace, loss: str) -> None:
    """Raise InvalidInput unless ``--yes`` was given; ``loss`` says what would be deleted."""
    if not args.yes:
        raise InvalidInput(f"{args.action}: {loss}, which would be lost; --yes was expected")


def parse_id(name: str, text: str) -> int:
    """Parse the number of an id. Raises InvalidInput."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidInput(f"{name}: {text!r}; an id that a list shows, such as 12, was expected")
    return int(text)


def parse_filter_option(text: str | None) -> dict[str, Any] | None:
    """Parse the JSON object of ``--filter``; None without the option. Raises InvalidInput."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"filter: {text!r} is not JSON ({error}); an object was expected") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"filter: {text!r}; a JSON object was expected")
    return value
