"""Atomic replacement of files and folders, and locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitascope.durable_files import atomic_path, link_or_copy, make_folders
from vitascope.file_lock import file_lock

HOLD_LOCK = """
import sys, time
from pathlib import Path
from vitascope.file_lock import file_lock
with file_lock(Path(sys.argv[1])) as is_held:
    print(is_held, flush=True)
    time.sleep(600)
"""


def write_then_fail(path: Path) -> None:
    with atomic_path(path) as temp_path:
        temp_path.write_text("new")
        raise ValueError


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as temp_path:
        temp_path.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "\N{CLAPPER BOARD}" * 63])
def test_a_file_may_have_the_longest_name_that_the_file_system_allows(name: str, tmp_path: Path) -> None:
    with atomic_path(tmp_path / name) as temp_path:
        temp_path.write_text("new")
        temp_path.with_name(f"{temp_path.name}-journal").touch()
    assert os.listdir(tmp_path) == [name]


def test_a_link_stays_and_its_target_is_replaced_or_created(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "folder" / "target"
    target.parent.mkdir()
    link.symlink_to(Path("folder", "target"))
    for content in ("first", "second"):
        with atomic_path(link) as temp_path:
            temp_path.write_text(content)
        assert (link.is_symlink(), target.read_text()) == (True, content)
    assert os.listdir(target.parent) == ["target"]


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    for path in (pipe, link):
        with pytest.raises(FileExistsError, match="not a regular file"), atomic_path(path):
            pytest.fail("nothing is written")
    assert pipe.is_fifo()
    assert link.is_char_device()


def test_after_an_exception_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError):  # noqa: PT011
        write_then_fail(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "folder") as temp_path:
        (temp_path / "inner").mkdir(parents=True)
        (temp_path / "inner" / "file").write_text("content")
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "content"


def test_old_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, fresh = (tmp_path / f".file-{digit * 32}" for digit in "ab")
    others = tmp_path / ".file-original"
    for leftover in (old, fresh, others):
        leftover.write_text("partial")
    for leftover in (old, others):
        os.utime(leftover, (time.time() - 7200,) * 2)
    with atomic_path(tmp_path / "file") as temp_path:
        temp_path.write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", fresh.name, others.name])


def test_a_link_replaces_an_existing_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("source")
    target.write_text("target")
    for _ in range(2):
        link_or_copy(source, target)
        assert os.path.samefile(source, target)


def test_the_number_of_created_parent_folders_is_limited(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_folders(tmp_path / "a" / "b", levels=1)
    make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_lock_excludes_other_holders_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path) as first:
        with file_lock(path) as second:
            assert (first, second) == (True, False)
        attempts = iter([False, False, True])
        with file_lock(path, lambda: next(attempts), poll_seconds=0.0) as third:
            assert not third
        assert next(attempts, None) is None
    with file_lock(path) as again:
        assert again


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with file_lock(path) as is_held:
            assert not is_held
        process.kill()
        process.wait()
        with file_lock(path) as is_held:
            assert is_held
