"""The read-write lock and the background task of vector indexes."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from index.vectors.concurrency import BackgroundTask, IsCancelled, ReadWriteLock
from tests.index.killed_processes import ROOT
from tests.waiting import PATIENCE, wait_for


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

    with lock.shared(), lock.shared():  # readers share it
        writer = threading.Thread(target=write)
        writer.start()
        assert writer_started.wait(PATIENCE)
        wait_for(lambda: lock._waiting_writers)
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.05)
        assert order == []
    for thread in (writer, reader):
        thread.join(PATIENCE)
    assert order == ["writer", "reader"]


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
    wait_for(lambda: reported)  # by the thread, after the run
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
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert process.stdout == "cancelled\n"
