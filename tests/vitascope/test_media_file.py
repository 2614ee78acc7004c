"""An open media file stays what it is, whatever becomes of its path."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.descriptors import open_below
from tests.media_files import cut, solid, write_animation, write_counter_video, write_picture
from tests.waiting import PATIENCE
from vitascope.errors import MediaError
from vitascope.media.decode import all_frames
from vitascope.media.file import MediaFile, open_source
from vitascope.sandbox.decoder import IN_PROCESS


@pytest.mark.parametrize("name", ["film.mp4", "film.ts", "moving.gif", "still.png"])
def test_what_is_decoded_is_the_file_that_was_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("film"):
        write_counter_video(path, 30)
    elif name == "moving.gif":
        write_animation(path, [solid((number * 50, 0, 0)) for number in range(4)], [100] * 4)
    else:
        write_picture(path, solid((200, 10, 10)))
    info, picture = IN_PROCESS.probe(path), IN_PROCESS.thumbnail(path, 0.2)
    with MediaFile.open(path) as file:
        path.unlink()
        path.write_bytes(b"something else")
        assert IN_PROCESS.probe(file) == info
        assert IN_PROCESS.thumbnail(file, 0.2) == picture
        assert len(list(all_frames(file))) == (info.frame_count or 30)


def test_threads_read_one_file_each_at_its_own_place(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "film.mp4", 60, gop=10)
    seconds = [number * 0.2 for number in range(10)]
    pictures = [IN_PROCESS.thumbnail(path, second) for second in seconds]
    with MediaFile.open(path) as file, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda second: IN_PROCESS.thumbnail(file, second), seconds * 4)) == pictures * 4


def test_a_file_is_closed_when_its_last_user_is_done(tmp_path: Path) -> None:
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


def test_nothing_is_left_open_by_what_fails_or_is_not_finished(tmp_path: Path) -> None:
    film = write_counter_video(tmp_path / "film.mp4", 60)
    broken = cut(film, tmp_path / "broken.mp4", 0.3)
    for path in (tmp_path / "none.mp4", tmp_path, broken):
        with pytest.raises(MediaError):
            IN_PROCESS.probe(path)
    frames = all_frames(film)
    next(frames)
    frames.close()
    assert open_below(tmp_path) == []
