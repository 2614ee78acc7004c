"""Damaged, disguised and oversized files raise precise media errors and nothing else."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media_files import (
    counter_frame,
    read_counter,
    solid,
    write_animation,
    write_counter_video,
    write_picture,
    write_png_header,
    write_truncated,
    write_video,
    write_without_frames,
)
from tests.media_formats import write_format
from vitascope.errors import MediaCorrupt, MediaError, MediaTooLarge, MediaUnsupported
from vitascope.media.decode import probe, read_frames
from vitascope.media.limits import MediaLimits


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    return path


def _short_header(path: Path) -> Path:
    return write_truncated(write_counter_video(path.with_name("whole.mp4"), 20), path, 0.02)


def _too_many_pixels(path: Path) -> Path:
    return write_video(path, [solid((9, 9, 9), 8192, 6160)], codec="mjpeg", pix_fmt="yuvj420p")


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile '/etc/hostname'\n"
Case = tuple[Callable[[Path], Path], type[MediaError], str]
BAD: dict[str, Case] = {
    "empty.mp4": (lambda p: _bytes(p, b""), MediaCorrupt, r"empty \(0 bytes\)"),
    "header-only.mp4": (_short_header, MediaCorrupt, "truncated by [0-9]+ bytes"),
    "no-frames.mp4": (write_without_frames, MediaCorrupt, "without any stream"),
    "no-frames.mkv": (write_without_frames, MediaCorrupt, "cannot be opened"),
    "no-frames.avi": (write_without_frames, MediaCorrupt, "not a single frame"),
    "text.mp4": (lambda p: _bytes(p, b"not a video\n" * 50), MediaUnsupported, "the content is text"),
    "archive.mp4": (_zip, MediaUnsupported, "a ZIP archive"),
    "playlist.mp4": (lambda p: _bytes(p, PLAYLIST), MediaUnsupported, "the content is text"),
    "concat.mp4": (lambda p: _bytes(p, CONCAT), MediaUnsupported, "the content is text"),
    "noise.webm": (lambda p: _bytes(p, random.Random(0).randbytes(4000)), MediaUnsupported, "no known kind"),
    "dot.png": (lambda p: write_picture(p, solid((1, 2, 3), 1, 1)), MediaError, "1x1 pixels; at least 8"),
    "strip.png": (lambda p: write_picture(p, solid((1, 2, 3), 400, 2)), MediaError, "at least 8"),
    "large.mp4": (_too_many_pixels, MediaTooLarge, "8192x6160 pixels; at most 50331648"),
    "bomb.png": (
        lambda p: write_png_header(p, 14000, 14000),
        MediaTooLarge,
        "196000000 pixels; at most 50331648 pixels",
    ),
    "large.png": (lambda p: write_png_header(p, 8000, 8000), MediaTooLarge, "8000x8000"),
    "hollow.png": (lambda p: write_png_header(p, 64, 64), MediaCorrupt, "cannot be decoded"),
    "absent.mp4": (lambda p: p, MediaError, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_names_the_file_and_the_reason(name: str, tmp_path: Path) -> None:
    write, error, reason = BAD[name]
    path = write(tmp_path / name)
    for operation in (probe, lambda p: read_frames(p, [0.0])):
        with pytest.raises(error, match=reason) as caught:
            operation(path)
        assert type(caught.value) is error
        assert name in str(caught.value)


def test_files_are_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    video = write_counter_video(tmp_path / "a.mp4", 5).rename(tmp_path / "a.png")
    picture = write_picture(tmp_path / "b.png", counter_frame(6)).rename(tmp_path / "b.mp4")
    animation = write_animation(tmp_path / "c.gif", [counter_frame(1), counter_frame(2)], [50, 50])
    assert probe(video).kind == "video"
    assert probe(picture).kind == "picture"
    assert probe(animation.rename(tmp_path / "c.txt")).kind == "animation"
    assert read_counter(read_frames(tmp_path / "b.mp4", [0.0])[0]) == 6


def test_a_transport_stream_may_begin_within_a_packet(tmp_path: Path) -> None:
    whole = write_counter_video(tmp_path / "whole.ts", 100, gop=10).read_bytes()
    path = _bytes(tmp_path / "cut.ts", whole[len(whole) // 2 // 188 * 188 + 77 :])
    assert probe(path).container == "mpegts"
    assert read_counter(read_frames(path, [99.0])[0]) == 99


def test_names_have_no_special_meaning(tmp_path: Path) -> None:
    for name in ("concat:a|b.mp4", "http:x.mp4", "-i.mp4", "a b%03d.mp4", "ümlaut 视频.mp4"):
        path = write_counter_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
        assert read_counter(read_frames(path, [0.05])[0]) == 1


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9")])
def test_a_truncated_video_has_no_frames_after_its_end(suffix: str, codec: str, tmp_path: Path) -> None:
    front = {"movflags": "faststart"} if suffix == ".mp4" else {}
    noise = np.random.default_rng(0).integers(0, 255, (64, 160, 3), np.uint8)
    frames = [np.maximum(counter_frame(k), np.roll(noise, k, 1) // 4) for k in range(250)]
    whole = write_video(tmp_path / f"whole{suffix}", frames, codec=codec, gop=25, muxer_options=front)
    half = write_truncated(whole, tmp_path / f"half{suffix}", 0.5)
    assert read_counter(read_frames(half, [1.02])[0]) == 25
    with pytest.raises(MediaCorrupt, match=r"[0-9.]+ seconds can be decoded of the 10\.00 seconds"):
        read_frames(half, [9.5])
    nearly = write_truncated(whole, tmp_path / f"nearly{suffix}", 0.97)
    assert read_counter(read_frames(nearly, [9.99])[0]) > 225


def test_a_damaged_end_is_not_replaced_by_the_last_frame(tmp_path: Path) -> None:
    whole = write_counter_video(tmp_path / "whole.mp4", 250, gop=25, muxer_options={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    damaged = _bytes(tmp_path / "damaged.mp4", bytes(data))
    assert read_counter(read_frames(damaged, [0.5])[0]) == 12
    with pytest.raises(MediaCorrupt, match="the rest is damaged"):
        read_frames(damaged, [9.5])


def test_frames_after_a_damaged_part_are_decoded(tmp_path: Path) -> None:
    whole = write_counter_video(tmp_path / "whole.mp4", 250, gop=25, muxer_options={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    damaged = _bytes(tmp_path / "damaged.mp4", bytes(data))
    frames = read_frames(damaged, [0.02, 9.9])
    assert [read_counter(frame) for frame in frames] == [0, 247]


def test_a_damaged_frame_is_replaced_by_the_previous(tmp_path: Path) -> None:
    whole = write_counter_video(tmp_path / "whole.mkv", 100, gop=50, codec="mpeg4", b_frames=0)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packet = list(container.demux(video=0))[60]
        offset = data.find(bytes(packet))
        data[offset : offset + packet.size] = bytes(packet.size)
    damaged = _bytes(tmp_path / "damaged.mkv", bytes(data))
    assert [read_counter(frame) for frame in read_frames(damaged, [0.42, 2.42])] == [10, 59]
    assert [read_counter(frame) for frame in read_frames(damaged, [2.42, 2.62])] == [59, 65]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_truncated_animations(suffix: str, tmp_path: Path) -> None:
    frames = [counter_frame(number) for number in range(40)]
    whole = write_animation(tmp_path / f"whole{suffix}", frames, [50] * 40)
    if suffix != ".gif":  # a GIF does not state its number of frames
        with pytest.raises(MediaCorrupt, match="truncated"):
            probe(write_truncated(whole, tmp_path / f"half{suffix}", 0.5))
    if suffix != ".webp":  # a WebP decodes only as a whole
        last = read_frames(write_truncated(whole, tmp_path / f"nearly{suffix}", 0.97), [1.99])[0]
        assert read_counter(last) >= 36


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (MediaLimits(max_bytes=100), r"at most 100 bytes are read \(VITASCOPE_MAX_VIDEO_BYTES\)"),
        (MediaLimits(max_seconds=1.5), r"at most 1.5 seconds are read \(VITASCOPE_MAX_VIDEO_SECONDS\)"),
        (MediaLimits(max_frames=10), r"at most 10 frames are read \(VITASCOPE_MAX_VIDEO_FRAMES\)"),
        (MediaLimits(max_pixels=5000), "160x64 pixels; at most 5000"),
    ],
)
def test_the_error_names_the_limit(limits: MediaLimits, reason: str, tmp_path: Path) -> None:
    video = write_counter_video(tmp_path / "v.mp4", 50)
    animation = write_animation(tmp_path / "a.gif", [counter_frame(k) for k in range(20)], [100] * 20)
    for path in (video, animation):
        for operation in (lambda p: probe(p, limits), lambda p: read_frames(p, [0.0], limits)):
            with pytest.raises(MediaTooLarge, match=reason):
                operation(path)


def test_the_limit_of_pixels_can_be_raised(tmp_path: Path) -> None:
    with pytest.raises(MediaCorrupt, match="truncated"):  # it has no pixels
        probe(write_png_header(tmp_path / "large.png", 14000, 14000), MediaLimits(max_pixels=200_000_000))


def test_containers_and_codecs_can_be_restricted(tmp_path: Path) -> None:
    path = write_counter_video(tmp_path / "v.mp4", 3)
    with pytest.raises(MediaUnsupported, match="content is mp4; expected one of webp"):
        probe(path, MediaLimits(containers=frozenset({"webp"})))
    with pytest.raises(MediaUnsupported, match="codec is 'h264'; expected one of vp9"):
        probe(path, MediaLimits(codecs=frozenset({"vp9"})))


def test_mutated_files_raise_media_errors_or_decode(tmp_path: Path) -> None:
    frames = [counter_frame(number) for number in range(12)]
    sources = [
        write_counter_video(tmp_path / "v.mp4", 40, gop=10),
        write_counter_video(tmp_path / "v.mkv", 40, gop=10),
        write_counter_video(tmp_path / "v.webm", 40, codec="libvpx-vp9"),
        write_counter_video(tmp_path / "v.avi", 40, codec="mpeg4"),
        write_counter_video(tmp_path / "v.ts", 40, gop=10),
        *(write_animation(tmp_path / f"a{suffix}", frames, [50] * 12) for suffix in (".gif", ".webp", ".png")),
        write_picture(tmp_path / "p.jpg", frames[5]),
        *(write_format(tmp_path / name) for name in ("a.mxf", "a.wmv", "a.avif", "animated.avif", "a.heic")),
    ]
    errors = 0
    for seed in range(90):
        rng = random.Random(seed)
        data = bytearray(sources[seed % len(sources)].read_bytes())
        for _ in range(rng.choice([1, 4, 20])):
            data[rng.randrange(min(len(data), rng.choice([200, 10**6])))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path = _bytes(tmp_path / "mutated", bytes(data))
        try:
            info = probe(path)
            read_frames(path, [0.0, info.duration / 2, info.duration])
        except MediaError:
            errors += 1
    assert 10 < errors < 90
