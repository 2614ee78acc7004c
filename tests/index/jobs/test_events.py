"""Events and progress of jobs: every change is numbered, and a subscriber gets exactly those after a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from index.clips.rules import Segmentation
from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import (
    cancel,
    create_job,
    current_job_event,
    events_after,
    get_job,
    mark_delivered,
    pause,
    resume,
    retry,
    undelivered_end_events,
)
from index.jobs.records import Event, StateEvent
from index.jobs.runner import run_job
from index.jobs.sources.source_types import ListSource
from index.storage import jobs as storage_events
from index.transfer.backup import backup_collection, restore_collection
from tests.index.jobs.fixtures import SteppedDecoding, create_folder_job, step_decoding
from tests.index.sample_data import allowed
from tests.media_files import solid, write_color_video, write_picture
from tests.waiting import wait_for
from vitascope.model import Model

BATCHES = 4
"""Decoded batches of the long video."""
READY = ["state queued", "state running", "state running"]  # the second once the source is listed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """0.png, 1.png, 2.png and a file that cannot be decoded."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        write_picture(folder / f"{number}.png", solid((number * 80, 10, 10)))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def texts(events: Sequence[Event]) -> list[str]:
    return [
        f"state {event.job.state}"
        if isinstance(event, StateEvent)
        else f"{Path(event.item.path).name} {event.item.state}"
        for event in events
    ]


def test_every_change_and_every_file_is_an_event_with_the_next_number(
    collection: Collection, small_model: Model, folder: Path
) -> None:
    job = create_folder_job(collection, folder, metadata={"site": "north"})
    run_job(collection, small_model, job.id)
    events = events_after(collection, job.id, 0, 100)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    changes = texts(events)
    assert (changes[:3], changes[-1]) == (READY, "state succeeded")
    assert sorted(changes[3:-1]) == ["0.png succeeded", "1.png succeeded", "2.png succeeded", "broken.mp4 failed"]
    for number in range(len(events) + 1):
        assert events_after(collection, job.id, number, 100) == events[number:]
        assert events_after(collection, job.id, number, 2) == events[number : number + 2]
    assert current_job_event(collection, job.id).number == len(events)
    jobs = [event.job for event in events if isinstance(event, StateEvent)]  # as they were then
    assert [(job.counts.total, job.counts.done) for job in jobs] == [(0, 0), (0, 0), (4, 0), (4, 4)]
    assert (jobs[0], jobs[-1]) == (job, get_job(collection, job.id))
    assert [job.started_at is None for job in jobs] == [True, False, False, False]


