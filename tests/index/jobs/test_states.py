"""States of jobs: pause, resume, cancel, retry, and files at which the process dies."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import enqueue_items, pipeline
from index.jobs import runner as job_runner
from index.jobs.jobs import cancel, get_job, list_items, list_jobs, pause, resume, retry
from index.jobs.records import JobItem
from index.jobs.runner import run_job
from index.storage import job_transitions
from tests.index.jobs.folder_jobs import ONE, abandon, create_folder_job, make_pictures, outcomes
from tests.media_files import solid, write_color_video, write_picture
from vitascope.errors import Conflict, InvalidInput, JobNotFound
from vitascope.model import Model

ROOT = Path(__file__).parents[3]
PATIENCE = 300.0


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "pictures", 5)


def test_a_queued_job_is_paused_and_resumed(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)
    assert pause(collection, job.id).state == "paused"
    assert pause(collection, job.id).state == "paused"
    assert run_job(collection, small_model, job.id).state == "paused"
    assert collection.stats().videos == 0
    assert resume(collection, job.id).state == "queued"
    assert run_job(collection, small_model, job.id).counts.succeeded == 5


def test_a_running_job_is_paused_after_the_files_in_progress(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)

    def pause_job(item: JobItem, done: int, total: int) -> None:
        if done == 2:
            answer = pause(collection, job.id)
            assert (answer.state, answer.requested) == ("running", "pause")

    paused_job = run_job(collection, small_model, job.id, on_item=pause_job, config=ONE)
    assert (paused_job.state, paused_job.requested) == ("paused", None)
    assert (paused_job.counts.succeeded, paused_job.counts.queued) == (3, 2)
    resume(collection, job.id)
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded) == ("succeeded", 5)


def test_a_withdrawn_pause_changes_nothing(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)

    def pause_and_resume(item: JobItem, done: int, total: int) -> None:
        pause(collection, job.id)
        assert resume(collection, job.id).requested is None

    assert run_job(collection, small_model, job.id, on_item=pause_and_resume).counts.succeeded == 5


def test_a_pause_withdrawn_when_no_file_is_in_progress_changes_nothing(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, pictures)
    progress: list[int] = []

    def pause_job(item: JobItem, done: int, total: int) -> None:
        progress.append(done)
        if done == 2:
            pause(collection, job.id)

    finish = job_runner._Run.finish

    def resume_and_finish(*arguments: Any) -> bool:
        if get_job(collection, job.id).requested == "pause":
            resume(collection, job.id)
        return finish(*arguments)

    monkeypatch.setattr(job_runner._Run, "finish", resume_and_finish)
    done = run_job(
        collection, small_model, job.id, on_item=pause_job, config=ONE, should_abort=lambda: len(progress) > 5
    )
    assert (done.state, done.counts.succeeded) == ("succeeded", 5)
    assert progress == [1, 2, 3, 4, 5]


def test_a_paused_job_can_be_cancelled_and_an_abandoned_one_paused(collection: Collection, pictures: Path) -> None:
    job = create_folder_job(collection, pictures)
    abandon(collection, job)
    assert pause(collection, job.id).state == "paused"
    assert cancel(collection, job.id).state == "cancelled"


def test_retry_requeues_only_failed_files(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    folder = make_pictures(tmp_path / "mixed", 2)
    (folder / "late.mp4").write_bytes(b"not yet a film")
    (folder / "notes.txt").write_text("words")
    job = create_folder_job(collection, folder)
    first = run_job(collection, small_model, job.id)
    assert (first.counts.succeeded, first.counts.failed, first.counts.skipped) == (2, 1, 1)
    write_color_video(folder / "late.mp4", (0, 0, 255))
    again = retry(collection, job.id)
    assert (again.state, again.finished_at, again.counts.queued) == ("queued", None, 1)
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded, done.counts.failed, done.counts.skipped) == ("succeeded", 3, 0, 1)
    with pytest.raises(Conflict, match="no failed file"):
        retry(collection, job.id)


def test_a_cancelled_job_and_one_whose_folder_was_missing_can_be_retried(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)
    away = pictures.rename(pictures.with_name("away"))
    assert run_job(collection, small_model, job.id).state == "failed"
    away.rename(pictures)
    assert retry(collection, job.id).error is None

    def stop(item: JobItem, done: int, total: int) -> None:
        cancel(collection, job.id)

    assert run_job(collection, small_model, job.id, on_item=stop, config=ONE).state == "cancelled"
    retry(collection, job.id)
    assert run_job(collection, small_model, job.id).counts.succeeded == 5


def test_a_change_that_the_state_does_not_allow_is_refused(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)
    with pytest.raises(Conflict, match="queued; a finished job was expected"):
        retry(collection, job.id)
    run_job(collection, small_model, job.id)
    for change in (pause, resume):
        with pytest.raises(Conflict, match="succeeded already"):
            change(collection, job.id)
        with pytest.raises(JobNotFound):
            change(collection, 99)
    with pytest.raises(JobNotFound):
        retry(collection, 99)


def test_jobs_are_listed_by_state(collection: Collection, pictures: Path, small_model: Model) -> None:
    jobs = [create_folder_job(collection, pictures) for _ in range(3)]
    pause(collection, jobs[1].id)
    run_job(collection, small_model, jobs[2].id)
    assert [j.id for j in list_jobs(collection, state="paused")] == [jobs[1].id]
    assert [j.id for j in list_jobs(collection, state="succeeded")] == [jobs[2].id]
    with pytest.raises(InvalidInput, match="state: 'tired'"):
        list_jobs(collection, state="tired")  # type: ignore[arg-type]


def test_the_rate_counts_files_and_seconds_of_video(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for number, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        write_color_video(folder / f"{number}.mp4", color, seconds=2.0)
    job = create_folder_job(collection, folder)
    assert job.rate is None
    rates = []

    def record_rate(item: JobItem, done: int, total: int) -> None:
        rates.append(get_job(collection, job.id).rate)

    done = run_job(collection, small_model, job.id, on_item=record_rate, config=ONE)
    assert rates[0] is not None
    assert rates[0].seconds_left == pytest.approx(2 / rates[0].items, rel=0.01)
    assert done.rate is not None
    assert done.rate.seconds_left is None
    assert done.rate.video_seconds == pytest.approx(2 * done.rate.items, rel=0.05)
    assert get_job(collection, job.id).rate == done.rate  # fixed once the job is finished


def test_a_file_that_kills_the_process_is_quarantined_alone(
    tmp_path: Path, collection: Collection, small_bundle: Path, small_model: Model, pictures: Path
) -> None:
    job = create_folder_job(collection, pictures)
    command = [sys.executable, "-m", "tests.index.jobs.job_process", str(tmp_path / "library"), str(small_bundle)]
    command += [str(job.id), "--poison", "002.png"]
    for _ in range(2):
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
        assert ended.returncode == -9
    # After the first death each file that was in progress then is tried alone: the second death was at one file only.
    left = {Path(item.path).name: item for item in list_items(collection, job.id)}
    assert left["002.png"].crashes == 1  # the second is counted by the run that takes over
    assert {left[name].state for name in ("000.png", "001.png")} == {"succeeded"}

    done = run_job(collection, small_model, job.id, max_crashes=2)
    assert (done.state, done.counts.succeeded, done.counts.quarantined) == ("succeeded", 4, 1)
    assert outcomes(collection, job.id)["002.png"] == (
        "quarantined",
        "the process that was indexing it died 2 times",
    )
    assert collection.stats().videos == 4
    # It can be retried.
    retry(collection, job.id)
    assert run_job(collection, small_model, job.id).counts.succeeded == 5


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
            left = run_job(collection, small_model, job.id, should_abort=abort_now, config=ONE)
            assert (left.state, left.counts.running) == ("queued", 0)
            assert all(item.crashes == 0 for item in list_items(collection, job.id))
    done = run_job(collection, small_model, job.id)
    assert (done.counts.succeeded, done.counts.quarantined, done.counts.skipped) == (5, 0, 0)


def test_a_long_listing_is_paused_and_cancelled_in_the_middle_and_repeated(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, pictures)
    real = enqueue_items.list_source
    changes = iter([pause, cancel])

    def interrupted(*arguments: Any) -> Iterator[Any]:
        change = next(changes, None)
        for number, item in enumerate(real(*arguments)):
            if number == 1 and change is not None:
                change(collection, job.id)
            yield item

    monkeypatch.setattr(enqueue_items, "BATCH_ITEMS", 2)
    monkeypatch.setattr(enqueue_items, "list_source", interrupted)
    assert run_job(collection, small_model, job.id).state == "paused"
    resume(collection, job.id)
    assert run_job(collection, small_model, job.id).state == "cancelled"
    retry(collection, job.id)
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded, done.counts.total) == ("succeeded", 5, 5)


def test_two_pictures_of_one_content_are_one_video(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    for name in "abcdef":
        write_picture(folder / f"{name}.png", solid((9, 9, 9)))
    done = run_job(collection, small_model, create_folder_job(collection, folder).id)
    assert (done.counts.succeeded, done.counts.skipped) == (1, 5)
    assert outcomes(collection, done.id)["a.png"] == ("succeeded", None)


def test_a_queued_job_is_cancelled_at_once(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)
    assert cancel(collection, job.id).state == "cancelled"
    assert cancel(collection, job.id).state == "cancelled"
    assert run_job(collection, small_model, job.id).state == "cancelled"
    assert collection.stats().videos == 0


def test_a_running_job_is_cancelled_after_the_file_in_progress(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)

    def cancel_at_three(item: JobItem, done: int, total: int) -> None:
        if done == 3:
            answer = cancel(collection, job.id)
            assert (answer.state, answer.requested) == ("running", "cancel")

    done = run_job(collection, small_model, job.id, on_item=cancel_at_three, config=ONE)
    assert (done.state, done.counts.succeeded, done.counts.cancelled) == ("cancelled", 4, 1)
    assert outcomes(collection, job.id)["004.png"] == ("cancelled", "not tried: the job was cancelled")
    assert collection.stats().videos == 4


def test_a_job_whose_owner_died_is_cancelled_at_once(collection: Collection, pictures: Path) -> None:
    job = create_folder_job(collection, pictures)
    abandon(collection, job)
    assert get_job(collection, job.id).state == "running"
    assert cancel(collection, job.id).state == "cancelled"


def test_a_job_that_succeeded_cannot_be_cancelled(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)
    run_job(collection, small_model, job.id)
    with pytest.raises(Conflict, match="succeeded already"):
        cancel(collection, job.id)
