"""Decoding of videos batch by batch, controlled by a test."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from index.jobs import pipeline, runner
from index.jobs.sources.fetcher import FetchInterrupted
from vitascope.model import Model


@dataclass
class SteppedDecoding:
    """Decoding of videos: each batch waits for ``allowed``; waiting batches end when ``interrupted`` is set."""

    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    interrupted: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        while not self.allowed.acquire(timeout=0.01):
            if self.interrupted.is_set():
                raise FetchInterrupted


def step_decoding(monkeypatch: pytest.MonkeyPatch) -> SteppedDecoding:
    """Decode batches of videos only when allowed, and report all progress at once."""
    decoding = SteppedDecoding()
    decode = pipeline.decode_clips

    def decode_when_allowed(model: Model, prepared: Any, clips: Any, *rest: Any, **options: Any) -> Any:
        if prepared.description.path.suffix == ".mp4":
            decoding.wait()
        return decode(model, prepared, clips, *rest, **options)

    monkeypatch.setattr(pipeline, "decode_clips", decode_when_allowed)
    monkeypatch.setattr(runner, "_PROGRESS_SECONDS", 0.0)
    return decoding
