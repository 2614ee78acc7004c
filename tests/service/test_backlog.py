"""Requests are refused where they would wait for longer than the queue's budget, by how fast others are answered."""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import ExitStack

import pytest

from service.backlog import Backlog
from service.errors import Overloaded


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Load:
    """Requests that are answered in the order in which they came, ``rate`` a second."""

    def __init__(self, backlog: Backlog, clock: Clock) -> None:
        self._backlog = backlog
        self._clock = clock
        self._under_way: deque[tuple[float, ExitStack]] = deque()

    def send(self) -> bool:
        """Whether one more is let in."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._backlog.enter())
            except Overloaded:
                return False
            self._under_way.append((self._clock.now, stack.pop_all()))
        return True

    def answer(self) -> float:
        """Answer the oldest; how many seconds it waited."""
        came, stack = self._under_way.popleft()
        stack.close()
        return self._clock.now - came

    def run(self, seconds: float, arrivals: int, rate: float) -> list[float]:
        """How long each waited of those answered, while ``arrivals`` come before every answer."""
        waited = []
        for _ in range(round(seconds * rate)):
            for _ in range(arrivals):
                self.send()
            self._clock.now += 1 / rate
            waited.append(self.answer())
        return waited


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def load(clock: Clock) -> Load:
    return Load(Backlog(at_once=4, seconds=2.0, clock=clock), clock)


@pytest.mark.parametrize("rate", [0.5, 4, 100])
def test_in_a_flood_the_wait_is_bounded_and_the_service_never_idle(load: Load, rate: float) -> None:
    load.run(120.0, arrivals=20, rate=rate)
    waited = load.run(30.0, arrivals=20, rate=rate)
    assert max(waited) <= 2.0 + 6 / rate
    assert min(waited) >= 1.0  # there is always a next one


def test_a_rate_that_changes_is_followed(load: Load) -> None:
    load.run(10.0, arrivals=3, rate=100)
    load.run(60.0, arrivals=3, rate=5)  # reranking, after plain searches; those that wait are two hundred
    assert max(load.run(10.0, arrivals=3, rate=5)) <= 2.0 + 8 / 5
    load.run(10.0, arrivals=3, rate=100)
    waited = load.run(10.0, arrivals=3, rate=100)
    assert 1.0 <= min(waited) <= max(waited) <= 2.1


def test_quick_requests_after_very_slow_ones_are_let_in_again(load: Load) -> None:
    load.run(400.0, arrivals=3, rate=0.2)
    assert len(load._under_way) < 5
    load.run(10.0, arrivals=3, rate=100)
    assert len(load._under_way) > 150


def test_as_many_as_are_worked_on_at_once_are_let_in_however_long_they_take(load: Load, clock: Clock) -> None:
    load.run(10.0, arrivals=3, rate=0.2)
    while load._under_way:
        clock.now += 5.0
        load.answer()
    assert [load.send() for _ in range(4)] == [True] * 4
    clock.now += 3600.0
    load.answer()
    assert load.send()


def test_a_burst_after_quiet_hours_is_let_in(load: Load, clock: Clock) -> None:
    load.run(10.0, arrivals=3, rate=50)
    while load._under_way:
        clock.now += 0.02
        load.answer()
    clock.now += 3600.0
    assert list(itertools.takewhile(bool, (load.send() for _ in range(1000)))) == [True] * 104


def test_nothing_more_is_let_in_while_nothing_is_answered(load: Load, clock: Clock) -> None:
    assert all(load.send() for _ in range(50))  # how fast they will be answered is not known yet
    clock.now += 2.5
    assert not load.send()
