"""Work beside everything else: one piece at a time, none lost, and an end when told."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from index.vectors.background_task import Background, Stop

PATIENCE = 120.0


def test_what_is_asked_for_during_work_is_done_once_more_afterwards() -> None:
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)
    done: list[int] = []

    def work(stop: Stop) -> None:
        begun.release()
        assert go_on.acquire(timeout=PATIENCE)
        done.append(1)

    background = Background(work, "test")
    background.ask()
    assert begun.acquire(timeout=PATIENCE)
    for _ in range(3):
        background.ask()
    go_on.release(2)
    background.wait()
    assert len(done) == 2
    go_on.release()
    background.ask()
    background.wait()
    assert len(done) == 3


def test_what_is_noted_bit_by_bit_is_done_when_enough_has_come_together() -> None:
    done: list[int] = []
    background = Background(lambda stop: done.append(1), "test")
    for amount, times in ((4, 0), (5, 0), (1, 1), (9, 1), (1, 2), (25, 3), (9, 3)):
        background.note(amount, 10)
        background.wait()
        assert len(done) == times


def test_stop_ends_the_work_and_nothing_is_begun_afterwards() -> None:
    begun = threading.Event()
    looks: list[bool] = []

    def work(stop: Stop) -> None:
        begun.set()
        while not stop():
            pass
        looks.append(stop())

    background = Background(work, "test")
    background.ask()
    assert begun.wait(PATIENCE)
    background.stop()
    assert looks == [True]
    background.ask()
    background.stop()
    assert looks == [True]


def test_a_defect_in_the_work_is_reported_and_does_not_end_later_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: reported.append(arguments.exc_type))

    def work(stop: Stop) -> None:
        done.append(1)
        if len(done) == 1:
            raise ZeroDivisionError

    background = Background(work, "test")
    for expected in (1, 2):
        background.ask()
        background.wait()
        assert len(done) == expected
    while not reported:  # by the thread, after the work
        pass
    assert reported == [ZeroDivisionError]


def test_a_process_that_forgets_to_close_ends_when_the_work_has_looked() -> None:
    script = (
        "import threading\n"
        "from index.vectors.background_task import Background\n"
        "begun = threading.Event()\n"
        "def work(stop):\n"
        "    begun.set()\n"
        "    while not stop():\n"
        "        pass\n"
        "    print('stopped', flush=True)\n"
        "background = Background(work, 'test')\n"
        "background.ask()\n"
        "begun.wait()\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert ended.stdout == "stopped\n"
