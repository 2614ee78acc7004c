"""Jobs that are stopped, killed, taken over or out of disk space resume without loss or duplicate."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import lease
from index.jobs.jobs import get_job, list_items
from index.jobs.lease import mark_run_ended, new_owner, owner_is_gone
from index.jobs.pipeline import PipelineConfig
from index.jobs.records import JobItem
from index.jobs.runner import run_job
from index.jobs.source_items import enqueue_items
from index.jobs.sources.access_policy import UNRESTRICTED
from index.storage import job_transitions
from tests.chaos import rounds
from tests.index.jobs.fixtures import SEQUENTIAL, create_folder_job, make_pictures
from vitascope.errors import Conflict, StorageError
from vitascope.model import Model

ROOT = Path(__file__).parents[3]
PATIENCE = 300.0


def test_a_stopped_job_resumes_where_it_was(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)
    done_before: list[int] = []
    stopped = run_job(
        collection,
        small_model,
        job.id,
        on_item=lambda item, done, total: done_before.append(done),
        should_stop=lambda: len(done_before) == 4,
        config=SEQUENTIAL,
    )
    # The fifth file had been started when the fourth was reported.
    assert (stopped.state, stopped.counts.succeeded, stopped.counts.queued) == ("queued", 5, 5)
    done_after: list[int] = []
    done = run_job(collection, small_model, job.id, on_item=lambda item, done, total: done_after.append(done))
    assert (done.state, done.counts.succeeded) == ("succeeded", 10)
    assert done_before + done_after == list(range(1, 11))


def test_a_job_survives_kill_9_without_loss_or_duplicate(
    tmp_path: Path, collection: Collection, small_bundle: Path, small_model: Model
) -> None:
    kills = rounds(2, 40)
    reported = 20
    count = (reported + PipelineConfig().in_flight + 1) * kills
    job = create_folder_job(collection, make_pictures(tmp_path / "many", count))
    command = [sys.executable, "-m", "tests.index.jobs.job_process", str(tmp_path / "library"), str(small_bundle)]
    command += [str(job.id), "--stop-after", str(reported)]
    acknowledged: set[str] = set()
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(random.randrange(1, reported))]
            process.kill()
            lines += process.stdout.readlines()
        assert process.returncode == -signal.SIGKILL
        acknowledged |= {line.split()[1] for line in lines if line.endswith("\n")}
        job = get_job(collection, job.id)
        assert job.state == "queued"
        assert job.counts.succeeded < count
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded, done.counts.total) == ("succeeded", count, count)
    paths = [video.path for video in collection.videos(10_000)]
    assert len(paths) == len(set(paths)) == count
    assert acknowledged <= set(paths)
    assert collection.catalogue.integrity_errors() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_releases_its_job_without_a_crash(
    tmp_path: Path, small_bundle: Path, number: signal.Signals
) -> None:
    folder, data = make_pictures(tmp_path / "many", 2000), tmp_path / "data"
    command = [sys.executable, "-c", "from vitascope.cli.main import main; raise SystemExit(main())"]
    command += ["index", str(folder), "--data", str(data), "--bundle", str(small_bundle)]
    catalogue = data / "collections" / "videos" / "catalogue.sqlite3"
    with subprocess.Popen(command, cwd=ROOT) as process:
        deadline = time.monotonic() + PATIENCE
        while not query(catalogue, "SELECT 1 FROM job_items WHERE state = 'succeeded'"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
    assert process.returncode == 130
    assert query(catalogue, "SELECT state FROM jobs") == [("queued",)]
    assert query(catalogue, "SELECT state, max(crashes) FROM job_items GROUP BY 1") == [("queued", 0), ("succeeded", 0)]


def query(catalogue: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a catalogue that another process may be creating."""
    try:
        with closing(sqlite3.connect(f"file:{catalogue}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def test_a_file_of_two_killed_jobs_counts_once(collection: Collection, films: Path, small_model: Model) -> None:
    jobs = [create_folder_job(collection, films) for _ in range(2)]
    for job in jobs:
        with collection.catalogue.write() as connection:
            job_transitions.claim(connection, job.id, "killed")
        assert enqueue_items(collection, job, "killed", UNRESTRICTED)
        with collection.catalogue.write() as connection:
            job_transitions.claim_items(connection, job.id, 2, max_crashed=0)
            connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (job.id,))
    counts = [run_job(collection, small_model, job.id).counts for job in jobs]
    assert [(count.succeeded, count.skipped) for count in counts] == [(2, 0), (0, 2)]


def test_a_job_that_another_run_owns_is_refused(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)
    conflicts = []

    def run_too(item: JobItem, done: int, total: int) -> None:
        with pytest.raises(Conflict, match=f"job {job.id}: is being run"):
            run_job(collection, small_model, job.id)
        conflicts.append(done)

    done = run_job(collection, small_model, job.id, on_item=run_too)
    assert len(conflicts) == done.counts.succeeded == 10


def test_a_lease_is_renewed_while_a_file_takes_long(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    job = create_folder_job(collection, pictures)

    def stored_lease_end() -> float:
        with collection.catalogue.read() as connection:
            row = connection.execute("SELECT lease_until FROM jobs WHERE id = ?", (job.id,)).fetchone()
            return float(row[0])

    def wait_for_renewal(item: JobItem, done: int, total: int) -> None:
        if done == 1:
            before, end = stored_lease_end(), time.monotonic() + PATIENCE
            while stored_lease_end() <= before:
                assert time.monotonic() < end, "the lease was not renewed"
                time.sleep(0.01)

    assert run_job(collection, small_model, job.id, on_item=wait_for_renewal).state == "succeeded"


def test_a_run_that_lost_its_lease_writes_nothing_more(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process was suspended for longer than its lease, and another one took over."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", PATIENCE)  # suspended, it does not renew its lease
    job = create_folder_job(collection, pictures)

    def lose(item: JobItem, done: int, total: int) -> None:
        if done == 2:
            with collection.catalogue.write() as connection:
                connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (job.id,))
            assert run_job(collection, small_model, job.id).state == "succeeded"

    with pytest.raises(Conflict, match="taken over"):
        run_job(collection, small_model, job.id, on_item=lose)
    done = get_job(collection, job.id)
    assert (done.state, done.counts.succeeded) == ("succeeded", 10)
    assert collection.stats().videos == 10


def test_a_full_disk_does_not_count_as_a_crash_of_the_files(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the release of the lease cannot be written; the job can be run again at once."""
    job = create_folder_job(collection, pictures)
    begin = collection.catalogue.write
    is_full = False

    @contextmanager
    def write() -> Iterator[sqlite3.Connection]:
        if is_full:
            raise StorageError("database or disk is full")
        with begin() as connection:
            yield connection

    def fill(*_: object) -> None:
        nonlocal is_full
        is_full = True
        raise StorageError("database or disk is full")

    monkeypatch.setattr(collection.catalogue, "write", write)
    for _ in range(job_transitions.MAX_CRASHES + 1):
        with monkeypatch.context() as patch:
            patch.setattr(collection, "add_if_new", fill)
            with pytest.raises(StorageError, match="full"):
                run_job(collection, small_model, job.id)
        is_full = False
        assert get_job(collection, job.id).state == "queued"
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded, done.counts.quarantined) == ("succeeded", 10, 0)
    assert {item.crashes for item in list_items(collection, job.id)} == {0}


def lease_end(seconds: float = 60.0) -> float:
    return time.time() + seconds


def test_an_owner_is_gone_once_its_lease_has_expired_or_its_run_has_ended() -> None:
    owner, other = new_owner(), new_owner()  # two runs of one process
    assert not owner_is_gone(owner, lease_end())
    assert owner_is_gone(owner, lease_end(-1.0))
    assert owner_is_gone(None, None)
    mark_run_ended(owner)
    assert owner_is_gone(owner, lease_end())
    assert not owner_is_gone(other, lease_end())


def test_an_owner_is_gone_with_its_process_but_not_on_another_machine() -> None:
    command = [sys.executable, "-c", "from index.jobs.lease import new_owner; print(new_owner()); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        owner = process.stdout.readline()
        assert not owner_is_gone(owner, lease_end())
        process.kill()
    assert owner_is_gone(owner, lease_end())
    fields = json.loads(new_owner())
    assert owner_is_gone(json.dumps({**fields, "started": "1"}), lease_end())  # a later process of the same number
    assert not owner_is_gone(json.dumps({**fields, "host": "elsewhere", "pid": 1}), lease_end())
