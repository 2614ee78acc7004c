"""Jobs that stand still until a test lets them go; conftest.py gives the fixture to all tests of the service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

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
