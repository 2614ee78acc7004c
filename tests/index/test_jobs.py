"""Folder jobs: every file ends somewhere, with the reason, however often the job is interrupted."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.clips.segment import Segmentation
from index.collection import Collection
from index.jobs import owner as job_owner
from index.jobs import runner as job_runner
from index.jobs import state as job_state
from index.jobs.jobs import Job, JobItem, JobOptions, Pace, cancel, create_folder_job, items, job, jobs, run_job
from index.jobs.sources.description import FolderSource
from index.library import Library
from index.storage.filters import parse_filter
from tests.chaos import rounds
from tests.index.numbered import new_collection
from tests.media_files import cut, solid, write_color_video, write_picture
from vitascope.errors import (
    BundleCorrupt,
    Conflict,
    FingerprintMismatch,
    InvalidInput,
    JobNotFound,
    StorageError,
)
from vitascope.model import Model

ROOT = Path(__file__).parents[2]
ONE = Pace(in_flight=1, decoders=1)
"""One file after the other."""


@pytest.fixture
def collection(tmp_path: Path, small_model: Model) -> Iterator[Collection]:
    with Library(tmp_path / "library") as library:
        yield library.create("videos", small_model)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of ten pictures, all different."""
    return make_pictures(tmp_path / "pictures", 10)


