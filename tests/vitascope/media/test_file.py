"""Open files keep their content, and opening beneath a root follows no link."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos import rounds
from tests.file_system import exchanging, open_below
from tests.media_files import solid, write_animation, write_counter_video, write_picture, write_truncated
from tests.waiting import PATIENCE
from vitascope.errors import MediaError
from vitascope.media import file as file_module
from vitascope.media.decode import all_frames
from vitascope.media.file import (
    MediaFile,
    PathOutsideRoot,
    open_beneath,
    open_folder_beneath,
    open_folder_inside,
    open_inside,
    open_source,
)
from vitascope.sandbox.decoder import IN_PROCESS

SECRET, OWN = b"secret", b"own"


@pytest.fixture(params=["openat2", "stepwise"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations; the second is for kernels without openat2."""
    if request.param == "stepwise":
        monkeypatch.setattr(file_module, "_has_openat2", lambda: False)
    elif not file_module._has_openat2():
        pytest.skip("no openat2 in this kernel, or a filter refuses it")
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, implementation: str) -> Path:
    """The folder films, with deep/own.mp4; next to it secret.mp4."""
    (tmp_path / "films" / "deep").mkdir(parents=True)
    (tmp_path / "films" / "deep" / "own.mp4").write_bytes(OWN)
    (tmp_path / "secret.mp4").write_bytes(SECRET)
    return tmp_path / "films"


def content(path: Path, root: Path) -> bytes:
    with open_inside(path, [root]) as file:
        return file.reader().read()


def test_files_are_opened_by_the_path_or_the_descriptor_of_the_root(root: Path) -> None:
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
def test_no_link_is_followed(root: Path, link: str, target: str, path: str) -> None:
    (root / link).symlink_to(target)
    with pytest.raises(PathOutsideRoot):
        open_beneath(root, path)
    with pytest.raises(PathOutsideRoot):
        open_folder_beneath(root, link)


@pytest.mark.parametrize("path", ["../secret.mp4", "deep/../../secret.mp4", "/etc/hostname"])
def test_parent_folders_and_absolute_paths_are_rejected(root: Path, path: str) -> None:
    with pytest.raises(PathOutsideRoot):
        open_beneath(root, path)


def test_missing_files_raise_the_usual_errors(root: Path) -> None:
    for path in ("none.mp4", "none/own.mp4"):
        with pytest.raises(FileNotFoundError):
            open_beneath(root, path)
    with pytest.raises(NotADirectoryError):
        open_beneath(root, "deep/own.mp4/more")
    with pytest.raises(NotADirectoryError):
        open_folder_beneath(root, "deep/own.mp4")
    with pytest.raises(ValueError, match="null"):
        open_beneath(root, "deep/own.mp4\0.png")


def test_folders_and_pipes_are_rejected_without_waiting(root: Path) -> None:
    os.mkfifo(root / "pipe.mp4")
    for name in ("deep", "pipe.mp4"):
        with pytest.raises(MediaError, match=f"{name}: no such file; a readable file was expected"):
            content(root / name, root)


def test_a_path_of_the_user_that_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, name in ((tmp_path, tmp_path.name), (Path("."), r"\."), (tmp_path / "pipe.mp4", "pipe.mp4")):
        with pytest.raises(MediaError, match=f"^{name}: not a regular file; a readable file was expected"):
            MediaFile.open(path)


def test_links_may_lead_from_one_place_to_another_inside_the_root(root: Path, tmp_path: Path) -> None:
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


def file_and_link(root: Path) -> tuple[Path, Path]:
    link = root / "link.mp4"
    link.symlink_to(root.parent / "secret.mp4")
    return root / "deep" / "own.mp4", link


def folder_and_link(root: Path) -> tuple[Path, Path]:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "own.mp4").write_bytes(SECRET)
    link = root / "link"
    link.symlink_to(outside)
    return root / "deep", link


@pytest.mark.parametrize("pair", [file_and_link, folder_and_link])
def test_replacing_a_path_by_a_link_never_leads_outside(root: Path, pair: Callable[[Path], tuple[Path, Path]]) -> None:
    outcomes = {"own": 0, "rejected": 0}
    with exchanging(*pair(root)):
        for number in itertools.count():
            if number >= rounds(300, 50_000) and all(outcomes.values()):
                break
            try:
                data = content(root / "deep" / "own.mp4", root)
            except (OSError, MediaError):
                outcomes["rejected"] += 1
            else:
                assert data == OWN
                outcomes["own"] += 1


def test_opening_beneath_a_root_leaks_no_descriptor(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path)
    for path in ("deep/own.mp4", "none/own.mp4", "deep/own.mp4/more", "deep/none", "out/secret.mp4"):
        try:
            os.close(open_beneath(root, path))
        except OSError:
            continue
    with pytest.raises(MediaError):
        content(root / "deep", root)
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("name", ["film.mp4", "film.ts", "moving.gif", "still.png"])
def test_a_file_that_is_replaced_is_decoded_as_it_was_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("film"):
        write_counter_video(path, 30)
    elif name == "moving.gif":
        write_animation(path, [solid((number * 50, 0, 0)) for number in range(4)], [100] * 4)
    else:
        write_picture(path, solid((200, 10, 10)))
    info, thumbnail = IN_PROCESS.probe(path), IN_PROCESS.thumbnail(path, 0.2)
    with MediaFile.open(path) as file:
        path.unlink()
        path.write_bytes(b"replacement")
        assert IN_PROCESS.probe(file) == info
        assert IN_PROCESS.thumbnail(file, 0.2) == thumbnail
        assert len(list(all_frames(file))) == (info.frame_count or 30)


def test_threads_share_an_open_file(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "film.mp4", 60, gop=10)
    seconds = [number * 0.2 for number in range(10)]
    thumbnails = [IN_PROCESS.thumbnail(path, second) for second in seconds]
    with MediaFile.open(path) as file, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda second: IN_PROCESS.thumbnail(file, second), seconds * 4)) == thumbnails * 4


def test_a_file_is_closed_when_the_last_hold_ends(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", solid((1, 2, 3)))
    file = MediaFile.open(path)
    is_held, closed = threading.Event(), threading.Event()

    def read() -> bytes:
        with open_source(file) as held:
            is_held.set()
            closed.wait(PATIENCE)
            return held.reader().read()

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        assert is_held.wait(PATIENCE)
        file.close()
        closed.set()
        assert reading.result() == path.read_bytes()
    with pytest.raises(ValueError, match=r"a.png: the file is closed"):
        file.fileno()
    with pytest.raises(ValueError, match=r"a.png: the file is closed"), open_source(file):
        pass
    assert open_below(tmp_path) == []


def test_failed_and_unfinished_reads_leak_no_descriptor(tmp_path: Path) -> None:
    film = write_counter_video(tmp_path / "film.mp4", 60)
    broken = write_truncated(film, tmp_path / "broken.mp4", 0.3)
    for path in (tmp_path / "none.mp4", tmp_path, broken):
        with pytest.raises(MediaError):
            IN_PROCESS.probe(path)
    frames = all_frames(film)
    next(frames)
    frames.close()
    assert open_below(tmp_path) == []
