"""Progress within long videos."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.jobs import events_after, get_job
from index.jobs.records import StateEvent
from index.jobs.runner import run_job
from tests.index.jobs.fixtures import SteppedDecoding, create_folder_job, step_decoding
from tests.media_files import solid, write_color_video, write_picture
from tests.waiting import wait_for
from vitascope.model import Model

BATCHES = 4


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedDecoding]:
    decoding = step_decoding(monkeypatch)
    yield decoding
    decoding.interrupted.set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture, which comes first, and a video of 32 clips of a second."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_color_video(folder / "film.mp4", (255, 0, 0), seconds=32.0, rate=2)
    write_picture(folder / "a.png", solid((10, 10, 220)))
    return folder


def test_progress_within_a_long_video_is_reported(
    collection: Collection, small_model: Model, folder: Path, decoding: SteppedDecoding
) -> None:
    job = create_folder_job(collection, folder, segmentation=Segmentation(1.0))
    parts: list[tuple[float, int]] = []
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(
            run_job, collection, small_model, job.id, on_progress=lambda done, total: parts.append((done, total))
        )
        wait_for(lambda: get_job(collection, job.id).progress == 0.5)  # the picture
        for batch in range(1, BATCHES):
            decoding.allowed.release()
            wait_for(lambda n=batch: get_job(collection, job.id).progress == (1 + n / BATCHES) / 2)
            now = get_job(collection, job.id)
            assert (now.counts.done, now.counts.running) == (1, 1)
            assert now.rate is not None
            assert now.rate.seconds_left is not None
            assert now.rate.seconds_left * now.rate.items == pytest.approx(2 * (1 - now.progress))  # files
        decoding.allowed.release()
        ended = running.result()
    assert (ended.state, ended.progress, ended.counts.succeeded) == ("succeeded", 1.0, 2)
    assert parts[:3] == [(1.25, 2), (1.5, 2), (1.75, 2)]
    events = events_after(collection, job.id, 0, 100)
    assert [event.job.progress for event in events if isinstance(event, StateEvent)] == [0, 0, 0, 1]
    assert events[-1].number - len(events) == len(parts)  # each report took a number


def test_progress_of_a_restarted_video_begins_at_zero(
    collection: Collection, small_model: Model, folder: Path, decoding: SteppedDecoding
) -> None:
    (folder / "a.png").unlink()
    job = create_folder_job(collection, folder, segmentation=Segmentation(1.0))

    def interrupt(done: float, total: int) -> None:
        decoding.interrupted.set()
        raise KeyboardInterrupt

    decoding.allowed.release(2)
    with pytest.raises(KeyboardInterrupt):
        run_job(collection, small_model, job.id, on_progress=interrupt)
    again = get_job(collection, job.id)
    assert (again.state, again.progress, again.rate) == ("queued", 0, None)
    decoding.interrupted.clear()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_job, collection, small_model, job.id)
        wait_for(lambda: get_job(collection, job.id).counts.running == 1)
        assert get_job(collection, job.id).progress == 0
        decoding.allowed.release(BATCHES)
        assert running.result().counts.succeeded == 1
