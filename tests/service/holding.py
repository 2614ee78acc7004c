"""Jobs that stand still, or are not begun, until a test lets them go; conftest.py gives ``held`` to all tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from service.worker import JobWorker
from tests.service.running import Running


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, running: Running) -> Iterator[Callable[[], None]]:
    """Jobs that stop at every video until they are let go."""
    going = threading.Event()
    embed = running.service.model.embed_video

    def slow(*args: object, **given: object) -> object:
        going.wait()  # at most until the test is over
        return embed(*args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(running.service.model, "embed_video", slow)
    yield going.set
    going.set()


@contextmanager
def not_begun(worker: JobWorker) -> Iterator[list[Callable[[], None]]]:
    """Jobs submitted in the block wait in the queue; each is begun by calling what the list has for it."""
    submit = worker.submit
    waiting: list[Callable[[], None]] = []
    worker.submit = lambda *job: waiting.append(partial(submit, *job))  # type: ignore[method-assign]
    try:
        yield waiting
    finally:
        del worker.submit  # type: ignore[method-assign]
