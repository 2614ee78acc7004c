"""How much of a long film is done is told while it is at hand, not only at its end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.events import events_after
from index.jobs.jobs import get_job
from index.jobs.records import StateEvent
from index.jobs.runner import run_job
from tests.index.jobs.folder_jobs import create_folder_job
from tests.index.jobs.stepped_decoding import Doled, dole
from tests.media_files import solid, write_color_video, write_picture
from tests.waiting import wait_for
from vitascope.model import Model

BATCHES = 4


@pytest.fixture
def doled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Doled]:
    doled = dole(monkeypatch)
    yield doled
    doled.broken_off.set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture, which comes first, and a film of 32 clips of a second."""
    made = tmp_path / "made"
    made.mkdir()
    write_color_video(made / "film.mp4", (255, 0, 0), seconds=32.0, rate=2)
    write_picture(made / "a.png", solid((10, 10, 220)))
    return made


def test_the_part_that_is_done_is_told(collection: Collection, small_model: Model, folder: Path, doled: Doled) -> None:
    made = create_folder_job(collection, folder, segmentation=Segmentation(1.0))
    parts: list[tuple[float, int]] = []
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(
            run_job, collection, small_model, made.id, on_progress=lambda done, total: parts.append((done, total))
        )
        wait_for(lambda: get_job(collection, made.id).progress == 0.5)  # the picture
        for batch in range(1, BATCHES):
            doled.allowed.release()
            wait_for(lambda n=batch: get_job(collection, made.id).progress == (1 + n / BATCHES) / 2)
            now = get_job(collection, made.id)
            assert (now.counts.done, now.counts.running) == (1, 1)
            assert now.rate is not None
            assert now.rate.seconds_left is not None
            assert now.rate.seconds_left * now.rate.items == pytest.approx(2 * (1 - now.progress))  # files
        doled.allowed.release()
        ended = running.result()
    assert (ended.state, ended.progress, ended.counts.succeeded) == ("succeeded", 1.0, 2)
    assert parts[:3] == [(1.25, 2), (1.5, 2), (1.75, 2)]
    told = events_after(collection, made.id, 0, 100)
    assert [event.job.progress for event in told if isinstance(event, StateEvent)] == [0, 0, 0, 1]
    assert told[-1].number - len(told) == len(parts)  # each took a number, so that whoever follows looks


def test_a_film_that_is_begun_again_begins_at_nothing(
    collection: Collection, small_model: Model, folder: Path, doled: Doled
) -> None:
    (folder / "a.png").unlink()
    made = create_folder_job(collection, folder, segmentation=Segmentation(1.0))

    def interrupt(done: float, total: int) -> None:
        doled.broken_off.set()
        raise KeyboardInterrupt

    doled.allowed.release(2)
    with pytest.raises(KeyboardInterrupt):
        run_job(collection, small_model, made.id, on_progress=interrupt)
    again = get_job(collection, made.id)
    assert (again.state, again.progress, again.rate) == ("queued", 0, None)
    doled.broken_off.clear()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_job, collection, small_model, made.id)
        wait_for(lambda: get_job(collection, made.id).counts.running == 1)
        assert get_job(collection, made.id).progress == 0
        doled.allowed.release(BATCHES)
        assert running.result().counts.succeeded == 1