def test_files_that_listing_rules_out_are_events(collection: Collection, small_model: Model, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", solid((200, 10, 10)))
    (tmp_path / "films.csv").write_text("path,year\na.png,2024\n,2025\n")
    job = create_job(collection, ListSource(str(tmp_path / "films.csv")))
    run_job(collection, small_model, job.id)
    assert texts(events_after(collection, job.id, 0, 100))[2:] == [
        "films.csv, line 3 failed",
        "state running",
        "a.png succeeded",
        "state succeeded",
    ]


def test_pausing_resuming_cancelling_and_retrying_are_events(
    collection: Collection, small_model: Model, folder: Path
) -> None:
    job = create_folder_job(collection, folder)
    for change in (pause, pause, resume, resume, cancel, cancel):  # each second one changes nothing
        change(collection, job.id)
    retry(collection, job.id)
    assert texts(events_after(collection, job.id, 0, 100)) == [
        f"state {state}" for state in ("queued", "paused", "queued", "cancelled", "queued")
    ]


def test_a_retried_file_has_only_its_later_event(collection: Collection, small_model: Model, folder: Path) -> None:
    job = create_folder_job(collection, folder)
    run_job(collection, small_model, job.id)
    write_picture(folder / "new.png", solid((10, 200, 10)))
    (folder / "new.png").rename(folder / "broken.mp4")
    before = current_job_event(collection, job.id).number
    retry(collection, job.id)
    run_job(collection, small_model, job.id)
    assert texts(events_after(collection, job.id, before, 100)) == [
        "state queued",
        "state running",
        "broken.mp4 succeeded",
        "state succeeded",
    ]
    assert texts(events_after(collection, job.id, 0, 100)).count("broken.mp4 failed") == 0


def test_old_state_events_are_dropped(collection: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_events, "MAX_STATE_EVENTS", 6)
    job = create_folder_job(collection, folder)
    for _ in range(10):
        pause(collection, job.id)
        resume(collection, job.id)
    assert [event.number for event in events_after(collection, job.id, 0, 100)] == list(range(16, 22))


def test_an_end_event_is_undelivered_until_it_is_marked_or_restored_from_a_backup(
    collection: Collection, folder: Path, tmp_path: Path
) -> None:
    job = create_folder_job(collection, folder)
    assert undelivered_end_events(collection, 10) == []
    cancel(collection, job.id)
    backup_collection(collection, tmp_path / "backup")
    with CollectionStore(tmp_path / "other") as library:
        copy = restore_collection(library, tmp_path / "backup", "copy", allowed=allowed(library))
        assert undelivered_end_events(copy, 10) == []
    (end,) = undelivered_end_events(collection, 10)
    assert (end.job.state, end.job.id) == ("cancelled", job.id)
    mark_delivered(collection, [end])
    assert undelivered_end_events(collection, 10) == []


# Progress


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedDecoding]:
    decoding = step_decoding(monkeypatch)
    yield decoding
    decoding.interrupted.set()


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    """A picture, which comes first, and a video of 32 clips of a second."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_color_video(folder / "film.mp4", (255, 0, 0), seconds=32.0, rate=2)
    write_picture(folder / "a.png", solid((10, 10, 220)))
    return folder


def test_progress_within_a_long_video_is_reported(
    collection: Collection, small_model: Model, long_video: Path, decoding: SteppedDecoding
) -> None:
    job = create_folder_job(collection, long_video, segmentation=Segmentation(1.0))
    reports: list[tuple[float, int]] = []
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(
            run_job, collection, small_model, job.id, on_progress=lambda done, total: reports.append((done, total))
        )
        wait_for(lambda: get_job(collection, job.id).progress == 0.5)  # the picture
        for batch in range(1, BATCHES):
            decoding.allowed.release()
            wait_for(lambda n=batch: get_job(collection, job.id).progress == (1 + n / BATCHES) / 2)
            current = get_job(collection, job.id)
            assert (current.counts.done, current.counts.running) == (1, 1)
            assert current.rate is not None
            assert current.rate.seconds_left is not None
            assert current.rate.seconds_left * current.rate.items == pytest.approx(2 * (1 - current.progress))  # files
        decoding.allowed.release()
        job = running.result()
    assert (job.state, job.progress, job.counts.succeeded) == ("succeeded", 1.0, 2)
    assert reports[:3] == [(1.25, 2), (1.5, 2), (1.75, 2)]
    events = events_after(collection, job.id, 0, 100)
    assert [event.job.progress for event in events if isinstance(event, StateEvent)] == [0, 0, 0, 1]
    assert events[-1].number - len(events) == len(reports)  # each report took a number


def test_progress_of_a_restarted_video_begins_at_zero(
    collection: Collection, small_model: Model, long_video: Path, decoding: SteppedDecoding
) -> None:
    (long_video / "a.png").unlink()
    job = create_folder_job(collection, long_video, segmentation=Segmentation(1.0))

    def interrupt(done: float, total: int) -> None:
        decoding.interrupted.set()
        raise KeyboardInterrupt

    decoding.allowed.release()  # one batch, which is reported; the next one waits
    with pytest.raises(KeyboardInterrupt):
        run_job(collection, small_model, job.id, on_progress=interrupt)
    job = get_job(collection, job.id)
    assert (job.state, job.progress, job.rate) == ("queued", 0, None)
    decoding.interrupted.clear()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_job, collection, small_model, job.id)
        wait_for(lambda: get_job(collection, job.id).counts.running == 1)
        assert get_job(collection, job.id).progress == 0
        decoding.allowed.release(BATCHES)
        assert running.result().counts.succeeded == 1
