"""Jobs that are blocked until the test releases them; conftest.py offers ``held`` to all tests."""

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
    """Block jobs at every video until they are released."""
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
    """Keep jobs submitted in the context queued; each function in the list starts one."""
    submit = worker.submit
    waiting: list[Callable[[], None]] = []
    worker.submit = lambda *job: waiting.append(partial(submit, *job))  # type: ignore[method-assign]
    try:
        yield waiting
    finally:
        del worker.submit  # type: ignore[method-assign]
