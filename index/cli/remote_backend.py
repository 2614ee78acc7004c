"""Collections of a service, for commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from index.cli.backend import JSON, OnProgress, SearchOptions
from vitascope.client import Client
from vitascope.client.api import OperationKind
from vitascope.client.response_types import Job, Operation
from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from index.jobs.recognition_settings import RecognitionChanges


class RemoteBackend(Client):
    """The client, with the methods of `Backend` that report progress."""

    def backup_collection(self, name: str, file: Path, on_progress: OnProgress) -> JSON:
        from index.transfer.backup import check_target

        check_target(file)
        return _transfer_result(self.backup(name, file, on_change=_report_operation(on_progress)))

    def export_collection(
        self, name: str, folder: Path, on_progress: OnProgress, *, tokens: bool, thumbnails: bool
    ) -> JSON:
        report = _report_operation(on_progress)
        operation = self.export(name, folder, tokens=tokens, thumbnails=thumbnails, on_change=report)
        collection = self.get_collection(name)
        return {"videos": collection["videos"], "clips": collection["clips"], **_transfer_result(operation)}

    def reembed_collection(self, name: str, on_progress: OnProgress, *, model: str | None, skip_missing: bool) -> JSON:
        options = {} if model is None else {"model": model}
        operation = self.create_operation("reembed", name, skip_missing=skip_missing, **options)
        self.wait_for_operation(operation["id"], on_change=_report_operation(on_progress))
        self.delete_operation(operation["id"])
        # Without skip_missing, a video that cannot be embedded fails the whole operation.
        return {"switched": True, "embedded": None, "failures": []}

    def transcribe_collection(
        self, name: str, on_progress: OnProgress, *, model: str | None, includes_subtitled: bool
    ) -> JSON:
        options: dict[str, bool | str] = {} if model is None else {"model": model}
        return self._recognize("transcribe", name, on_progress, subtitled=includes_subtitled, **options)

    def read_collection_text(self, name: str, on_progress: OnProgress, *, interval: float) -> JSON:
        return self._recognize("read_text", name, on_progress, interval=interval)

    def caption_collection(self, name: str, on_progress: OnProgress, *, model: str | None) -> JSON:
        options = {} if model is None else {"model": model}
        return self._recognize("caption", name, on_progress, **options)

    def _recognize(
        self, kind: OperationKind, name: str, on_progress: OnProgress, **options: bool | str | float
    ) -> JSON:
        """Run an operation that recognises; the service knows the reasons of failures."""
        operation = self.create_operation(kind, name, **options)
        done = self.wait_for_operation(operation["id"], on_change=_report_operation(on_progress))
        self.delete_operation(done["id"])
        return {**(done["videos"] or {}), "failures": []}

    def search_collection(
        self,
        collection: str,
        query: Sequence[JSON],
        files: Sequence[Path],
        **options: Unpack[SearchOptions],
    ) -> JSON:
        if len(files) > 1:
            raise InvalidInput(f"like: {len(files)} files; a service takes one per search, --local any number")
        file = files[0] if files and options["cursor"] is None else None
        return self.search(collection, query=query, file=file, **options)

    def language_warnings(self, query: Sequence[JSON]) -> list[JSON]:
        return []  # the service has returned them with the page

    def interrupted_jobs(
        self,
        collection: str,
        source: JSON,
        metadata: Mapping[str, object],
        segmentation: JSON,
        **recognition: Unpack[RecognitionChanges],
    ) -> list[str]:
        return []  # the service continues its jobs

    def run_job(self, collection: str, job_id: str, on_progress: OnProgress) -> JSON:
        return self.follow_job(collection, job_id, on_progress)

    def follow_job(self, collection: str, job_id: str, on_progress: OnProgress) -> JSON:
        def report(job: Job) -> None:
            on_progress(job["progress"] * job["total"], job["total"], job["state"])

        return self.wait_for_job(collection, job_id, on_change=report)


def _transfer_result(operation: Operation) -> JSON:
    size = sum(file["bytes"] for file in operation["files"])
    # Older services do not report media_not_included.
    return {"bytes": size, "media_not_included": operation.get("media_not_included")}


def _report_operation(on_progress: OnProgress) -> Callable[[Operation], None]:
    return lambda operation: on_progress(round(100 * operation["progress"]), 100, operation["state"])
