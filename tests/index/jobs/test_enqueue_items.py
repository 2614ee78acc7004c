"""A listing that is cancelled, paused or stopped ends between two rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import enqueue_items as job_listing
from index.jobs.jobs import cancel, create_job, list_items, pause, resume
from index.jobs.runner import run_job
from index.jobs.sources.list_limits import ListLimits
from index.jobs.sources.source_types import ListSource, Source
from tests.index.jobs.file_lists import ENDINGS, paths, write_list, write_shard
from vitascope.model import Model


@pytest.mark.parametrize("ending", [*ENDINGS, "tar.gz"])
@pytest.mark.parametrize(("request_end", "state"), [(cancel, "cancelled"), (pause, "paused"), (None, "queued")])
def test_a_listing_ends_between_two_rows(
    tmp_path: Path,
    collection: Collection,
    small_model: Model,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    request_end: Callable[[Collection, int], object] | None,
    state: str,
) -> None:
    """Cancelled, paused, or because the process ends: no further row is read, and none is stored by half."""
    if ending == "tar.gz":
        source: Source = write_shard(tmp_path / "s.tar.gz", dict.fromkeys(paths(50), b""))
    else:
        source = ListSource(str(write_list(tmp_path, ending, {"path": paths(50)})))
    made = create_job(collection, source)
    monkeypatch.setattr(job_listing, "CHECK_SECONDS", 0.0)
    rows = 0
    real = job_listing.list_source

    def counted(source: Source, policy: Any, limits: ListLimits, on_row: Callable[[], None]) -> Any:
        def look() -> None:
            nonlocal rows
            rows += 1
            if rows == 10 and request_end is not None:
                request_end(collection, made.id)
            on_row()

        return real(source, policy, limits, look)

    monkeypatch.setattr(job_listing, "list_source", counted)
    ended = run_job(collection, small_model, made.id, should_stop=lambda: request_end is None and rows >= 10)
    assert (ended.state, rows) == (state, 10)
    assert list_items(collection, made.id) == []
    if state == "paused":
        monkeypatch.undo()
        resume(collection, made.id)
        assert run_job(collection, small_model, made.id).counts.total == 50


def test_a_request_that_is_taken_back_in_time_changes_nothing(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ListSource(str(write_list(tmp_path, "csv", {"path": paths(5)})))
    made = create_job(collection, source)
    end = job_listing._stop

    def taken_back(*arguments: Any) -> bool:
        resume(collection, made.id)
        return end(*arguments)

    monkeypatch.setattr(job_listing, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(job_listing, "_stop", taken_back)
    monkeypatch.setattr(job_listing, "list_source", paused_once(collection, made.id, job_listing.list_source))
    done = run_job(collection, small_model, made.id)
    assert (done.state, done.counts.total) == ("succeeded", 5)


def paused_once(collection: Collection, job_id: int, real: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def listing(source: Source, policy: Any, limits: ListLimits, on_row: Callable[[], None]) -> Any:
        if not calls:
            pause(collection, job_id)
        calls.append(job_id)
        return real(source, policy, limits, on_row)

    return listing
