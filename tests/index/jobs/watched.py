"""Watched folders in tests: in this process step by step, or by the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import folder_watcher
from index.jobs.folder_watcher import WatchOptions, WatchTotals, watch_folder
from index.jobs.records import JobOptions
from index.jobs.sources.source_types import FolderSource
from index.jobs.watched_folder import MAX_DELETE
from tests.media_files import solid, write_picture
from vitascope.model import Model

ROOT = Path(__file__).parents[3]
Step = Callable[[], object]


def nothing() -> None:
    """No-op step."""


class Watched:
    """Polls the folder once a second, with a step in between."""

    def __init__(self, collection: Collection, model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.collection = collection
        self.model = model
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.events: list[tuple[str, str]] = []
        self.reasons: list[str] = []

    def __call__(
        self,
        *steps: Step,
        delete: bool = False,
        settle: float = 2.0,
        max_delete: float = MAX_DELETE,
        recursive: bool = True,
    ) -> WatchTotals:
        """Poll once, again after each step, three times at the end, and stop with Ctrl-C."""
        self.events.clear()
        self.reasons.clear()
        waiting = iter([*steps, nothing, nothing, nothing])
        seconds = 0.0

        def sleep(interval: float) -> None:
            nonlocal seconds
            seconds += interval
            step = next(waiting, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        self.monkeypatch.setattr(folder_watcher, "sleep", sleep)
        self.monkeypatch.setattr(folder_watcher, "monotonic", lambda: seconds)
        source = FolderSource(str(self.folder), recursive)
        options = WatchOptions(source, JobOptions(), 1.0, settle, delete=delete, max_delete=max_delete)
        return watch_folder(self.collection, self.model, options, self.say)

    def say(self, event: dict[str, Any]) -> None:
        self.events.append((event["event"], Path(event["path"]).name))
        self.reasons.append(event.get("reason") or "")

    @property
    def paths(self) -> list[str]:
        return sorted(Path(video.path).name for video in self.collection.videos())


def picture(path: Path, shade: int) -> Path:
    """A picture whose content depends on ``shade``, 0 to 255."""
    return write_picture(path, solid((shade, 0, 255 - shade), 16, 16))


HEEDING = """
import signal, sys
from vitascope.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
"""Tests that are started in the background of a shell ignore Ctrl-C, and so would what they start. This heeds it by
itself: a process that has Milvus's client in it must not be forked with code to run between.
"""


@contextmanager
def command(folder: Path, data: Path, bundle: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `vitascope index FOLDER --watch` with a short interval."""
    arguments = [sys.executable, "-c", HEEDING, "index", str(folder), "--watch", "--interval", "0.05"]
    arguments += ["--settle", "0.05", "--bundle", str(bundle), "--data", str(data), *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
