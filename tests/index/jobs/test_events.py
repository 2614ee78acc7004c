"""Events of jobs: every change is numbered, and a subscriber gets exactly those after a number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

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
from tests.index.jobs.fixtures import create_folder_job
from tests.index.sample_data import allowed
from tests.media_files import solid, write_picture
from vitascope.errors import JobNotFound
from vitascope.model import Model

READY = ["state queued", "state running", "state running"]  # the second once the source is listed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """0.png, 1.png and 2.png, and a file that is none."""
    job = tmp_path / "pictures"
    job.mkdir()
    for number in range(3):
        write_picture(job / f"{number}.png", solid((number * 80, 10, 10)))
    (job / "broken.mp4").write_bytes(b"no video")
    return job


def told(events: Sequence[Event]) -> list[str]:
    return [
        f"state {event.job.state}"
        if isinstance(event, StateEvent)
        else f"{Path(event.item.path).name} {event.item.state}"
        for event in events
    ]


def test_every_change_and_every_file_is_an_event_with_the_next_number(
    collection: Collection, small_model: Model, folder: Path
) -> None:
    job = create_folder_job(collection, folder)
    run_job(collection, small_model, job.id)
    events = events_after(collection, job.id, 0, 100)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    texts = told(events)
    assert (texts[:3], texts[-1]) == (READY, "state succeeded")
    assert sorted(texts[3:-1]) == ["0.png succeeded", "1.png succeeded", "2.png succeeded", "broken.mp4 failed"]
    for number in range(len(events) + 1):
        assert events_after(collection, job.id, number, 100) == events[number:]
        assert events_after(collection, job.id, number, 2) == events[number : number + 2]
    assert current_job_event(collection, job.id).number == len(events)


def test_a_state_event_has_the_job_as_it_was_then(collection: Collection, small_model: Model, folder: Path) -> None:
    job = create_folder_job(collection, folder, metadata={"site": "north"})
    run_job(collection, small_model, job.id)
    states = [event.job for event in events_after(collection, job.id, 0, 100) if isinstance(event, StateEvent)]
    assert [(then.counts.total, then.counts.done) for then in states] == [(0, 0), (0, 0), (4, 0), (4, 4)]
    assert (states[0], states[-1]) == (job, get_job(collection, job.id))
    assert [then.started_at is None for then in states] == [True, False, False, False]


def test_files_that_listing_rules_out_are_events(collection: Collection, small_model: Model, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", solid((200, 10, 10)))
    (tmp_path / "films.csv").write_text("path,year\na.png,2024\n,2025\n")
    job = create_job(collection, ListSource(str(tmp_path / "films.csv")))
    run_job(collection, small_model, job.id)
    assert told(events_after(collection, job.id, 0, 100))[2:] == [
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
    assert told(events_after(collection, job.id, 0, 100)) == [
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
    assert told(events_after(collection, job.id, before, 100)) == [
        "state queued",
        "state running",
        "broken.mp4 succeeded",
        "state succeeded",
    ]
    assert told(events_after(collection, job.id, 0, 100)).count("broken.mp4 failed") == 0


def test_old_state_events_are_dropped(collection: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_events, "MAX_STATE_EVENTS", 6)
    job = create_folder_job(collection, folder)
    for _ in range(10):
        pause(collection, job.id)
        resume(collection, job.id)
    assert [event.number for event in events_after(collection, job.id, 0, 100)] == list(range(16, 22))


def test_an_end_event_is_undelivered_until_it_is_marked(
    collection: Collection, small_model: Model, folder: Path
) -> None:
    job = create_folder_job(collection, folder)
    assert undelivered_end_events(collection, 10) == []
    cancel(collection, job.id)
    (end,) = undelivered_end_events(collection, 10)
    assert (end.job.state, end.job.id) == ("cancelled", job.id)
    mark_delivered(collection, [end])
    assert undelivered_end_events(collection, 10) == []


def test_ends_in_a_restored_collection_count_as_delivered(collection: Collection, folder: Path, tmp_path: Path) -> None:
    cancel(collection, create_folder_job(collection, folder).id)
    backup_collection(collection, tmp_path / "backup")
    with CollectionStore(tmp_path / "other") as library:
        assert (
            undelivered_end_events(
                restore_collection(library, tmp_path / "backup", "copy", allowed=allowed(library)), 10
            )
            == []
        )
    assert len(undelivered_end_events(collection, 10)) == 1


def test_there_are_no_events_of_an_unknown_job(collection: Collection) -> None:
    for number in (1, -1, 2**63):
        with pytest.raises(JobNotFound):
            current_job_event(collection, number)
