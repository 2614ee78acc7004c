"""Films that are decoded batch by batch, when a test says so."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from index.jobs import pipeline, runner
from index.jobs.sources.fetcher import FetchInterrupted
from vitascope.model import Model


@dataclass
class Doled:
    """Batches of films that may be decoded; those that wait are interrupted once it is broken off."""

    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    broken_off: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        while not self.allowed.acquire(timeout=0.01):
            if self.broken_off.is_set():
                raise FetchInterrupted


def dole(monkeypatch: pytest.MonkeyPatch) -> Doled:
    """As many batches of films are decoded as it allows, and every part is told."""
    doled = Doled()
    decode = pipeline.decode_clips

    def when_allowed(model: Model, opened: Any, clips: Any, *rest: Any, **options: Any) -> Any:
        if opened.description.path.suffix == ".mp4":
            doled.wait()
        return decode(model, opened, clips, *rest, **options)

    monkeypatch.setattr(pipeline, "decode_clips", when_allowed)
    monkeypatch.setattr(runner, "_PROGRESS_SECONDS", 0.0)
    return doled
