"""Listing of folders."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest

from index.jobs.sources import iterate_source
from index.jobs.sources.iterate_source import list_folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root: Path, recursive: bool = True) -> dict[str, str]:
    """Relative path to "state: reason"."""
    return {
        os.path.relpath(item.uri, root): f"{item.state}: {item.reason}" if item.reason else item.state
        for item in list_folder(root, recursive)
    }


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.mp4", "a/b/c.mp4", "A.mp4", "a.mp4", "ä.mp4")
    assert list(listed(tmp_path)) == ["A.mp4", "a/b/c.mp4", "a/z.mp4", "a.mp4", "b.mp4", "ä.mp4"]
    assert list(listed(tmp_path, recursive=False)) == ["A.mp4", "a.mp4", "b.mp4", "ä.mp4"]


def test_files_with_non_media_suffixes_are_skipped_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.srt", "notes.TXT", "no-ending", "b.unknown", ".DS_Store", ".git/x.mp4")
    assert listed(tmp_path) == {
        "a.mp4": "queued",
        "a.srt": "skipped: not a media file (.srt)",
        "notes.TXT": "skipped: not a media file (.txt)",
        "no-ending": "queued",
        "b.unknown": "queued",
        ".DS_Store": "skipped: hidden file",
    }


def test_links_do_not_lead_out_of_the_folder_or_in_circles(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    touch(inside, "a.mp4", "deep/b.mp4")
    touch(outside, "secret.mp4")
    (inside / "same.mp4").symlink_to(inside / "deep" / "b.mp4")
    (inside / "out.mp4").symlink_to(outside / "secret.mp4")
    (inside / "dead.mp4").symlink_to(tmp_path / "nothing")
    (inside / "circle.mp4").symlink_to("circle.mp4")
    (inside / "deep" / "up").symlink_to(inside)
    (inside / "others").symlink_to(outside)
    assert listed(inside) == {
        "a.mp4": "queued",
        "circle.mp4": "failed: a symbolic link that leads nowhere",
        "dead.mp4": "failed: a symbolic link that leads nowhere",
        "deep/b.mp4": "queued",
        "out.mp4": "skipped: a symbolic link that leaves the folder",
        "same.mp4": "queued",
    }


def test_a_folder_that_is_itself_a_link_is_listed(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [item.uri for item in list_folder(tmp_path / "link")] == [str(tmp_path / "link" / "a.mp4")]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert listed(tmp_path) == {"pipe.mp4": "skipped: not a regular file"}


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    assert listed(tmp_path) == {"caf\\xe9.mp4": "failed: the file's name is not valid UTF-8; rename it"}


def test_an_unreadable_folder_is_listed_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "locked/b.mp4", "z.mp4")
    open_folder = iterate_source.open_folder_beneath

    def refusing(top: int, folder: PurePath) -> int:  # root, as tests in containers are, may read every folder
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return open_folder(top, folder)

    monkeypatch.setattr(iterate_source, "open_folder_beneath", refusing)
    assert listed(tmp_path) == {
        "a.mp4": "queued",
        "locked": "failed: cannot be listed: Permission denied",
        "z.mp4": "queued",
    }


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(list_folder(tmp_path / "nothing"))
