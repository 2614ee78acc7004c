"""A file that crashes, stalls or compromises its worker affects only that worker and its own request."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.file_system import open_below
from tests.media_files import solid, write_counter_video, write_video
from tests.vitascope.sandbox.conftest import HOOKED_WORKER, any_file
from tests.vitascope.sandbox.hooked_worker import hook
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import DecodingUnavailable, MediaCorrupt, MediaTooLarge, MediaUnsupported
from vitascope.media.file import MediaFile
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.media.sampling import StreamSpec
from vitascope.sandbox import pool as pool_module
from vitascope.sandbox import supervisor
from vitascope.sandbox.operations import Probe, Request, Sample, Thumbnail
from vitascope.sandbox.pool import DecodingPool, PooledDecoder, TaskContext, UncancellableTask, time_limit

NewPool = Callable[..., DecodingPool]
BULK, INTERACTIVE = UncancellableTask(bulk=True), UncancellableTask()
ROOT = Path(__file__).parents[3]
on_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the seccomp filter is Linux's"
)
FILE = any_file()
NOTHING = hook("sleep", seconds=0)
FOREVER = hook("sleep", seconds=3600)


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(1, module=HOOKED_WORKER)
    pool.start()
    pool.wait_until_ready()
    yield pool
    pool.close()


@pytest.fixture
def pool(shared_pool: DecodingPool) -> DecodingPool:
    """One idle worker that misbehaves on request."""
    wait_for(lambda: shared_pool.alive == 1 and not shared_pool.busy_pids)
    return shared_pool


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@dataclass
class CancellableTask:
    """A context that is cancelled when ``cancelled`` is set; ``noticed`` is set once the pool knows."""

    bulk: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    noticed: threading.Event = field(default_factory=threading.Event)

    def cancellation_error(self, now: float) -> Exception | None:
        if not self.cancelled.is_set():
            return None
        self.noticed.set()
        return ConnectionError("cancelled")


@contextmanager
def running_task(pool: DecodingPool, release: Path, context: TaskContext = INTERACTIVE) -> Iterator[Future[Any]]:
    """A task that runs or waits until ``release`` exists, at the end of the block at the latest."""
    before = len(pool.busy_pids) + pool.queue_length
    with ThreadPoolExecutor(1) as thread:
        task = thread.submit(pool.run, hook("read after", release=str(release)), FILE, context)
        try:
            wait_for(lambda: pool.busy_pids and len(pool.busy_pids) + pool.queue_length == before + 1)
            yield task
        finally:
            release.touch()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("segfault", MediaCorrupt, "the decoder crashed on it (SIGSEGV)"),
        ("abort", MediaCorrupt, "the decoder crashed on it (SIGABRT)"),
        ("exit", MediaCorrupt, "the decoder crashed on it (exit status 3)"),
        ("spin", MediaTooLarge, "takes more processor time than is allowed"),
    ],
)
def test_a_file_that_ends_its_worker_fails_alone(
    pool: DecodingPool, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    restarts = pool.restarts
    with pytest.raises(error) as raised:
        pool.run(hook(name), FILE, INTERACTIVE)
    assert str(raised.value).startswith("film.mp4: ")
    assert message in str(raised.value)
    assert PooledDecoder(pool).probe(write_counter_video(tmp_path / "good.mp4", 10)).width == 160
    assert pool.restarts == restarts + 1
    assert pool.alive == 1


def test_a_file_that_needs_too_much_memory_is_too_large_and_costs_no_worker(new_pool: NewPool) -> None:
    pool = new_pool(memory_bytes=256 * 1024**2)
    with pytest.raises(MediaTooLarge, match=r"film.mp4: decoding it needs more memory than is allowed"):
        pool.run(hook("allocate"), FILE, INTERACTIVE)
    [pid] = pool.pids
    assert peak_memory(pid) < (256 + 128) * 1024**2
    assert pool.restarts == 0


def peak_memory(pid: int) -> int:
    """Bytes."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def test_a_defect_is_logged_and_fails_the_file(pool: DecodingPool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "vitascope.sandbox")  # commands that ran before in this process may silence it
    restarts = pool.restarts
    with pytest.raises(MediaCorrupt, match=r"film.mp4: cannot be decoded: KeyError: 'a defect'"):
        pool.run(hook("fail"), FILE, INTERACTIVE)
    assert "Traceback" in caplog.text
    assert pool.restarts == restarts


