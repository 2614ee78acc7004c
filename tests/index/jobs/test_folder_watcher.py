"""Watched folders: files that are new, changed, replaced, moved, deleted or unavailable, also while not watched."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest

from index.jobs import source_items, watched_folder
from index.jobs.jobs import create_job
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FilesSource, FolderSource
from index.storage import job_transitions
from tests.index.jobs.fixtures import create_folder_job
from tests.index.jobs.watched import Step, Watched, command, nothing, picture
from tests.waiting import PATIENCE
from vitascope.model import Model

SIZE = 4096


def test_new_files_are_indexed_once_and_deleted_ones_reported(watched: Watched, folder: Path) -> None:
    picture(folder / "first.png", 1)
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("words")
    first = folder / "first.png"
    totals = watched(lambda: picture(folder / "second.png", 2), nothing, nothing, first.unlink)
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


def test_a_moved_file_stays_searchable(watched: Watched, folder: Path) -> None:
    picture(folder / "a.png", 1)
    picture(folder / "keep.png", 2)
    watched(nothing, nothing, lambda: (folder / "a.png").rename(folder / "moved.png"), nothing, delete=True)
    assert watched.paths == ["keep.png", "moved.png"]
    # A copy is skipped while the first file exists, and takes its place when that is deleted.
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
    assert watched.events == [("failed", "broken.mp4")]  # a file without a video is not reported as gone
    picture(folder / "a.png", 1)
    watched(nothing, nothing, unmount, empty_mount_point, mount, delete=True)
    assert [event for event, _ in watched.events] == ["added", "unavailable", "back"]
    assert watched.paths == ["a.png"]
    (folder / "a.png").rename(away)
    watched(delete=True)  # all gone at once: as likely an empty mount point
    assert [event for event, _ in watched.events] == ["unavailable"]
    assert watched.paths == ["a.png"]


# Lost files


def padded(path: Path, shade: int) -> Path:
    """Write a picture of exactly ``SIZE`` bytes."""
    picture(path, shade)
    path.write_bytes(path.read_bytes().ljust(SIZE, b"\0"))
    return path


def by_renaming(file: Path) -> None:
    """Replace a file by an older one that is moved there."""
    other = padded(file.parent.parent / "other.png", 200)
    os.utime(other, (1, 1))
    other.rename(file)


def in_place(file: Path) -> None:
    """Overwrite a file and set its time back."""
    before = file.stat()
    padded(file, 200)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_size) == (before.st_ino, before.st_size)


def with_its_folder(file: Path) -> None:
    """Put another folder in the place of the file's, with an older file of the same name."""
    file.parent.rename(file.parent.with_name("former"))
    file.parent.mkdir()
    os.utime(padded(file, 200), (1, 1))


def by_a_copy(file: Path) -> None:
    """Restore an older version of a file with its times, as `cp -p` and `rsync -t` do."""
    other = padded(file.parent.parent / "other.png", 200)
    os.utime(other, (1, 1))
    shutil.copy2(other, file)


@pytest.mark.parametrize(
    ("replace", "is_remembered"),
    [(by_renaming, True), (in_place, True), (with_its_folder, True), (by_a_copy, True), (by_renaming, False)],
)
def test_a_file_replaced_by_an_older_one_while_not_watched_is_read(
    watched: Watched, folder: Path, replace: Callable[[Path], None], is_remembered: bool
) -> None:
    file = padded(folder / "a.png", 1)
    watched()
    [before] = watched.collection.videos()
    if not is_remembered:  # as in a catalogue of an earlier version
        with watched.collection.catalogue.write() as connection:
            connection.execute("DELETE FROM watched_files")
    replace(file)
    totals = watched(delete=True)
    assert watched.events == [("added", "a.png"), ("replaced", "a.png"), ("removed", "a.png")]
    [after] = watched.collection.videos()
    assert after.content_sha256 != before.content_sha256
    assert (totals.gone, totals.removed, totals.held) == (1, 1, 0)


