"""Every container that the documentation lists is recognised by its content and decoded at exact times."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.media_files import read_counter
from tests.media_formats import ANIMATION_COUNT, COUNT, STILL, VIDEOS, write_format
from vitascope.errors import InvalidInput, MediaError, MediaUnsupported
from vitascope.media import image
from vitascope.media.decode import probe, read_frames
from vitascope.media.formats import media_type
from vitascope.media.limits import CONTAINERS, MediaLimits, read_media_limits


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_of_each_container_is_decoded_at_exact_times(tmp_path: Path, name: str) -> None:
    path = write_format(tmp_path / name)
    info = probe(path)
    assert (info.kind, info.container) == ("video", VIDEOS[name].container)
    assert info.duration == pytest.approx(COUNT / 25, abs=0.1)
    numbers = [0, 1, 7, 30, 31, 55, 12]
    decoded = read_frames(path, [(number + 0.5) / 25 for number in numbers])
    assert [read_counter(frame) for frame in decoded] == numbers
    assert media_type(name) != "application/octet-stream"


def test_every_container_is_tested() -> None:
    pictures, sounds = {"png", "jpeg", "gif", "webp", "avif", "heif"}, {"wav", "mp3", "flac", "aac", "aiff"}
    assert {video.container for video in VIDEOS.values()} | pictures | sounds == CONTAINERS  # sounds: test_audio.py


@pytest.mark.parametrize(("name", "container"), [("a.avif", "avif"), ("a.heic", "heif")])
def test_a_picture_of_a_phone_is_decoded(tmp_path: Path, name: str, container: str) -> None:
    path = write_format(tmp_path / name)
    info = probe(path)
    assert (info.kind, info.container, info.width, info.height) == ("picture", container, 160, 64)
    assert read_counter(read_frames(path, [0.0])[0]) == STILL
    assert media_type(name).startswith("image/")


@pytest.mark.parametrize(("name", "kind"), [("saved.jfif", "image/jpeg"), ("GX010001.LRV", "video/mp4")])
def test_other_usual_names_have_the_media_type_of_their_content(name: str, kind: str) -> None:
    assert media_type(name) == kind


def test_an_animated_avif_is_decoded_at_exact_times(tmp_path: Path) -> None:
    path = write_format(tmp_path / "animated.avif")
    info = probe(path)
    assert (info.kind, info.container, info.frame_count) == ("video", "avif", ANIMATION_COUNT)
    assert info.duration == pytest.approx(ANIMATION_COUNT / 10, abs=0.01)
    assert [read_counter(frame) for frame in read_frames(path, [0.05, 0.75])] == [0, 7]


def test_a_huge_declared_size_of_the_first_box_takes_no_time(tmp_path: Path) -> None:
    path = write_format(tmp_path / "a.avif")
    path.write_bytes(b"\xff\xff\xff\xff" + path.read_bytes()[4:])
    began = time.process_time()
    with pytest.raises(MediaError):
        probe(path)
    assert time.process_time() - began < 5


def test_a_heic_picture_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "has_heif", lambda: False)
    with pytest.raises(MediaUnsupported, match=r"pip install 'vitascope\[heic\]'"):
        probe(write_format(tmp_path / "a.heic"))


def test_limits_are_read_from_the_environment() -> None:
    environment = {"VITASCOPE_MAX_VIDEO_BYTES": "10", "VITASCOPE_MAX_VIDEO_SECONDS": "1.5", "VITASCOPE_MAX_PIXELS": ""}
    assert read_media_limits(environment) == MediaLimits(max_bytes=10, max_seconds=1.5)
    for value in ("0", "-1", "many", "inf", "nan"):
        with pytest.raises(InvalidInput, match="VITASCOPE_MAX_VIDEO_SECONDS"):
            read_media_limits({"VITASCOPE_MAX_VIDEO_SECONDS": value})
