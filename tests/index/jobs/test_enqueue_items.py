"""Listing of a source that is cancelled, paused or stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import enqueue_items
from index.jobs.jobs import cancel, create_job, list_items, pause, resume
from index.jobs.runner import run_job
from index.jobs.sources.list_limits import ListLimits
from index.jobs.sources.source_types import ListSource, Source
from tests.index.jobs.file_lists import ENDINGS, paths, write_list, write_shard
from vitascope.model import Model


@pytest.mark.parametrize("ending", [*ENDINGS, "tar.gz"])
@pytest.mark.parametrize(("request_end", "state"), [(cancel, "cancelled"), (pause, "paused"), (None, "queued")])
def test_listing_stops_between_two_rows(
    tmp_path: Path,
    collection: Collection,
    small_model: Model,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    request_end: Callable[[Collection, int], object] | None,
    state: str,
) -> None:
    """No further row is read, and no partial listing stays."""
    if ending == "tar.gz":
        source: Source = write_shard(tmp_path / "s.tar.gz", dict.fromkeys(paths(50), b""))
    else:
        source = ListSource(str(write_list(tmp_path, ending, {"path": paths(50)})))
    job = create_job(collection, source)
    monkeypatch.setattr(enqueue_items, "CHECK_SECONDS", 0.0)
    rows = 0
    real = enqueue_items.list_source

    def counted(source: Source, policy: Any, limits: ListLimits, on_row: Callable[[], None]) -> Any:
        def look() -> None:
            nonlocal rows
            rows += 1
            if rows == 10 and request_end is not None:
                request_end(collection, job.id)
            on_row()

        return real(source, policy, limits, look)

    monkeypatch.setattr(enqueue_items, "list_source", counted)
    ended = run_job(collection, small_model, job.id, should_stop=lambda: request_end is None and rows >= 10)
    assert (ended.state, rows) == (state, 10)
    assert list_items(collection, job.id) == []
    if state == "paused":
        monkeypatch.undo()
        resume(collection, job.id)
        assert run_job(collection, small_model, job.id).counts.total == 50


def test_a_withdrawn_request_does_not_stop_listing(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ListSource(str(write_list(tmp_path, "csv", {"path": paths(5)})))
    job = create_job(collection, source)
    stop = enqueue_items._stop

    def withdrawn(*arguments: Any) -> bool:
        resume(collection, job.id)
        return stop(*arguments)

    monkeypatch.setattr(enqueue_items, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(enqueue_items, "_stop", withdrawn)
    monkeypatch.setattr(enqueue_items, "list_source", paused_once(collection, job.id, enqueue_items.list_source))
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.total) == ("succeeded", 5)


def paused_once(collection: Collection, job_id: int, real: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def listing(source: Source, policy: Any, limits: ListLimits, on_row: Callable[[], None]) -> Any:
        if not calls:
            pause(collection, job_id)
        calls.append(job_id)
        return real(source, policy, limits, on_row)

    return listing
