"""The read-write lock and the background task of vector indexes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from index.vectors.concurrency import BackgroundTask, IsCancelled, ReadWriteLock

PATIENCE = 120.0


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_readers_share_the_lock() -> None:
    lock = ReadWriteLock()
    both_inside = threading.Barrier(2, timeout=PATIENCE)

    def read() -> None:
        with lock.shared():
            both_inside.wait()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert not both_inside.broken


def test_readers_never_see_a_half_finished_write() -> None:
    lock = ReadWriteLock()
    pair = [0, 0]
    torn = []

    def write() -> None:
        for _ in range(300):
            with lock.exclusive():
                pair[0] += 1
                pair[1] += 1

    def read() -> None:
        for _ in range(300):
            with lock.shared():
                first, second = pair[0], pair[1]
            if first != second:
                torn.append((first, second))

    threads = [threading.Thread(target=target) for target in (write, write, read, read)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert torn == []
    assert pair == [600, 600]


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock = ReadWriteLock()
    order = []
    writer_started = threading.Event()

    def write() -> None:
        writer_started.set()
        with lock.exclusive():
            order.append("writer")

    def read() -> None:
        with lock.shared():
            order.append("reader")

    with lock.shared():
        writer = threading.Thread(target=write)
        writer.start()
        assert writer_started.wait(PATIENCE)
        while not lock.has_waiting_writer:
            pass
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.05)
        assert order == []
    join(writer, reader)
    assert order == ["writer", "reader"]


def raise_inside(lock: ReadWriteLock, kind: str) -> None:
    with lock.exclusive() if kind == "exclusive" else lock.shared():
        raise ValueError(kind)


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_an_exception_releases_the_lock(kind: str) -> None:
    lock = ReadWriteLock()
    with pytest.raises(ValueError, match=kind):
        raise_inside(lock, kind)
    with lock.exclusive():
        pass


def test_triggers_during_a_run_cause_one_more_run() -> None:
    started, may_end = threading.Semaphore(0), threading.Semaphore(0)
    runs: list[int] = []

    def function(is_cancelled: IsCancelled) -> None:
        started.release()
        assert may_end.acquire(timeout=PATIENCE)
        runs.append(1)

    task = BackgroundTask(function, "test")
    task.trigger()
    assert started.acquire(timeout=PATIENCE)
    for _ in range(3):
        task.trigger()
    may_end.release(2)
    task.wait()
    assert len(runs) == 2
    may_end.release()
    task.trigger()
    task.wait()
    assert len(runs) == 3


def test_pending_work_triggers_a_run_at_the_threshold() -> None:
    runs: list[int] = []
    task = BackgroundTask(lambda is_cancelled: runs.append(1), "test")
    for amount, expected in ((4, 0), (5, 0), (1, 1), (9, 1), (1, 2), (25, 3), (9, 3)):
        task.add_pending(amount, 10)
        task.wait()
        assert len(runs) == expected


def test_stop_cancels_the_run_and_ignores_later_triggers() -> None:
    started = threading.Event()
    runs: list[bool] = []

    def function(is_cancelled: IsCancelled) -> None:
        started.set()
        while not is_cancelled():
            pass
        runs.append(is_cancelled())

    task = BackgroundTask(function, "test")
    task.trigger()
    assert started.wait(PATIENCE)
    task.stop()
    assert runs == [True]
    task.trigger()
    task.stop()
    assert runs == [True]


def test_an_exception_is_reported_and_does_not_prevent_later_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: reported.append(arguments.exc_type))

    def function(is_cancelled: IsCancelled) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ZeroDivisionError

    task = BackgroundTask(function, "test")
    for expected in (1, 2):
        task.trigger()
        task.wait()
        assert len(runs) == expected
    while not reported:  # by the thread, after the run
        pass
    assert reported == [ZeroDivisionError]


def test_the_interpreter_cancels_a_run_when_it_exits() -> None:
    script = (
        "import threading\n"
        "from index.vectors.concurrency import BackgroundTask\n"
        "started = threading.Event()\n"
        "def function(is_cancelled):\n"
        "    started.set()\n"
        "    while not is_cancelled():\n"
        "        pass\n"
        "    print('cancelled', flush=True)\n"
        "task = BackgroundTask(function, 'test')\n"
        "task.trigger()\n"
        "started.wait()\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert process.stdout == "cancelled\n"
