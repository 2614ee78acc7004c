"""Files that kill, stall or lie cost their own request and a process; everybody else is served, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.descriptors import open_below
from tests.media_files import solid, write_counter_video, write_video
from tests.vitascope.sandbox.conftest import HOOKED, any_file, question
from tests.waiting import PATIENCE, wait_for
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import DecodingUnavailable, MediaCorrupt, MediaTooLarge, MediaUnsupported
from vitascope.media.file import MediaFile
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.sandbox import pool as pool_module
from vitascope.sandbox import supervisor
from vitascope.sandbox.pool import Always, DecodingPool, Wanted
from vitascope.sandbox.pooled_decoder import PooledDecoder
from vitascope.sandbox.protocol import Question, picturing, probing, sampling

NewPool = Callable[..., DecodingPool]
BULK, HURRY = Always(bulk=True), Always()
ROOT = Path(__file__).parents[3]
SMALL = FrameStream(name="small", frames=1, height=16, width=16, placement="middle")


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@dataclass
class Until:
    """An asker who waits until he goes."""

    bulk: bool = False
    gone: threading.Event = field(default_factory=threading.Event)
    missed: threading.Event = field(default_factory=threading.Event)
    """Set once the pool knows."""

    def reason_to_drop(self, now: float) -> Exception | None:
        if not self.gone.is_set():
            return None
        self.missed.set()
        return ConnectionError("he went")


@contextmanager
def at_work(pool: DecodingPool, release: Path, who: Wanted = HURRY) -> Iterator[Future[int]]:
    """A task that is at work, or waits where others are, until ``release`` is there, at the end at the latest.

    Its result is the process that did it.
    """
    before = len(pool.working) + pool.waiting()
    with ThreadPoolExecutor(1) as thread:
        task = thread.submit(pool.ask, question("until", release=str(release)), who)
        try:
            wait_for(lambda: pool.working and len(pool.working) + pool.waiting() == before + 1)
            yield task
        finally:
            release.touch()


@pytest.mark.parametrize(
    ("deed", "error", "words"),
    [
        ("segfault", MediaCorrupt, "the decoder crashed on it (SIGSEGV)"),
        ("abort", MediaCorrupt, "the decoder crashed on it (SIGABRT)"),
        ("leave", MediaCorrupt, "the decoder crashed on it (exit status 3)"),
        ("spin", MediaTooLarge, "takes more computing than is allowed"),
    ],
)
def test_a_file_that_ends_its_process_fails_alone(
    new_pool: NewPool, tmp_path: Path, deed: str, error: type[Exception], words: str
) -> None:
    pool = new_pool()
    with pytest.raises(error) as raised:
        pool.ask(question(deed), HURRY)
    assert str(raised.value).startswith("film.mp4: ")
    assert words in str(raised.value)
    assert PooledDecoder(pool).probe(write_counter_video(tmp_path / "good.mp4", 10)).width == 160
    assert pool.restarts == 1
    assert pool.alive == 1


def test_a_file_that_needs_too_much_memory_is_too_large_and_costs_no_process(new_pool: NewPool) -> None:
    pool = new_pool(memory_bytes=256 * 1024**2)
    with pytest.raises(MediaTooLarge, match=r"film.mp4: decoding it needs more memory than is allowed"):
        pool.ask(question("hog"), HURRY)
    [pid] = pool.pids
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert peak < (256 + 128) * 1024
    assert pool.restarts == 0


def test_a_defect_is_logged_and_answered_as_the_file_s(new_pool: NewPool, caplog: pytest.LogCaptureFixture) -> None:
    pool = new_pool()
    with pytest.raises(MediaCorrupt, match=r"film.mp4: cannot be decoded: KeyError: 'a defect'"):
        pool.ask(question("fail"), HURRY)
    assert "Traceback" in caplog.text
    assert pool.restarts == 0


def test_a_file_that_takes_too_long_is_given_up(new_pool: NewPool) -> None:
    pool = new_pool(seconds=0.3)
    began = time.monotonic()
    with pytest.raises(MediaTooLarge, match=r"film.mp4: decoding it was given up after 0 seconds"):
        pool.ask(question("slow", **{"for": 3600}), HURRY)
    assert 0.3 <= time.monotonic() - began < PATIENCE
    wait_for(lambda: pool.alive == 1)


def test_longer_films_may_take_longer() -> None:
    stream: Any = []
    assert sampling(any_file(), stream, [(0, 8), (8, 16)], DEFAULT_LIMITS, 1, False).seconds(60.0) == 92.0
    # A header's claim counts up to the limit on a file's duration.
    claimed = sampling(any_file(), stream, [(0, 1e9)], DEFAULT_LIMITS, 1, False).seconds(60.0)
    assert claimed == 60.0 + 2 * DEFAULT_LIMITS.max_seconds


def test_a_process_killed_at_work_is_replaced_and_its_file_is_tried_again(new_pool: NewPool, tmp_path: Path) -> None:
    pool = new_pool()
    [first] = pool.pids
    with at_work(pool, tmp_path / "release") as task:
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: pool.restarts == 1)
    assert task.result() != first
    assert pool.restarts == 1


def test_a_file_is_handed_over_open_to_every_process_that_tries_it(new_pool: NewPool, tmp_path: Path) -> None:
    film, release = tmp_path / "film.mp4", tmp_path / "release"
    film.write_text("own")
    pool = new_pool()
    [first] = pool.pids
    with MediaFile.open(film) as file, ThreadPoolExecutor(1) as thread:
        film.unlink()
        film.write_text("something else")
        answer = thread.submit(pool.ask, question("content", file, release=str(release)), HURRY)
        wait_for(lambda: pool.working == [first] and open_below(film, first))
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: pool.working and pool.working != [first])
        release.touch()
        assert answer.result() == "own"
    [second] = pool.pids
    wait_for(lambda: not open_below(tmp_path, second))
    assert open_below(tmp_path) == []


def test_no_descriptor_stays_open_whatever_becomes_of_a_task(new_pool: NewPool, tmp_path: Path) -> None:
    film, never = tmp_path / "film.mp4", tmp_path / "never"
    film.write_text("no film")
    pool = new_pool()
    ended = [question(deed, MediaFile.open(film)) for deed in ("segfault", "fail")]
    with pytest.raises(MediaUnsupported):
        PooledDecoder(pool).probe(film)
    for asked in ended:
        with pytest.raises(MediaCorrupt):
            pool.ask(asked, HURRY)
    gone = Until()
    ended.append(question("content", MediaFile.open(film), release=str(never)))
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(pool.ask, ended[-1], gone)
        wait_for(lambda: pool.working)
        gone.gone.set()
        with pytest.raises(ConnectionError):
            answer.result()
    for asked in ended:
        assert asked.file is not None
        asked.file.close()
    assert open_below(tmp_path) == []
    wait_for(lambda: pool.alive == 1)
    assert open_below(tmp_path, *pool.pids) == []


def test_a_file_whose_process_is_killed_again_and_again_is_too_large(new_pool: NewPool) -> None:
    pool = new_pool(2, seconds=3600.0)
    wait_for(lambda: pool.alive == 2)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(pool.ask, question("slow", **{"for": 3600}), HURRY)
        killed: list[int] = []
        while len(killed) < 3:
            wait_for(lambda: set(pool.working) - set(killed))
            [working] = set(pool.working) - set(killed)
            os.kill(working, signal.SIGKILL)
            killed.append(working)
        with pytest.raises(MediaTooLarge, match="killed 3 times, as the system does when memory runs out"):
            answer.result()


def test_a_process_killed_while_idle_is_missed_and_replaced(new_pool: NewPool) -> None:
    pool = new_pool()
    [first] = pool.pids
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: pool.restarts == 1)
    assert pool.pids != [first]
    assert pool.alive == 1


def test_a_task_of_somebody_who_went_is_finished_shortly_or_ended(
    new_pool: NewPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = new_pool()
    [first] = pool.pids
    monkeypatch.setattr(pool_module, "GRACE", 3600.0)
    who = Until()
    with at_work(pool, tmp_path / "release", who) as task:
        who.gone.set()
        assert who.missed.wait(PATIENCE)
    assert task.result() == first  # sooner than a new process would be there
    assert pool.pids == [first]
    monkeypatch.setattr(pool_module, "GRACE", 0.1)
    who = Until()
    with at_work(pool, tmp_path / "never", who) as task:
        who.gone.set()
        with pytest.raises(ConnectionError):
            task.result(PATIENCE)
    wait_for(lambda: pool.alive == 1 and pool.pids != [first])
    assert is_gone(first)


def test_somebody_who_goes_while_he_waits_leaves_the_queue(new_pool: NewPool, tmp_path: Path) -> None:
    pool = new_pool()
    with ThreadPoolExecutor() as threads, at_work(pool, tmp_path / "release") as working:
        who = Until()
        waiting = threads.submit(pool.ask, question("slow", **{"for": 0}), who)
        wait_for(lambda: pool.waiting() == 1)
        who.gone.set()
        with pytest.raises(ConnectionError):
            waiting.result()
        assert pool.waiting() == 0
        assert not working.done()
    assert pool.restarts == 0


def test_interactive_comes_before_bulk_each_in_order(
    new_pool: NewPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "BULK_WAIT", 3600.0)
    pool = new_pool()
    turns: dict[str, Future[int]] = {}
    with ThreadPoolExecutor() as threads, at_work(pool, tmp_path / "release", BULK):
        for name, who in {"b1": BULK, "b2": BULK, "i1": HURRY, "i2": HURRY, "b3": BULK}.items():
            turns[name] = threads.submit(pool.ask, question("turn"), who)
            wait_for(lambda: pool.waiting() == len(turns))
    assert sorted(turns, key=lambda name: turns[name].result()) == ["i1", "i2", "b1", "b2", "b3"]


def test_bulk_that_has_waited_long_has_its_turn(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BULK_WAIT", 0.1)
    pool = new_pool()
    done = threading.Event()

    def hurry() -> None:
        while not done.is_set():
            pool.ask(question("slow", **{"for": 0.02}), HURRY)

    with ThreadPoolExecutor() as threads:
        for _ in range(3):  # there is always somebody who comes before bulk
            threads.submit(hurry)
        wait_for(lambda: pool.waiting() == 2)
        threads.submit(lambda: (pool.ask(question("slow", **{"for": 0}), BULK), done.set()))
        came = done.wait(PATIENCE)
        done.set()
        assert came


def test_one_process_is_kept_from_bulk(new_pool: NewPool, tmp_path: Path) -> None:
    pool = new_pool(2)
    wait_for(lambda: pool.alive == 2)
    release = tmp_path / "release"
    with at_work(pool, release, BULK) as first, at_work(pool, release, BULK) as second:
        pool.ask(question("slow", **{"for": 0}), HURRY)
        assert not first.done()
        assert not second.done()


def test_processes_that_bulk_may_have_leave_the_processors_to_the_one_that_is_kept_from_it(new_pool: NewPool) -> None:
    pool = new_pool(3)
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    bulk = min(19, usual + supervisor.BULK_NICENESS)
    for _ in range(2):  # also once another process has taken the place of the one that is kept
        wait_for(lambda: pool.alive == 3)
        by_niceness = {os.getpriority(os.PRIO_PROCESS, pid): pid for pid in pool.pids}
        assert by_niceness.keys() == {usual, bulk}
        restarts = pool.restarts
        os.kill(by_niceness[usual], signal.SIGKILL)
        wait_for(lambda restarts=restarts: pool.restarts == restarts + 1)


def test_an_answer_that_was_not_asked_for_is_not_believed(new_pool: NewPool) -> None:
    pool = new_pool()
    lies: list[Question[Any]] = [probing(any_file(), DEFAULT_LIMITS)]
    lies[0].request.update({"do": "lie", "value": ["a", "b"], "sizes": []})
    lies.append(picturing(any_file(), 0.0, 64, DEFAULT_LIMITS))
    lies[1].request.update({"do": "lie", "value": None, "sizes": [10_000_000]})
    lies.append(question("babble", bytes="ffffffff00"))
    for number, lie in enumerate(lies, 1):
        with pytest.raises(MediaCorrupt, match=r"film.mp4: the decoder gave no sensible answer for it"):
            pool.ask(lie, HURRY)
        wait_for(lambda number=number: pool.restarts == number)


def test_processes_that_cannot_start_are_said_to_be_missing_and_tried_again_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = DecodingPool(1, module="no.such.module")
    began = time.monotonic()
    pool.start()
    try:
        with pytest.raises(DecodingUnavailable, match="no process that decodes could be started"):
            pool.ask(question("slow", **{"for": 0}), HURRY)
        assert pool.alive == 0
        pool._keeper._module = HOOKED
        wait_for(lambda: pool.alive == 1)
        failures = caplog.text.count("could not be started")
        assert failures >= 1
        pauses = [min(0.1 * 2**n, 10.0) for n in range(failures)]
        assert time.monotonic() - began >= sum(pauses)
        pool.ask(question("slow", **{"for": 0}), HURRY)
    finally:
        pool.close()


def test_a_process_that_is_not_ready_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_SECONDS", 0.0)
    pool = DecodingPool(1)
    pool.start()
    try:
        with pytest.raises(DecodingUnavailable, match="could be started: not ready in 0 s"):
            pool.wait_until_ready()
    finally:
        pool.close()


def test_closing_ends_the_processes_and_tells_whoever_waits(new_pool: NewPool) -> None:
    pool = new_pool()
    pids = pool.pids
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(pool.ask, question("slow", **{"for": 3600}), HURRY) for _ in range(3)]
        wait_for(lambda: pool.working and pool.waiting() == 2)
        pool.close()
        for answer in answers:
            with pytest.raises(DecodingUnavailable, match="stopping"):
                answer.result()
    wait_for(lambda: all(map(is_gone, pids)))
    with pytest.raises(DecodingUnavailable):
        pool.ask(question("slow", **{"for": 0}), HURRY)


def test_processes_die_with_the_one_that_started_them() -> None:
    code = f"""