def test_a_file_that_takes_too_long_times_out(new_pool: NewPool) -> None:
    pool = new_pool(seconds=0.3)
    with pytest.raises(MediaTooLarge, match=r"film.mp4: decoding it timed out after 0 seconds"):
        pool.run(FOREVER, FILE, INTERACTIVE)
    wait_for(lambda: pool.alive == 1)


def test_longer_videos_may_take_longer() -> None:
    assert time_limit(Sample((), ((0.0, 8.0), (8.0, 16.0))), 60.0) == 92.0
    # The duration that a header states counts up to the limit.
    assert time_limit(Sample((), ((0.0, 1e9),)), 60.0) == 60.0 + 2 * DEFAULT_LIMITS.max_seconds


def test_every_attempt_reads_the_file_that_was_opened(pool: DecodingPool, tmp_path: Path) -> None:
    film, release = tmp_path / "film.mp4", tmp_path / "release"
    film.write_text("original")
    [first] = pool.pids
    with MediaFile.open(film) as file, ThreadPoolExecutor(1) as thread:
        film.unlink()
        film.write_text("replacement")
        task = thread.submit(pool.run, hook("read after", release=str(release)), file, INTERACTIVE)
        wait_for(lambda: pool.busy_pids == [first] and open_below(film, first))
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: pool.busy_pids and pool.busy_pids != [first])
        release.touch()
        assert task.result()[1] == "original"
    [second] = pool.pids
    wait_for(lambda: not open_below(tmp_path, second))
    assert open_below(tmp_path) == []


def test_no_descriptor_leaks_from_any_outcome(pool: DecodingPool, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_text("no film")
    with pytest.raises(MediaUnsupported):
        PooledDecoder(pool).probe(film)
    with MediaFile.open(film) as file:
        for name in ("segfault", "fail"):
            with pytest.raises(MediaCorrupt):
                pool.run(hook(name), file, INTERACTIVE)
        context = CancellableTask()
        with ThreadPoolExecutor(1) as thread:
            task = thread.submit(pool.run, FOREVER, file, context)
            wait_for(lambda: pool.busy_pids)
            context.cancelled.set()
            with pytest.raises(ConnectionError):
                task.result()
    assert open_below(tmp_path) == []
    wait_for(lambda: pool.alive == 1)
    assert open_below(tmp_path, *pool.pids) == []


def test_a_file_whose_worker_is_killed_repeatedly_is_too_large(new_pool: NewPool) -> None:
    pool = new_pool(2, seconds=3600.0)
    wait_for(lambda: pool.alive == 2)
    with ThreadPoolExecutor() as threads:
        task = threads.submit(pool.run, FOREVER, FILE, INTERACTIVE)
        killed: list[int] = []
        while len(killed) < 3:
            wait_for(lambda: set(pool.busy_pids) - set(killed))
            [busy] = set(pool.busy_pids) - set(killed)
            os.kill(busy, signal.SIGKILL)
            killed.append(busy)
        with pytest.raises(MediaTooLarge, match="killed 3 times, probably for lack of memory"):
            task.result()


def test_an_idle_worker_that_is_killed_is_replaced(pool: DecodingPool) -> None:
    [first], restarts = pool.pids, pool.restarts
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: pool.restarts == restarts + 1)
    assert pool.pids != [first]
    assert pool.alive == 1


