"""A folder that is watched: what comes and goes between two looks, and what follows from it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from index.collection import Collection
from index.jobs import watch as watching
from index.jobs.jobs import JobOptions
from index.jobs.sources.description import FolderSource
from index.jobs.watch import Totals, Watch, summary, watch
from tests.media_files import solid, write_picture
from tests.waiting import PATIENCE
from vitascope.model import Model

ROOT = Path(__file__).parents[2]
Step = Callable[[], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


class Watched:
    """Looks at the folder, one step of the world between each two; a second passes with every look."""

    def __init__(self, collection: Collection, model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.collection = collection
        self.model = model
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.events: list[tuple[str, str]] = []

    def __call__(self, *steps: Step, delete: bool = False, settle: float = 2.0) -> Totals:
        """Look once, then again after each step and twice at the end; then Ctrl-C."""
        self.events.clear()
        waiting = iter([*steps, lambda: None, lambda: None, lambda: None])
        seconds = 0.0

        def sleep(interval: float) -> None:
            nonlocal seconds
            seconds += interval
            step = next(waiting, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        self.monkeypatch.setattr(watching, "sleep", sleep)
        self.monkeypatch.setattr(watching, "monotonic", lambda: seconds)
        wanted = Watch(FolderSource(str(self.folder)), JobOptions(), interval=1.0, settle=settle, delete=delete)
        return watch(self.collection, self.model, wanted, self.say)

    def say(self, event: dict[str, Any]) -> None:
        self.events.append((event["event"], Path(event["path"]).name))

    @property
    def paths(self) -> list[str]:
        return sorted(Path(video.path).name for video in self.collection.videos())


@pytest.fixture
def watched(collection: Collection, small_model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(collection, small_model, folder, monkeypatch)


def picture(path: Path, shade: int) -> Path:
    return write_picture(path, solid((shade, 0, 255 - shade), 16, 16))


def test_what_comes_is_indexed_once_and_what_goes_is_reported(watched: Watched, folder: Path) -> None:
    picture(folder / "first.png", 1)
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("words")
    first = folder / "first.png"
    totals = watched(lambda: picture(folder / "second.png", 2), lambda: None, lambda: None, first.unlink)
    assert sorted(watched.events[:2]) == [("added", "first.png"), ("failed", "broken.mp4")]
    assert watched.events[2:] == [("added", "second.png"), ("gone", "first.png")]
    assert watched.paths == ["first.png", "second.png"]  # reported, not removed
    assert (totals.added, len(totals.failures), totals.gone, totals.removed) == (2, 1, 1, 0)
    told = summary(watched.collection, FolderSource(str(folder)), totals)
    assert (told["added"], told["failed"], told["gone"], told["videos"]) == (2, 1, 1, 2)


def test_a_file_that_is_still_written_is_waited_for(watched: Watched, folder: Path, tmp_path: Path) -> None:
    content = picture(tmp_path / "whole.png", 7).read_bytes()
    growing = folder / "growing.png"

    def grow(share: float) -> Step:
        return lambda: growing.write_bytes(content[: int(len(content) * share)])

    watched(grow(0.2), grow(0.4), grow(0.6), grow(0.8), grow(1.0))
    assert watched.events == [("added", "growing.png")]


def test_what_goes_is_removed_where_that_is_wanted(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    picture(folder / "b.png", 2)
    totals = watched(lambda: None, lambda: None, (folder / "a.png").unlink, delete=True)
    assert watched.events[-2:] == [("gone", "a.png"), ("removed", "a.png")]
    assert watched.paths == ["b.png"]
    assert (totals.gone, totals.removed) == (1, 1)


def test_a_file_that_moves_stays_findable(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    picture(folder / "keep.png", 2)
    nothing: Step = lambda: None  # noqa: E731
    watched(nothing, nothing, lambda: (folder / "a.png").rename(folder / "moved.png"), nothing, delete=True)
    assert watched.paths == ["keep.png", "moved.png"]
    # A copy is skipped while the first file is there, and takes its place when that goes.
    watched(
        lambda: shutil.copy(folder / "moved.png", folder / "copy.png"),
        nothing,
        nothing,
        nothing,
        (folder / "moved.png").unlink,
        nothing,
        nothing,
        delete=True,
    )
    assert ("skipped", "copy.png") in watched.events
    assert watched.paths == ["copy.png", "keep.png"]


def test_a_file_with_new_content_takes_the_place_of_the_old(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    nothing: Step = lambda: None  # noqa: E731
    watched(nothing, nothing, lambda: picture(folder / "a.png", 200), nothing)
    assert watched.events == [("added", "a.png"), ("added", "a.png"), ("replaced", "a.png")]
    assert watched.paths == ["a.png", "a.png"]
    watched(nothing, nothing, lambda: picture(folder / "a.png", 100), nothing, delete=True)
    assert watched.paths == ["a.png"]


def test_what_is_known_is_not_read_again_and_what_went_meanwhile_is_noticed(
    watched: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("a.png", "b.png")):
        os.utime(picture(folder / name, number), (1, 1))
    watched()
    (folder / "b.png").unlink()
    monkeypatch.setattr(watching, "run_job", lambda *_, **__: pytest.fail("a file was read again"))
    totals = watched()
    assert watched.events == [("gone", "b.png")]
    assert totals.added == 0


def test_an_unmounted_drive_is_not_a_deleted_one(watched: Watched, folder: Path, tmp_path: Path) -> None:
    picture(folder / "a.png", 1)
    away = tmp_path / "away"

    def unmount() -> None:
        folder.rename(away)

    def empty_mount_point() -> None:
        folder.mkdir()

    def mount() -> None:
        folder.rmdir()
        away.rename(folder)

    watched(lambda: None, lambda: None, unmount, empty_mount_point, mount, delete=True)
    assert [event for event, _ in watched.events] == ["added", "away", "back"]
    assert watched.paths == ["a.png"]
    (folder / "a.png").rename(away)
    watched(delete=True)  # all gone at once: as likely an empty mount point
    assert [event for event, _ in watched.events] == ["away"]
    assert watched.paths == ["a.png"]


HEEDING = """
import signal, sys
from vitascope.command import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
"""Tests that are started in the background of a shell ignore Ctrl-C, and so would what they start. This heeds it by
itself: a process that has Milvus's client in it must not be forked with code to run between.
"""


@contextmanager
def command(folder: Path, data: Path, bundle: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`vitascope index FOLDER --watch`, which looks very often."""
    arguments = [sys.executable, "-c", HEEDING, "index", str(folder), "--watch", "--interval", "0.05"]
    arguments += ["--settle", "0.05", "--bundle", str(bundle), "--data", str(data), *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "event", "end"),
    [
        (["--json"], '"event": "added"', '"added": 1'),
        ([], "added  ", "1 added, 0 skipped: collection videos has 1 videos, 1 clips"),
    ],
)
def test_ctrl_c_ends_the_command_in_order(
    tmp_path: Path, folder: Path, small_bundle: Path, options: list[str], event: str, end: str
) -> None:
    picture(folder / "a.png", 1)
    with command(folder, tmp_path / "data", small_bundle, *options) as process:
        assert process.stdout is not None
        assert event in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert end in rest