import time
from vitascope.sandbox.pool import Always, DecodingPool, Wanted
from tests.vitascope.sandbox.conftest import question
pool = DecodingPool(1, module={HOOKED!r})
pool.start()
pool.wait_until_ready()
print(*pool.pids, flush=True)
pool.ask(question("slow", **{{"for": 3600}}), Always())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: is_gone(pid))


def test_a_process_is_replaced_after_many_tasks(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TASKS_PER_PROCESS", 3)
    pool = new_pool()
    pids = {pool.ask(question("slow", **{"for": 0}), HURRY) for _ in range(5)}
    assert len(pids) == 2


def test_memory_does_not_grow_with_the_frames_that_are_looked_at(new_pool: NewPool, tmp_path: Path) -> None:
    frames = [solid((number, 10, 10), 1280, 720) for number in range(0, 250, 5)]
    film = write_video(tmp_path / "film.mp4", frames, rate=10, options={"preset": "ultrafast"})
    pool = new_pool()
    decoder = PooledDecoder(pool)
    clips = [(number * 0.1, number * 0.1 + 0.1) for number in range(50)]
    [pid] = pool.pids

    def peak() -> int:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    before = peak()
    for _ in range(3):
        decoder.sample(film, [SMALL], clips, threads=1)
    assert peak() - before < 50 * 1280 * 720 * 1.5  # of 150 frames not even a third was held at once
