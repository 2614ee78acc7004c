"""States of jobs: pause, resume, cancel, retry, stop while listing, and files at which the process dies."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import pipeline, source_items
from index.jobs import runner as job_runner
from index.jobs.jobs import (
    cancel,
    create_job,
    current_job_event,
    get_job,
    list_items,
    list_jobs,
    pause,
    resume,
    retry,
)
from index.jobs.lease import new_owner
from index.jobs.records import JobCounts, JobItem
from index.jobs.runner import run_job
from index.jobs.sources.list_limits import ListLimits
from index.jobs.sources.source_types import ListSource, Source
from index.storage import job_transitions
from tests.index.jobs.fixtures import (
    ENDINGS,
    SEQUENTIAL,
    abandon,
    create_folder_job,
    make_pictures,
    outcomes,
    paths,
    write_list,
    write_shard,
)
from tests.media_files import write_color_video
from vitascope.errors import Conflict
from vitascope.model import Model

ROOT = Path(__file__).parents[3]
PATIENCE = 300.0
Change = Callable[[Collection, int], object]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "pictures", 5)


def test_a_queued_job_is_paused_resumed_and_cancelled_at_once(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)
    for change, state in ((pause, "paused"), (resume, "queued"), (cancel, "cancelled")):
        for _ in range(2):  # the second time without effect
            assert change(collection, job.id).state == state
        if state != "queued":
            assert run_job(collection, small_model, job.id).state == state
    assert collection.stats().videos == 0
    retry(collection, job.id)
    assert run_job(collection, small_model, job.id).counts.succeeded == 5


def test_a_job_whose_owner_died_is_queued(collection: Collection, pictures: Path) -> None:
    dead, alive, waiting = (create_folder_job(collection, pictures) for _ in range(3))
    abandon(collection, dead)
    with collection.catalogue.write() as connection:
        job_transitions.claim(connection, alive.id, new_owner())
    queued = list_jobs(collection, state="queued")
    assert [job.id for job in queued] == [waiting.id, dead.id]
    assert [job.id for job in list_jobs(collection, state="running")] == [alive.id]
    assert [job.state for job in list_jobs(collection)] == ["queued", "running", "queued"]
    assert queued[1] == get_job(collection, dead.id) == current_job_event(collection, dead.id).job
    assert get_job(collection, dead.id).state == resume(collection, dead.id).state == "queued"


@pytest.mark.parametrize(("change", "state"), [(pause, "paused"), (cancel, "cancelled")])
def test_a_job_whose_owner_died_is_paused_or_cancelled_at_once(
    collection: Collection, pictures: Path, change: Change, state: str
) -> None:
    job = create_folder_job(collection, pictures)
    abandon(collection, job)
    assert get_job(collection, job.id).state == "queued"
    change(collection, job.id)
    assert get_job(collection, job.id).state == state


@pytest.mark.parametrize(
    ("change", "request_name", "state", "left"),
    [(pause, "pause", "paused", "queued"), (cancel, "cancel", "cancelled", "cancelled")],
)
def test_a_running_job_is_paused_or_cancelled_after_the_files_in_progress(
    collection: Collection,
    pictures: Path,
    small_model: Model,
    change: Callable[[Collection, int], Any],
    request_name: str,
    state: str,
    left: str,
) -> None:
    job = create_folder_job(collection, pictures)

    def change_at_two(item: JobItem, done: int, total: int) -> None:
        if done == 2:
            changed = change(collection, job.id)
            assert (changed.state, changed.requested) == ("running", request_name)

    job = run_job(collection, small_model, job.id, on_item=change_at_two, config=SEQUENTIAL)
    assert (job.state, job.requested, job.counts.succeeded) == (state, None, 3)
    reason = "not tried: the job was cancelled" if left == "cancelled" else None
    assert outcomes(collection, job.id)["004.png"] == (left, reason)
    assert collection.stats().videos == 3
    (resume if left == "queued" else retry)(collection, job.id)
    job = run_job(collection, small_model, job.id)
    assert (job.state, job.counts.succeeded) == ("succeeded", 5)


def test_a_job_that_is_paused_during_its_last_files_has_succeeded(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)
    job = run_job(collection, small_model, job.id, on_item=lambda item, done, total: pause(collection, job.id))
    assert (job.state, job.requested, job.counts.succeeded) == ("succeeded", None, 5)


def test_a_pause_withdrawn_when_no_file_is_in_progress_changes_nothing(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, pictures)
    progress: list[int] = []

    def pause_at_two(item: JobItem, done: int, total: int) -> None:
        progress.append(done)
        if done == 2:
            pause(collection, job.id)

    finish = job_runner._Run.finish

    def resume_and_finish(*arguments: Any) -> bool:
        if get_job(collection, job.id).requested == "pause":
            assert resume(collection, job.id).requested is None
        return finish(*arguments)

    monkeypatch.setattr(job_runner._Run, "finish", resume_and_finish)
    job = run_job(
        collection,
        small_model,
        job.id,
        on_item=pause_at_two,
        config=SEQUENTIAL,
        should_abort=lambda: len(progress) > 5,
    )
    assert (job.state, job.counts.succeeded) == ("succeeded", 5)
    assert progress == [1, 2, 3, 4, 5]


def test_retry_requeues_only_failed_files(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    folder = make_pictures(tmp_path / "mixed", 2)
    (folder / "late.mp4").write_bytes(b"not yet a film")
    (folder / "notes.txt").write_text("words")
    job = create_folder_job(collection, folder)
    with pytest.raises(Conflict, match="queued; a finished job was expected"):
        retry(collection, job.id)
    job = run_job(collection, small_model, job.id)
    assert (job.counts.succeeded, job.counts.failed, job.counts.skipped) == (2, 1, 1)
    write_color_video(folder / "late.mp4", (0, 0, 255))
    job = retry(collection, job.id)
    assert (job.state, job.finished_at, job.counts.queued) == ("queued", None, 1)
    job = run_job(collection, small_model, job.id)
    assert (job.state, job.counts.succeeded, job.counts.failed, job.counts.skipped) == ("succeeded", 3, 0, 1)
    with pytest.raises(Conflict, match="no failed file"):
        retry(collection, job.id)
    for change in (pause, resume, cancel):
        with pytest.raises(Conflict, match="succeeded already"):
            change(collection, job.id)


# Listing


@pytest.mark.parametrize(
    ("ending", "change", "state"),
    [
        *((ending, cancel, "cancelled") for ending in (*ENDINGS, "tar.gz")),
        ("csv", pause, "paused"),
        ("csv", None, "queued"),
    ],
)
def test_listing_stops_between_two_rows(
    tmp_path: Path,
    collection: Collection,
    small_model: Model,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    change: Change | None,
    state: str,
) -> None:
    """No further row is read; when the job runs again, it lists the whole source."""
    if ending == "tar.gz":
        source: Source = write_shard(tmp_path / "s.tar.gz", dict.fromkeys(paths(50), b""))
    else:
        source = ListSource(str(write_list(tmp_path, ending, {"path": paths(50)})))
    job = create_job(collection, source)
    rows, last_row = 0, 10 if ending == "tar.gz" else 60  # a list is read twice: first to check it
    list_source = source_items.list_source

    def list_and_change(source: Source, policy: Any, limits: ListLimits, on_row: Callable[[], None]) -> Any:
        def count_row() -> None:
            nonlocal rows
            rows += 1
            if rows == last_row and change is not None:
                change(collection, job.id)
            on_row()

        return list_source(source, policy, limits, count_row)

    monkeypatch.setattr(source_items, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(source_items, "BATCH_ITEMS", 4)
    monkeypatch.setattr(source_items, "list_source", list_and_change)
    job = run_job(collection, small_model, job.id, should_stop=lambda: change is None and rows >= last_row)
    assert (job.state, rows) == (state, last_row)
    monkeypatch.undo()
    if change is not None:
        (resume if change is pause else retry)(collection, job.id)
    counts = run_job(collection, small_model, job.id).counts
    assert (counts.total, counts.done) == (50, 50)


def test_a_withdrawn_request_does_not_stop_listing(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(collection, ListSource(str(write_list(tmp_path, "csv", {"path": paths(5)}))))
    stop, list_source = source_items._stop, source_items.list_source
    calls: list[int] = []

    def resume_and_stop(*arguments: Any) -> bool:
        resume(collection, job.id)
        return stop(*arguments)

    def pause_and_list(*arguments: Any) -> Any:
        if not calls:
            pause(collection, job.id)
        calls.append(job.id)
        return list_source(*arguments)

    monkeypatch.setattr(source_items, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(source_items, "_stop", resume_and_stop)
    monkeypatch.setattr(source_items, "list_source", pause_and_list)
    job = run_job(collection, small_model, job.id)
    assert (job.state, job.counts.total) == ("succeeded", 5)


# Crashes


def test_a_file_that_kills_the_process_is_quarantined_alone(
    tmp_path: Path, collection: Collection, small_bundle: Path, small_model: Model, pictures: Path
) -> None:
    job = create_folder_job(collection, pictures)
    command = [sys.executable, "-m", "tests.index.jobs.job_process", str(tmp_path / "library"), str(small_bundle)]
    command += [str(job.id), "--poison", "002.png"]
    for _ in range(2):
        assert subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False).returncode == -9
    # After the first death each file that was in progress then is tried alone: the second death was at one file only.
    items = {Path(item.path).name: item for item in list_items(collection, job.id)}
    assert items["002.png"].crashes == 1  # the second is counted by the run that takes over
    assert {items[name].state for name in ("000.png", "001.png")} == {"succeeded"}

    job = run_job(collection, small_model, job.id, max_crashes=2)
    assert (job.state, job.counts.succeeded, job.counts.quarantined) == ("succeeded", 4, 1)
    reason = "the process that was indexing it died 2 times; a retry of the job tries it again"
    assert outcomes(collection, job.id)["002.png"] == ("quarantined", reason)
    assert collection.stats().videos == 4
    retry(collection, job.id)
    assert run_job(collection, small_model, job.id).counts.succeeded == 5


@pytest.mark.parametrize("is_retried", [True, False])
def test_a_quarantined_file_is_not_tried_by_later_jobs_until_it_changes_or_is_retried(
    collection: Collection, small_model: Model, pictures: Path, is_retried: bool
) -> None:
    def counts_of_new_job() -> JobCounts:
        return run_job(collection, small_model, create_folder_job(collection, pictures).id).counts

    poison = pictures / "002.png"
    first = create_folder_job(collection, pictures)
    run_job(collection, small_model, first.id)
    (item,) = (item for item in list_items(collection, first.id) if item.path == str(poison))
    assert item.video_id is not None
    collection.delete_video(item.video_id)
    with collection.catalogue.write() as connection:
        job_transitions.record_outcome(connection, replace(item, state="quarantined", video_id=None, reason="it died"))
    counts = counts_of_new_job()
    assert (counts.skipped, counts.quarantined) == (4, 1)
    if is_retried:
        retry(collection, first.id)
        assert run_job(collection, small_model, first.id).counts.succeeded == 5
    else:
        poison.write_bytes(poison.read_bytes())
        assert counts_of_new_job().succeeded == 1
    assert counts_of_new_job().skipped == 5


def test_an_orderly_stop_counts_no_crash(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, pictures)
    polled, decode = threading.Event(), pipeline.decode_clips

    def abort_now() -> bool:
        polled.set()
        return True

    def decode_later(*arguments: Any, **options: Any) -> Any:
        assert polled.wait(PATIENCE)  # the files in progress are aborted, not finished
        return decode(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "decode_clips", decode_later)
        for _ in range(job_transitions.MAX_CRASHES + 1):
            polled.clear()
            job = run_job(collection, small_model, job.id, should_abort=abort_now, config=SEQUENTIAL)
            assert (job.state, job.counts.running) == ("queued", 0)
            assert all(item.crashes == 0 for item in list_items(collection, job.id))
    counts = run_job(collection, small_model, job.id).counts
    assert (counts.succeeded, counts.quarantined, counts.skipped) == (5, 0, 0)