def make_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        write_picture(folder / f"{number:03}.png", solid((number % 250, number // 250, 200), 16, 16))
    return folder


def outcomes(collection: Collection, job_id: int) -> dict[str, tuple[str, str | None]]:
    return {Path(i.path).name: (i.state, i.reason) for i in items(collection, job_id)}


def test_every_file_of_a_mixed_folder_ends_with_its_reason(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    write_color_video(folder / "a.mp4", (255, 0, 0))
    write_picture(folder / "deep" / "b.png", solid((0, 255, 0)))
    shutil.copy(folder / "a.mp4", folder / "deep" / "same as a.mp4")
    cut(folder / "a.mp4", folder / "cut.mp4", 0.5)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("words " * 100)
    (folder / "notes.txt").write_text("words")
    made = create_folder_job(collection, folder, metadata={"source": "mixed"})
    assert (made.state, made.counts.total, made.source) == ("queued", 0, FolderSource(str(folder)))

    seen: list[tuple[str, int, int]] = []
    done = run_job(
        collection, small_model, made.id, on_item=lambda i, n, total: seen.append((Path(i.path).name, n, total))
    )

    assert (done.state, done.error) == ("succeeded", None)
    assert (done.counts.succeeded, done.counts.failed, done.counts.skipped, done.counts.total) == (2, 3, 2, 7)
    found = outcomes(collection, made.id)
    assert list(found) == ["a.mp4", "cut.mp4", "b.png", "same as a.mp4", "empty.mp4", "notes.txt", "text.mp4"]
    video = next(video for video in collection.videos() if video.path == str(folder / "a.mp4"))
    assert found["a.mp4"] == found["b.png"] == ("succeeded", None)
    assert found["same as a.mp4"] == (
        "skipped",
        f"the collection has this content already: video {video.id}, {folder / 'a.mp4'}",
    )
    assert found["notes.txt"] == ("skipped", "not a media file (.txt)")
    for name, reason in (("cut.mp4", "cut.mp4: "), ("empty.mp4", "0 bytes"), ("text.mp4", "the content is text")):
        state, text = found[name]
        assert state == "failed"
        assert reason in (text or "")
    assert sorted(name for name, _, _ in seen) == sorted(set(found) - {"notes.txt"})
    assert [(n, total) for _, n, total in seen] == [(n, 7) for n in range(2, 8)]
    assert len(collection.videos(where=parse_filter({"source": "mixed"}))) == 2


def test_a_second_job_skips_what_the_collection_has_and_adds_the_rest(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    run_job(collection, small_model, create_folder_job(collection, pictures).id)
    (pictures / "003.png").rename(pictures / "renamed.png")
    write_picture(pictures / "new.png", solid((1, 2, 3)))
    again = run_job(collection, small_model, create_folder_job(collection, pictures).id)
    assert (again.counts.skipped, again.counts.succeeded) == (10, 1)
    assert collection.stats().videos == 11


def test_options_reach_the_clips_and_are_remembered(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    (tmp_path / "v" / "deep").mkdir(parents=True)
    write_color_video(tmp_path / "v" / "a.mp4", (255, 0, 0), seconds=4.0)
    write_color_video(tmp_path / "v" / "deep" / "b.mp4", (0, 0, 255))
    options = JobOptions(Segmentation(length=1.0, overlap=0.5), {"year": 2020, "ok": True})
    made = create_folder_job(
        collection,
        tmp_path / "v",
        recursive=False,
        segmentation=options.segmentation,
        metadata=options.metadata,
    )
    assert job(collection, made.id).options == options
    assert job(collection, made.id).source == FolderSource(str(tmp_path / "v"), recursive=False)
    run_job(collection, small_model, made.id)
    (video,) = collection.videos()
    assert video.metadata == {"year": 2020, "ok": True}
    assert [clip.start for clip in collection.clips(video.id)][:3] == [0.0, 0.5, 1.0]


def test_jobs_are_listed_newest_first_and_items_in_pages(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    made = [create_folder_job(collection, pictures) for _ in range(3)]
    assert [j.id for j in jobs(collection)] == [j.id for j in reversed(made)]
    assert [j.id for j in jobs(collection, limit=1, before_id=made[2].id)] == [made[1].id]
    run_job(collection, small_model, made[0].id)
    first = items(collection, made[0].id, limit=4)
    rest = items(collection, made[0].id, "succeeded", after_position=first[-1].position)
    assert [Path(i.path).name for i in first + rest] == [f"{n:03}.png" for n in range(10)]
    assert items(collection, made[0].id, "failed") == []


def test_a_finished_job_is_not_run_again(collection: Collection, pictures: Path, small_model: Model) -> None:
    made = create_folder_job(collection, pictures)
    done = run_job(collection, small_model, made.id)
    write_picture(pictures / "later.png", solid((1, 2, 3)))
    assert run_job(collection, small_model, made.id) == done
    assert collection.stats().videos == 10


def test_a_job_that_is_stopped_goes_on_where_it_was(collection: Collection, pictures: Path, small_model: Model) -> None:
    made = create_folder_job(collection, pictures)
    done_before: list[int] = []
    stopped = run_job(
        collection,
        small_model,
        made.id,
        on_item=lambda item, done, total: done_before.append(done),
        should_stop=lambda: len(done_before) == 4,
        pace=ONE,
    )
    # The fifth file had been begun when the fourth was told of.
    assert (stopped.state, stopped.counts.succeeded, stopped.counts.queued) == ("queued", 5, 5)
    done_after: list[int] = []
    done = run_job(collection, small_model, made.id, on_item=lambda item, done, total: done_after.append(done))
    assert (done.state, done.counts.succeeded) == ("succeeded", 10)
    assert done_before + done_after == list(range(1, 11))


def test_an_interrupted_job_goes_back_to_the_queue(collection: Collection, pictures: Path, small_model: Model) -> None:
    made = create_folder_job(collection, pictures)

    def interrupt(item: JobItem, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(collection, small_model, made.id, on_item=interrupt)
    left = job(collection, made.id)
    assert (left.state, left.counts.running) == ("queued", 0)
    assert left.counts.succeeded == collection.stats().videos
    done = run_job(collection, small_model, made.id)
    # Some files had been added when the interrupt came; they are this job's, not ones that were there before.
    assert (done.counts.succeeded, done.counts.skipped) == (10, 0)


def test_a_job_survives_kill_9_without_loss_or_duplicate(
    tmp_path: Path, collection: Collection, small_bundle: Path, small_model: Model
) -> None:
    kills = rounds(3, 40)
    count = 40 * kills
    made = create_folder_job(collection, make_pictures(tmp_path / "many", count))
    command = [sys.executable, "-m", "tests.index.job_process", str(tmp_path / "library"), str(small_bundle)]
    acknowledged: set[str] = set()
    moment = random.Random()
    for _ in range(kills):
        with subprocess.Popen([*command, str(made.id)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(moment.randrange(1, 25))]
            process.kill()
            lines += process.stdout.readlines()
        acknowledged |= {line.split()[1] for line in lines if line.endswith("\n")}
        left = job(collection, made.id)
        assert left.state == "running"
        assert left.counts.succeeded < count
    done = run_job(collection, small_model, made.id)
    assert (done.state, done.counts.succeeded, done.counts.total) == ("succeeded", count, count)
    paths = [video.path for video in collection.videos(10_000)]
    assert len(paths) == len(set(paths)) == count
    assert acknowledged <= set(paths)
    assert collection.catalogue.problems() == []


def test_a_job_that_somebody_runs_is_left_to_them(collection: Collection, pictures: Path, small_model: Model) -> None:
    made = create_folder_job(collection, pictures)
    conflicts = []

    def run_too(item: JobItem, done: int, total: int) -> None:
        with pytest.raises(Conflict, match=f"job {made.id}: is being run"):
            run_job(collection, small_model, made.id)
        conflicts.append(done)

    done = run_job(collection, small_model, made.id, on_item=run_too)
    assert len(conflicts) == done.counts.succeeded == 10


def test_a_lease_is_renewed_while_a_file_takes_long(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_owner, "RENEW_SECONDS", 0.01)
    made = create_folder_job(collection, pictures)

    def lease() -> float:
        with collection.catalogue.read() as connection:
            row = connection.execute("SELECT lease_until FROM jobs WHERE id = ?", (made.id,)).fetchone()
            return float(row[0])

    def wait_for_renewal(item: JobItem, done: int, total: int) -> None:
        if done == 1:
            before = lease()
            deadline = threading.Event()
            for _ in range(1000):
                if lease() > before:
                    return
                deadline.wait(0.01)
            pytest.fail("the lease was not renewed")

    assert run_job(collection, small_model, made.id, on_item=wait_for_renewal).state == "succeeded"


def test_whoever_lost_the_job_writes_no_more_to_it(collection: Collection, pictures: Path, small_model: Model) -> None:
    """A process that was suspended for longer than its lease wakes up after another one took over."""
    made = create_folder_job(collection, pictures)

    def lose(item: JobItem, done: int, total: int) -> None:
        if done == 2:
            with collection.catalogue.write() as connection:
                connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (made.id,))
            assert run_job(collection, small_model, made.id).state == "succeeded"

    with pytest.raises(Conflict, match="taken over"):
        run_job(collection, small_model, made.id, on_item=lose)
    done = job(collection, made.id)
    assert (done.state, done.counts.succeeded) == ("succeeded", 10)
    assert collection.stats().videos == 10


def test_a_queued_job_is_cancelled_at_once(collection: Collection, pictures: Path, small_model: Model) -> None:
    made = create_folder_job(collection, pictures)
    assert cancel(collection, made.id).state == "cancelled"
    assert cancel(collection, made.id).state == "cancelled"
    assert run_job(collection, small_model, made.id).state == "cancelled"
    assert collection.stats().videos == 0


def test_a_running_job_is_cancelled_after_the_file_at_hand(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    made = create_folder_job(collection, pictures)

    def cancel_at_three(item: JobItem, done: int, total: int) -> None:
        if done == 3:
            answer = cancel(collection, made.id)
            assert (answer.state, answer.requested) == ("running", "cancel")

    done = run_job(collection, small_model, made.id, on_item=cancel_at_three, pace=ONE)
    assert (done.state, done.counts.succeeded, done.counts.cancelled) == ("cancelled", 4, 6)
    assert outcomes(collection, made.id)["009.png"] == ("cancelled", "not tried: the job was cancelled")
    assert collection.stats().videos == 4


def abandon(collection: Collection, made: Job) -> None:
    """As if the process that runs the job had been killed and its lease had run out."""
    with collection.catalogue.write() as connection:
        job_state.take(connection, made.id, "nobody")
        connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (made.id,))


def test_a_job_whose_owner_died_is_cancelled_at_once(collection: Collection, pictures: Path) -> None:
    made = create_folder_job(collection, pictures)
    abandon(collection, made)
    assert job(collection, made.id).state == "running"
    assert cancel(collection, made.id).state == "cancelled"


def test_a_job_that_succeeded_cannot_be_cancelled(collection: Collection, pictures: Path, small_model: Model) -> None:
    made = create_folder_job(collection, pictures)
    run_job(collection, small_model, made.id)
    with pytest.raises(Conflict, match="succeeded already"):
        cancel(collection, made.id)


def test_a_folder_that_vanished_before_the_start_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    made = create_folder_job(collection, pictures)
    shutil.rmtree(pictures)
    done = run_job(collection, small_model, made.id)
    assert done.state == "failed"
    assert done.error == f"folder {pictures}: cannot be listed: No such file or directory"


def test_a_folder_that_vanishes_meanwhile_fails_the_job_and_what_is_left(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_folder_job(collection, pictures)
    # The fourth file is begun as the third is noted: at that moment the folder goes.
    real = job_runner.open_file

    def gone(*arguments: object, **options: object) -> object:
        if str(arguments[1]).endswith("003.png"):
            shutil.rmtree(pictures)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(job_runner, "open_file", gone)
    done = run_job(collection, small_model, made.id, pace=ONE)
    assert (done.state, done.error) == ("failed", f"folder {pictures}: is no longer there")
    assert (done.counts.succeeded, done.counts.failed) == (3, 7)
    assert outcomes(collection, made.id)["003.png"] == ("failed", "003.png: no such file; a readable file was expected")
    assert outcomes(collection, made.id)["009.png"] == ("failed", f"not tried: {done.error}")


def test_a_defect_in_one_file_does_not_end_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = job_runner.open_file

    def defect(*arguments: object, **options: object) -> object:
        if str(arguments[1]).endswith("004.png"):
            raise ZeroDivisionError("of no use")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(job_runner, "open_file", defect)
    made = create_folder_job(collection, pictures)
    done = run_job(collection, small_model, made.id)
    assert (done.state, done.counts.succeeded, done.counts.failed) == ("succeeded", 9, 1)
    assert outcomes(collection, made.id)["004.png"] == ("failed", "unexpected ZeroDivisionError: of no use")


def test_a_full_disk_leaves_the_job_to_be_gone_on_with(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_folder_job(collection, pictures)
    real = collection.add_if_new
    calls = []

    def full(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise StorageError("database or disk is full")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(collection, "add_if_new", full)
    with pytest.raises(StorageError, match="full"):
        run_job(collection, small_model, made.id)
    left = job(collection, made.id)
    assert (left.state, left.counts.failed, left.counts.running) == ("queued", 0, 0)
    assert 3 <= left.counts.succeeded == collection.stats().videos < 10
    assert run_job(collection, small_model, made.id).counts.succeeded == 10


def test_a_bundle_that_cannot_be_used_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise BundleCorrupt("video.onnx: SHA-256 is not what the manifest states")

    monkeypatch.setattr(small_model, "embed_video", broken)
    made = create_folder_job(collection, pictures)
    done = run_job(collection, small_model, made.id)
    assert (done.state, done.error) == ("failed", "video.onnx: SHA-256 is not what the manifest states")
    assert done.counts.failed == 10


def test_what_is_no_job_is_named(tmp_path: Path, collection: Collection, pictures: Path, small_model: Model) -> None:
    for use in (
        lambda: job(collection, 99),
        lambda: items(collection, 99),
        lambda: cancel(collection, 99),
        lambda: run_job(collection, small_model, 99),
        lambda: job(collection, 2**70),
    ):
        with pytest.raises(JobNotFound, match="no job"):
            use()
    for folder in (tmp_path / "nowhere", pictures / "001.png"):
        with pytest.raises(InvalidInput, match=f"folder: '{folder}' is not a folder"):
            create_folder_job(collection, folder)
    with pytest.raises(InvalidInput, match="metadata: key 'path'"):
        create_folder_job(collection, pictures, metadata={"path": 1})
    with pytest.raises(FingerprintMismatch), new_collection(tmp_path / "others") as others:
        run_job(others, small_model, create_folder_job(others, pictures).id)