def test_a_cancelled_task_may_finish_within_the_grace_period(
    pool: DecodingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = pool.pids
    monkeypatch.setattr(pool_module, "CANCEL_GRACE_SECONDS", 3600.0)
    context = CancellableTask()
    with running_task(pool, tmp_path / "release", context) as task:
        context.cancelled.set()
        assert context.noticed.wait(PATIENCE)
    assert task.result()[0] == first
    assert pool.pids == [first]


def test_a_cancelled_task_is_ended_after_the_grace_period(
    pool: DecodingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = pool.pids
    monkeypatch.setattr(pool_module, "CANCEL_GRACE_SECONDS", 0.1)
    context = CancellableTask()
    with running_task(pool, tmp_path / "never", context) as task:
        context.cancelled.set()
        with pytest.raises(ConnectionError):
            task.result(PATIENCE)
    wait_for(lambda: pool.alive == 1 and pool.pids != [first])
    assert is_gone(first)


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_queue(pool: DecodingPool, tmp_path: Path) -> None:
    restarts = pool.restarts
    with ThreadPoolExecutor() as threads, running_task(pool, tmp_path / "release") as running:
        context = CancellableTask()
        waiting = threads.submit(pool.run, NOTHING, FILE, context)
        wait_for(lambda: pool.queue_length == 1)
        context.cancelled.set()
        with pytest.raises(ConnectionError):
            waiting.result()
        assert pool.queue_length == 0
        assert not running.done()
    assert pool.restarts == restarts


def test_interactive_tasks_precede_bulk_tasks_each_in_order(
    pool: DecodingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "BULK_STARVATION_SECONDS", 3600.0)
    turns: dict[str, Future[int]] = {}
    contexts = {"b1": BULK, "b2": BULK, "i1": INTERACTIVE, "i2": INTERACTIVE, "b3": BULK}
    with ThreadPoolExecutor() as threads, running_task(pool, tmp_path / "release", BULK):
        for name, context in contexts.items():
            turns[name] = threads.submit(pool.run, hook("turn"), FILE, context)
            wait_for(lambda: pool.queue_length == len(turns))
    assert sorted(turns, key=lambda name: turns[name].result()) == ["i1", "i2", "b1", "b2", "b3"]


def test_bulk_tasks_are_not_starved(pool: DecodingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BULK_STARVATION_SECONDS", 0.1)
    done = threading.Event()

    def interactive_load() -> None:
        while not done.is_set():
            pool.run(hook("sleep", seconds=0.02), FILE, INTERACTIVE)

    with ThreadPoolExecutor() as threads:
        for _ in range(3):  # so that an interactive task always waits
            threads.submit(interactive_load)
        wait_for(lambda: pool.queue_length == 2)
        threads.submit(lambda: (pool.run(NOTHING, FILE, BULK), done.set()))
        was_served = done.wait(PATIENCE)
        done.set()
        assert was_served


def test_one_worker_is_reserved_for_interactive_tasks(new_pool: NewPool, tmp_path: Path) -> None:
    pool = new_pool(2)
    wait_for(lambda: pool.alive == 2)
    release = tmp_path / "release"
    with running_task(pool, release, BULK) as first, running_task(pool, release, BULK) as second:
        pool.run(NOTHING, FILE, INTERACTIVE)
        assert not first.done()
        assert not second.done()


def test_workers_for_bulk_tasks_run_at_a_lower_priority(new_pool: NewPool) -> None:
    pool = new_pool(3)
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    bulk = min(19, normal + supervisor.BULK_NICENESS)
    for _ in range(2):  # the second time after the reserved worker was replaced
        wait_for(lambda: pool.alive == 3)
        by_niceness = {os.getpriority(os.PRIO_PROCESS, pid): pid for pid in pool.pids}
        assert by_niceness.keys() == {normal, bulk}
        restarts = pool.restarts
        os.kill(by_niceness[normal], signal.SIGKILL)
        wait_for(lambda restarts=restarts: pool.restarts == restarts + 1)


class ForgedProbe(Probe):
    def to_header(self) -> dict[str, Any]:
        return hook("respond", value=["a", "b"], sizes=[]).to_header()


class ForgedThumbnail(Thumbnail):
    def to_header(self) -> dict[str, Any]:
        return hook("respond", value=None, sizes=[10_000_000]).to_header()


@pytest.mark.parametrize(
    "forged", [ForgedProbe(), ForgedThumbnail(0.0, 64), hook("write to socket", data="ffffffff00")]
)
def test_a_forged_response_is_rejected_and_its_worker_replaced(pool: DecodingPool, forged: Request[Any]) -> None:
    restarts = pool.restarts
    with pytest.raises(MediaCorrupt, match=r"film.mp4: the decoder gave an invalid response"):
        pool.run(forged, FILE, INTERACTIVE)
    wait_for(lambda: pool.restarts == restarts + 1)


def test_failed_starts_are_reported_and_retried() -> None:
    pool = DecodingPool(1, module="no.such.module")
    pool.start()
    try:
        with pytest.raises(DecodingUnavailable, match="no decoding process could be started"):
            pool.run(NOTHING, FILE, INTERACTIVE)
        assert pool.alive == 0
        pool._supervisor._module = HOOKED_WORKER
        wait_for(lambda: pool.alive == 1)
        pool.run(NOTHING, FILE, INTERACTIVE)
    finally:
        pool.close()


def test_a_worker_that_is_not_ready_in_time_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT", 0.0)
    pool = DecodingPool(1)
    pool.start()
    try:
        with pytest.raises(DecodingUnavailable, match="could be started: not ready in 0 s"):
            pool.wait_until_ready()
    finally:
        pool.close()


def test_closing_ends_workers_and_fails_tasks(new_pool: NewPool) -> None:
    pool = new_pool()
    pids = pool.pids
    with ThreadPoolExecutor() as threads:
        tasks = [threads.submit(pool.run, FOREVER, FILE, INTERACTIVE) for _ in range(3)]
        wait_for(lambda: pool.busy_pids and pool.queue_length == 2)
        pool.close()
        for task in tasks:
            with pytest.raises(DecodingUnavailable, match="stopping"):
                task.result()
    wait_for(lambda: all(map(is_gone, pids)))
    with pytest.raises(DecodingUnavailable):
        pool.run(NOTHING, FILE, INTERACTIVE)


def test_workers_die_with_the_service() -> None:
    code = f"""
from threading import Thread
from tests.vitascope.sandbox.conftest import any_file
from tests.vitascope.sandbox.hooked_worker import hook
from tests.waiting import wait_for
from vitascope.sandbox.pool import DecodingPool, UncancellableTask
pool = DecodingPool(1, module={HOOKED_WORKER!r})
pool.start()
pool.wait_until_ready()
Thread(target=pool.run, args=(hook("sleep", seconds=3600), any_file(), UncancellableTask())).start()
wait_for(lambda: pool.busy_pids)
print(*pool.pids, flush=True)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: is_gone(pid))


def test_a_worker_is_replaced_after_many_tasks(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TASKS_PER_WORKER", 3)
    pool = new_pool()
    pids = {pool.run(NOTHING, FILE, INTERACTIVE) for _ in range(5)}
    assert len(pids) == 2


def test_memory_does_not_grow_with_the_number_of_frames(new_pool: NewPool, tmp_path: Path) -> None:
    frames = [solid((number, 10, 10), 1280, 720) for number in range(0, 250, 5)]
    film = write_video(tmp_path / "film.mp4", frames, rate=10, options={"preset": "ultrafast"})
    pool = new_pool()
    decoder = PooledDecoder(pool)
    clips = [(number * 0.1, number * 0.1 + 0.1) for number in range(50)]
    [pid] = pool.pids
    before = peak_memory(pid)
    for _ in range(3):
        decoder.sample(film, [StreamSpec("small", 1, 16, 16, "middle")], clips, threads=1)
    assert peak_memory(pid) - before < 50 * 1280 * 720 * 1.5  # less than a third of the 150 frames


# Confinement


@on_linux
def test_a_worker_reaches_no_network_starts_nothing_and_changes_no_file(new_pool: NewPool, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("content")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        request = hook("attempts", port=server.getsockname()[1], old=str(old), new=str(tmp_path / "new"))
        outcomes = new_pool().run(request, FILE, INTERACTIVE)
        with pytest.raises(TimeoutError):
            server.accept()
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == {"read a file", "start a thread"}
    assert set(outcomes.values()) == {"done", "EPERM"}
    assert old.read_text() == "content"
    assert list(tmp_path.iterdir()) == [old]


def test_a_worker_has_no_secrets_and_loads_only_decoders(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    pool = new_pool()
    assert "AWS_SECRET_ACCESS_KEY" not in pool.run(hook("environment"), FILE, INTERACTIVE)
    modules = {name.split(".")[0] for name in pool.run(hook("modules"), FILE, INTERACTIVE)}
    assert modules.isdisjoint({"onnxruntime", "pydantic", "tokenizers", "fastapi", "index", "service", "sqlite3"})


@pytest.mark.parametrize("package", ["vitascope", "index", "service"])
def test_nothing_is_unpickled(package: str) -> None:
    """Ray clusters are an exception: Ray itself uses pickle between machines that trust each other."""
    unpickles = re.compile(r"^\s*(import|from) (pickle|shelve|marshal|dill|joblib)\b|allow_pickle=True", re.MULTILINE)
    sources = [path for path in (ROOT / package).rglob("*.py") if "integrations/ray" not in str(path)]
    assert [path for path in sources if unpickles.search(path.read_text("utf-8"))] == []
