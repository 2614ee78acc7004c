"""What is opened beneath a folder lies there, whatever links are put on the way to it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import rounds
from tests.descriptors import open_below
from tests.exchanging import exchanging
from vitascope.errors import MediaError
from vitascope.media import file as file_module
from vitascope.media.file import (
    PathOutsideRoot,
    open_beneath,
    open_folder_beneath,
    open_folder_inside,
    open_inside,
)

SECRET, OWN = b"secret", b"own"


@pytest.fixture(params=["openat2", "stepwise"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way to open; the second is that of kernels without the call."""
    if request.param == "stepwise":
        monkeypatch.setattr(file_module, "_has_openat2", lambda: False)
    elif not file_module._has_openat2():
        pytest.skip("this kernel has no openat2, or a filter refuses it")
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, way: str) -> Path:
    """films/deep/own.mp4, and secret.mp4 beside films."""
    (tmp_path / "films" / "deep").mkdir(parents=True)
    (tmp_path / "films" / "deep" / "own.mp4").write_bytes(OWN)
    (tmp_path / "secret.mp4").write_bytes(SECRET)
    return tmp_path / "films"


def content(path: Path, root: Path) -> bytes:
    with open_inside(path, [root]) as file:
        return file.reader().read()


def test_a_file_beneath_is_opened_by_path_and_by_descriptor_of_the_folder(root: Path) -> None:
    folder = open_folder_beneath(root, "deep")
    for descriptor in (open_beneath(root, "deep/own.mp4"), open_beneath(folder, Path("own.mp4"))):
        assert os.read(descriptor, 100) == OWN
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    assert os.listdir(folder) == ["own.mp4"]
    os.close(folder)
    own = open_folder_beneath(root, "")
    assert os.listdir(own) == ["deep"]
    os.close(own)


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("out.mp4", "../secret.mp4", "out.mp4"),
        ("out", "..", "out/secret.mp4"),
        ("deep/up", "../..", "deep/up/secret.mp4"),
        ("within.mp4", "deep/own.mp4", "within.mp4"),
        ("within", "deep", "within/own.mp4"),
        ("circle.mp4", "circle.mp4", "circle.mp4"),
        ("fd", "/proc/self/root", "fd/etc/hostname"),
    ],
)
def test_no_link_is_followed_on_the_way_or_at_the_end(root: Path, link: str, target: str, path: str) -> None:
    (root / link).symlink_to(target)
    with pytest.raises(PathOutsideRoot):
        open_beneath(root, path)
    with pytest.raises(PathOutsideRoot):
        open_folder_beneath(root, link)


@pytest.mark.parametrize("path", ["../secret.mp4", "deep/../../secret.mp4", "/etc/hostname"])
def test_a_path_that_leads_up_or_begins_at_the_top_leads_outside(root: Path, path: str) -> None:
    with pytest.raises(PathOutsideRoot):
        open_beneath(root, path)


def test_what_is_not_there_is_not_said_to_lead_outside(root: Path) -> None:
    for path in ("none.mp4", "none/own.mp4"):
        with pytest.raises(FileNotFoundError):
            open_beneath(root, path)
    with pytest.raises(NotADirectoryError):
        open_beneath(root, "deep/own.mp4/more")
    with pytest.raises(NotADirectoryError):
        open_folder_beneath(root, "deep/own.mp4")
    with pytest.raises(ValueError, match="null"):
        open_beneath(root, "deep/own.mp4\0.png")


def test_folders_and_pipes_are_no_media_and_are_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe.mp4")
    for name in ("deep", "pipe.mp4"):
        with pytest.raises(MediaError, match=f"{name}: no such file; a readable file was expected"):
            content(root / name, root)


def test_links_count_by_where_they_lead_when_they_are_opened(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(root)
    (root / "within.mp4").symlink_to("deep/own.mp4")
    for path in (root / "within.mp4", tmp_path / "linked" / "deep" / "own.mp4"):
        for allowed in (root, tmp_path / "linked"):
            assert content(path, allowed) == OWN
    folder = open_folder_inside(tmp_path / "linked" / "deep", [root])
    assert os.listdir(folder) == ["own.mp4"]
    os.close(folder)
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "circle.mp4").symlink_to("circle.mp4")
    for path in (root / "out.mp4", root / "circle.mp4", tmp_path / "secret.mp4", root / ".." / "secret.mp4"):
        with pytest.raises(PathOutsideRoot):
            content(path, root)


def swap_a_file(root: Path) -> tuple[Path, Path]:
    link = root / "link.mp4"
    link.symlink_to(root.parent / "secret.mp4")
    return root / "deep" / "own.mp4", link


def swap_a_folder(root: Path) -> tuple[Path, Path]:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "own.mp4").write_bytes(SECRET)
    link = root / "link"
    link.symlink_to(outside)
    return root / "deep", link


@pytest.mark.parametrize("swap", [swap_a_file, swap_a_folder])
def test_no_exchange_while_a_file_is_opened_leads_out(root: Path, swap: Callable[[Path], tuple[Path, Path]]) -> None:
    outcomes = {"own": 0, "refused": 0}
    with exchanging(*swap(root)):
        for number in itertools.count():
            if number >= rounds(300, 50_000) and all(outcomes.values()):
                break
            try:
                found = content(root / "deep" / "own.mp4", root)
            except (OSError, MediaError):
                outcomes["refused"] += 1
            else:
                assert found == OWN
                outcomes["own"] += 1


def test_no_descriptor_is_left_behind(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path)
    for path in ("deep/own.mp4", "none/own.mp4", "deep/own.mp4/more", "deep/none", "out/secret.mp4"):
        try:
            os.close(open_beneath(root, path))
        except OSError:
            continue
    with pytest.raises(MediaError):
        content(root / "deep", root)
    assert open_below(tmp_path) == []