def test_an_unchanged_file_is_not_read_again_and_one_deleted_meanwhile_is_reported(
    watched: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(picture(folder / "old.png", 1), (1, 1))
    os.utime(picture(folder / "future.png", 2), (9e9, 9e9))
    shutil.copy2(folder / "old.png", folder / "copy.png")
    watched()
    (folder / "future.png").unlink()
    monkeypatch.setattr("index.jobs.folder_watcher.run_job", lambda *_, **__: pytest.fail("a file was read again"))
    assert watched().added == 0
    assert watched.events == [("gone", "future.png")]


def test_a_round_that_another_process_runs_is_left_to_it(watched: Watched, folder: Path) -> None:
    path = picture(folder / "film.png", 1)
    job = create_job(watched.collection, FilesSource((str(path),)), JobOptions())
    elsewhere = {"host": "another", "pid": 1, "started": "1", "run": "x", "decodes": True}
    with watched.collection.catalogue.write() as connection:
        job_transitions.claim(connection, job.id, json.dumps(elsewhere))
    assert watched().added == 1


def film_folder(folder: Path, count: int, shade: int) -> Path:
    folder.mkdir()
    for number in range(count):
        picture(folder / f"{shade + number}.png", shade + number)
    return folder


def test_an_unavailable_subfolder_loses_no_video(watched: Watched, folder: Path) -> None:
    film_folder(folder / "a", 2, 10)
    part, away = film_folder(folder / "b", 2, 20), folder.parent / "away"
    all_names = ["10.png", "11.png", "20.png", "21.png"]
    totals = watched(nothing, nothing, lambda: part.rename(away), nothing, delete=True)
    assert watched.events[4:] == [("gone", "20.png"), ("gone", "21.png"), ("held", "folder")]
    assert watched.reasons[-1] == (
        "2 of 4 videos have lost their file, which is more than the share of 0.2 that is deleted at once "
        "(--max-delete); they stay"
    )
    assert (watched.paths, totals.removed, totals.held, totals.held_reason) == (all_names, 0, 2, watched.reasons[-1])

    # Also after a restart, and however many files are added meanwhile.
    new = [f"{shade}.png" for shade in range(100, 112)]
    totals = watched(lambda: film_folder(folder / "c", 12, 100), nothing, nothing, delete=True)
    assert ("held", "folder") in watched.events
    assert (watched.paths, totals.removed, totals.held) == (sorted(all_names + new), 0, 2)
    totals = watched(delete=True)
    assert (watched.paths, totals.removed, totals.held) == (sorted(all_names + new), 0, 2)

    # It is back with one file less, the only one that is certainly gone.
    (away / "20.png").unlink()
    totals = watched(nothing, nothing, nothing, lambda: away.rename(part), nothing, nothing, delete=True)
    assert watched.events[-2:] == [("back", "21.png"), ("removed", "20.png")]
    assert ("added", "21.png") not in watched.events
    assert watched.paths == sorted(["10.png", "11.png", "21.png", *new])
    assert (totals.removed, totals.held, totals.held_reason) == (1, 0, None)
    watched(delete=True)
    assert watched.events == []


def test_held_videos_are_removed_when_a_larger_share_is_allowed(watched: Watched, folder: Path) -> None:
    film_folder(folder / "a", 2, 10)
    part = film_folder(folder / "b", 2, 20)
    watched(nothing, nothing, lambda: shutil.rmtree(part), nothing, delete=True)
    assert watched.events[-1] == ("held", "folder")
    totals = watched(delete=True, max_delete=0.4)
    assert (watched.events[-1], totals.held) == (("held", "folder"), 2)
    totals = watched(delete=True, max_delete=0.5)
    assert (watched.paths, totals.removed, totals.held) == (["10.png", "11.png"], 2, 0)


def test_without_deletion_nothing_is_held(watched: Watched, folder: Path) -> None:
    film_folder(folder / "a", 2, 10)
    part = film_folder(folder / "b", 2, 20)
    totals = watched(nothing, nothing, lambda: shutil.rmtree(part), nothing)
    assert watched.events[4:] == [("gone", "20.png"), ("gone", "21.png")]
    assert watched.reasons[4:] == ["the video stays in the collection; --watch-delete deletes it"] * 2
    assert (totals.gone, totals.remaining, totals.held) == (2, 2, 0)


def test_a_file_that_comes_back_no_longer_counts_as_gone(watched: Watched, folder: Path, tmp_path: Path) -> None:
    picture(folder / "10.png", 10)
    picture(folder / "11.png", 11)
    away = tmp_path / "away.png"
    totals = watched(
        nothing,
        nothing,
        lambda: (folder / "10.png").rename(away),
        nothing,
        lambda: away.rename(folder / "10.png"),
    )
    assert ("back", "10.png") in watched.events
    assert (totals.gone, totals.remaining) == (1, 0)


def test_a_renamed_subfolder_keeps_all_its_videos(watched: Watched, folder: Path) -> None:
    film_folder(folder / "a", 2, 10)
    part = film_folder(folder / "b", 2, 20)
    watched(nothing, nothing)
    ids = {Path(video.path).name: video.id for video in watched.collection.videos()}
    totals = watched(nothing, nothing, lambda: part.rename(folder / "c"), nothing, nothing, delete=True)
    assert "held" not in dict(watched.events)
    assert {Path(video.path).name: video.id for video in watched.collection.videos()} == ids  # not embedded again
    assert sorted(video.path for video in watched.collection.videos()) == [
        *(str(folder / "a" / f"{shade}.png") for shade in (10, 11)),
        *(str(folder / "c" / f"{shade}.png") for shade in (20, 21)),
    ]
    assert (totals.refreshed, totals.added, totals.removed, totals.held, totals.remaining) == (2, 0, 0, 0, 0)


def test_a_file_that_another_job_finds_elsewhere_keeps_its_video(
    watched: Watched, folder: Path, tmp_path: Path, small_model: Model
) -> None:
    picture(folder / "a.png", 10)
    picture(folder / "keep.png", 20)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def find() -> None:
        run_job(watched.collection, small_model, create_folder_job(watched.collection, elsewhere).id)

    steps = [lambda: (folder / "a.png").rename(elsewhere / "a.png"), find, nothing, nothing]
    totals = watched(nothing, nothing, *steps, delete=True, max_delete=1)
    assert (totals.gone, totals.removed) == (1, 0)
    assert sorted(video.path for video in watched.collection.videos()) == [
        str(elsewhere / "a.png"),
        str(folder / "keep.png"),
    ]


def test_files_that_swap_names_keep_their_videos(watched: Watched, folder: Path) -> None:
    first, second = padded(folder / "first.png", 1), padded(folder / "second.png", 2)
    watched()
    contents = {video.path: video.content_sha256 for video in watched.collection.videos()}
    first.rename(folder.parent / "third")
    second.rename(first)
    (folder.parent / "third").rename(second)
    watched(nothing, nothing, delete=True)
    swapped = {video.path: video.content_sha256 for video in watched.collection.videos()}
    assert swapped == {str(first): contents[str(second)], str(second): contents[str(first)]}


class Devices:
    """Device numbers of folders that are mount points."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, numbers: dict[Path, int]) -> None:
        self.numbers = numbers
        real = watched_folder._device

        def device(folder: str | Path) -> int:
            real(folder)  # raises where it is not there
            above = Path(folder)
            while above not in self.numbers:
                above = above.parent
            return self.numbers[above]

        monkeypatch.setattr(watched_folder, "_device", device)


@pytest.fixture
def devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Devices:
    """A folder with two files of its own, and two on a drive in it."""
    film_folder(folder / "own", 2, 10)
    film_folder(folder / "usb", 2, 20)
    return Devices(monkeypatch, {folder: 41, folder / "usb": 50})


def unplug(devices: Devices, folder: Path, away: Path, has_mount_point: bool) -> None:
    del devices.numbers[folder / "usb"]
    (folder / "usb").rename(away)
    if has_mount_point:
        (folder / "usb").mkdir()


def plug_in(devices: Devices, folder: Path, away: Path, number: int) -> None:
    if (folder / "usb").exists():
        (folder / "usb").rmdir()
    away.rename(folder / "usb")
    devices.numbers[folder / "usb"] = number


@pytest.mark.parametrize("has_mount_point", [True, False])
def test_an_unplugged_drive_loses_no_video(
    watched: Watched, folder: Path, devices: Devices, has_mount_point: bool
) -> None:
    away = folder.parent / "away"
    totals = watched(
        nothing,
        nothing,
        lambda: unplug(devices, folder, away, has_mount_point),
        (folder / "own" / "10.png").unlink,
        nothing,
        nothing,
        lambda: plug_in(devices, folder, away, 51),  # with another number
        (folder / "usb" / "20.png").unlink,
        delete=True,
        max_delete=1.0,
    )
    assert watched.events[4:] == [
        ("unavailable", "usb"),
        ("gone", "10.png"),
        ("removed", "10.png"),
        ("back", "usb"),
        ("gone", "20.png"),
        ("removed", "20.png"),
    ]
    assert watched.reasons[4] == "its file system is not mounted, or another one is mounted there"
    assert (watched.paths, totals.unavailable) == (["11.png", "21.png"], {})


@pytest.mark.parametrize("has_mount_point", [True, False])
def test_a_drive_that_is_unplugged_before_the_first_watch_loses_no_video(
    watched: Watched, folder: Path, devices: Devices, small_model: Model, has_mount_point: bool
) -> None:
    run_job(watched.collection, small_model, create_folder_job(watched.collection, folder).id)
    unplug(devices, folder, folder.parent / "away", has_mount_point)
    (folder / "own" / "10.png").unlink()
    watched(delete=True, max_delete=1.0)
    assert watched.events[:2] == [("unavailable", "usb"), ("gone", "10.png")]
    assert watched.paths == ["11.png", "20.png", "21.png"]


def test_a_drive_is_recognised_after_a_restart_by_its_files(watched: Watched, folder: Path, devices: Devices) -> None:
    """Device numbers change when a machine restarts."""
    away = folder.parent / "away"
    watched(delete=True)
    unplug(devices, folder, away, has_mount_point=True)
    devices.numbers[folder] = 50  # which the drive had
    (folder / "own" / "10.png").unlink()
    totals = watched(delete=True, max_delete=1.0)
    assert watched.events == [("unavailable", "usb"), ("gone", "10.png"), ("removed", "10.png")]
    assert list(totals.unavailable) == [str(folder / "usb")]
    plug_in(devices, folder, away, 41)
    (folder / "usb" / "20.png").unlink()
    watched(delete=True, max_delete=1.0)
    assert watched.events == [("gone", "20.png"), ("removed", "20.png")]
    assert watched.paths == ["11.png", "21.png"]


def test_another_drive_with_files_of_the_same_names_removes_nothing(
    watched: Watched, folder: Path, devices: Devices
) -> None:
    away = folder.parent / "away"
    watched(delete=True)

    def exchange() -> None:
        unplug(devices, folder, away, has_mount_point=False)
        film_folder(folder / "usb", 1, 20)
        picture(folder / "usb" / "20.png", 99)
        devices.numbers[folder / "usb"] = 52

    totals = watched(nothing, exchange, nothing, nothing, delete=True, max_delete=1.0)
    assert watched.events == [("unavailable", "usb"), ("added", "20.png"), ("replaced", "20.png")]
    assert (watched.paths, totals.removed, totals.held) == (["10.png", "11.png", "20.png", "20.png", "21.png"], 0, 1)


def test_files_are_recognised_by_content_where_inodes_change(
    watched: Watched, folder: Path, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT assigns new inode numbers at every mount."""
    watched(delete=True)
    real = watched_folder._facts
    monkeypatch.setattr(watched_folder, "_facts", lambda path: f"again:{real(path)}")
    devices.numbers = {folder: 61, folder / "usb": 62}
    (folder / "usb" / "20.png").unlink()
    watched(nothing, nothing, delete=True)
    assert sorted(watched.events[1:4]) == [("skipped", "10.png"), ("skipped", "11.png"), ("skipped", "21.png")]
    assert [watched.events[0], *watched.events[4:]] == [
        ("unavailable", "usb"),
        ("back", "usb"),
        ("gone", "20.png"),
        ("removed", "20.png"),
    ]


def test_a_folder_mounted_after_the_start_is_watched(watched: Watched, folder: Path, devices: Devices) -> None:
    watched(delete=True)
    away = folder.parent / "away"
    folder.rename(away)
    folder.mkdir()
    devices.numbers = {folder: 1}

    def mount() -> None:
        folder.rmdir()
        away.rename(folder)
        devices.numbers = {folder: 77, folder / "usb": 78}

    watched(nothing, mount, lambda: picture(folder / "own" / "new.png", 7), nothing, nothing, delete=True)
    assert watched.events == [("unavailable", "folder"), ("back", "folder"), ("added", "new.png")]
    assert watched.paths == ["10.png", "11.png", "20.png", "21.png", "new.png"]


def test_a_subfolder_that_cannot_be_listed_loses_no_video(
    watched: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film_folder(folder / "a", 8, 10)
    part = film_folder(folder / "b", 1, 20)
    open_folder = source_items.open_folder_beneath
    broken = False

    def open_unless_broken(top: int, inner: PurePath) -> int:
        if broken and inner == part.relative_to(folder):
            raise OSError(5, "Input/output error")
        return open_folder(top, inner)

    def disturb(is_broken: bool) -> None:
        nonlocal broken
        broken = is_broken

    monkeypatch.setattr(source_items, "open_folder_beneath", open_unless_broken)
    watched(nothing, nothing, lambda: disturb(True), nothing, nothing, lambda: disturb(False), delete=True)
    assert watched.events[9:] == [("unavailable", "b"), ("back", "b")]
    assert watched.reasons[9] == "cannot be listed: Input/output error"
    assert len(watched.paths) == 9


def test_a_subfolder_deleted_while_it_is_listed_counts_as_gone(
    watched: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film_folder(folder / "a", 8, 10)
    part = film_folder(folder / "b", 1, 20)
    open_folder = source_items.open_folder_beneath

    def open_late(top: int, inner: PurePath) -> int:
        if inner == part.relative_to(folder) and part.exists():
            part.rename(folder.parent / "away")
        return open_folder(top, inner)

    watched(nothing, nothing, lambda: monkeypatch.setattr(source_items, "open_folder_beneath", open_late), nothing)
    assert watched.events[9:] == [("gone", "20.png")]


def test_subfolders_of_a_flat_source_do_not_count(watched: Watched, folder: Path) -> None:
    film_folder(folder / "below", 4, 10)
    for shade in (1, 2, 3, 4):
        picture(folder / f"{shade}.png", shade)
    watched()
    shutil.rmtree(folder / "below")
    totals = watched(nothing, (folder / "1.png").unlink, nothing, delete=True, recursive=False)
    assert watched.events == [("gone", "1.png"), ("removed", "1.png")]
    (folder / "2.png").unlink()
    (folder / "3.png").unlink()
    totals = watched(delete=True, recursive=False, max_delete=0.5)
    assert totals.held == 2  # of three


def test_a_replaced_video_is_removed_after_a_restart(
    watched: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded(folder / "a.png", 1)
    watched()
    padded(folder / "a.png", 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("index.jobs.watched_folder.LostVideos.delete", interrupt)
        watched(delete=True)
    assert watched.events == [("added", "a.png"), ("replaced", "a.png")]
    watched(delete=True)
    assert watched.events == [("skipped", "a.png"), ("replaced", "a.png"), ("removed", "a.png")]
    assert watched.paths == ["a.png"]


def test_a_video_deleted_by_other_means_is_no_longer_held(watched: Watched, folder: Path) -> None:
    film_folder(folder / "a", 2, 10)
    part = film_folder(folder / "b", 2, 20)

    def delete_by_hand() -> None:
        for video in watched.collection.videos():
            if Path(video.path).is_relative_to(part):
                watched.collection.delete_video(video.id)

    watched()
    shutil.rmtree(part)
    totals = watched(nothing, nothing, nothing, delete_by_hand, nothing, delete=True)
    assert watched.events == [("gone", "20.png"), ("gone", "21.png"), ("held", "folder")]
    assert (totals.held, totals.held_reason, totals.removed) == (0, None, 0)


# Command


def test_ctrl_c_ends_the_command_in_order(tmp_path: Path, folder: Path, small_bundle: Path) -> None:
    picture(folder / "a.png", 1)
    with command(folder, tmp_path / "data", small_bundle, "--json") as process:
        assert process.stdout is not None
        assert '"event": "added"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert '"added": 1' in rest


def test_the_command_tells_what_remains_of_deleted_files(tmp_path: Path, folder: Path, small_bundle: Path) -> None:
    picture(folder / "10.png", 10)
    picture(folder / "11.png", 11)
    with command(folder, tmp_path / "data", small_bundle) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline().startswith("added  ")
        (folder / "10.png").unlink()
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert line == f"gone  {folder / '10.png'}: the video stays in the collection; --watch-delete deletes it\n"
    assert "files gone or replaced: 1; videos deleted: 0, still in the collection: 1 (--watch-delete" in rest
    assert (process.returncode, errors) == (0, "")


def test_the_command_reports_held_videos(tmp_path: Path, folder: Path, small_bundle: Path) -> None:
    film_folder(folder / "a", 2, 10)
    part = film_folder(folder / "b", 2, 20)
    with command(folder, tmp_path / "data", small_bundle, "--watch-delete", "--max-delete", "0.3") as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline().startswith("added  ")
        part.rename(tmp_path / "away")  # both at once
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert [line.split()[0] for line in lines] == ["gone", "gone", "held"], lines
    assert "2 of 4 videos have lost their file, which is more than the share of 0.3" in lines[2]
    assert "4 added, 0 skipped" in rest
    assert "2 not deleted: 2 of 4 videos have lost their file" in rest
    assert (process.returncode, errors) == (3, "")
