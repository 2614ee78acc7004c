"""Watched folders: new, changed and deleted files between two scans."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from index.jobs.sources.source_types import FolderSource
from tests.index.jobs.watched import Step, Watched, command, nothing, picture
from tests.waiting import PATIENCE


def test_new_files_are_indexed_once_and_deleted_ones_reported(watched: Watched, folder: Path) -> None:
    picture(folder / "first.png", 1)
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("words")
    first = folder / "first.png"
    totals = watched(lambda: picture(folder / "second.png", 2), lambda: None, lambda: None, first.unlink)
    assert sorted(watched.events[:2]) == [("added", "first.png"), ("failed", "broken.mp4")]
    assert watched.events[2:] == [("added", "second.png"), ("gone", "first.png")]
    assert watched.paths == ["first.png", "second.png"]  # reported, not removed
    assert (totals.added, len(totals.failures), totals.gone, totals.removed) == (2, 1, 1, 0)
    summary = totals.summary(watched.collection, FolderSource(str(folder)))
    assert (summary["added"], summary["failed"], summary["gone"], summary["videos"]) == (2, 1, 1, 2)


def test_a_file_is_indexed_once_it_stops_changing(watched: Watched, folder: Path, tmp_path: Path) -> None:
    content = picture(tmp_path / "whole.png", 7).read_bytes()
    growing = folder / "growing.png"

    def grow(share: float) -> Step:
        return lambda: growing.write_bytes(content[: int(len(content) * share)])

    watched(grow(0.2), grow(0.4), grow(0.6), grow(0.8), grow(1.0))
    assert watched.events == [("added", "growing.png")]


def test_videos_of_deleted_files_are_removed_if_requested(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    picture(folder / "b.png", 2)
    totals = watched(lambda: None, lambda: None, (folder / "a.png").unlink, delete=True)
    assert watched.events[-2:] == [("gone", "a.png"), ("removed", "a.png")]
    assert watched.paths == ["b.png"]
    assert (totals.gone, totals.removed) == (1, 1)


def test_a_moved_file_stays_searchable(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    picture(folder / "keep.png", 2)
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


def test_new_content_replaces_the_video_of_a_file(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    watched(nothing, nothing, lambda: picture(folder / "a.png", 200), nothing)
    assert watched.events == [("added", "a.png"), ("added", "a.png"), ("replaced", "a.png")]
    assert watched.paths == ["a.png", "a.png"]
    watched(nothing, nothing, lambda: picture(folder / "a.png", 100), nothing, delete=True)
    assert watched.paths == ["a.png"]


def test_known_files_are_not_read_again_and_files_deleted_meanwhile_are_reported(
    watched: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("a.png", "b.png")):
        os.utime(picture(folder / name, number), (1, 1))
    watched()
    (folder / "b.png").unlink()
    monkeypatch.setattr("index.jobs.folder_watcher.run_job", lambda *_, **__: pytest.fail("a file was read again"))
    totals = watched()
    assert watched.events == [("gone", "b.png")]
    assert totals.added == 0


def test_an_unmounted_drive_does_not_count_as_deleted_files(watched: Watched, folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"

    def unmount() -> None:
        folder.rename(away)

    def empty_mount_point() -> None:
        folder.mkdir()

    def mount() -> None:
        folder.rmdir()
        away.rename(folder)

    (folder / "broken.mp4").write_bytes(b"no film")
    watched(nothing, nothing, (folder / "broken.mp4").unlink, nothing)
    assert watched.events == [("failed", "broken.mp4")]  # that it is gone is no sign of anything
    picture(folder / "a.png", 1)
    watched(lambda: None, lambda: None, unmount, empty_mount_point, mount, delete=True)
    assert [event for event, _ in watched.events] == ["added", "unavailable", "back"]
    assert watched.paths == ["a.png"]
    (folder / "a.png").rename(away)
    watched(delete=True)  # all gone at once: as likely an empty mount point
    assert [event for event, _ in watched.events] == ["unavailable"]
    assert watched.paths == ["a.png"]


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
