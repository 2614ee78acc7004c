"""Previews are small MP4 files of a span, with pictures and sound at their times."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.media_files import (
    click_times,
    click_train,
    counter_frame,
    read_counter,
    solid,
    write_animation,
    write_audio,
    write_color_video,
    write_picture,
    write_video,
)
from tests.media_formats import write_format
from vitascope.errors import InvalidInput
from vitascope.media.audio import read_audio
from vitascope.media.decode import probe, read_frames
from vitascope.media.file import MediaFile
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.media.preview import encode_preview

RATE = 16_000


def preview(path: Path, start: float, end: float, side: int = 640) -> Path:
    """Write the preview of a span beside the file."""
    target = path.with_suffix(".preview.mp4")
    with MediaFile.open(path) as file:
        target.write_bytes(encode_preview(file, start, end, side, DEFAULT_LIMITS))
    return target


@pytest.mark.parametrize("name", ["a.wmv", "a.mxf", "a.dv", "a.ts", "a.avi"])
def test_a_preview_has_the_frames_of_its_span(tmp_path: Path, name: str) -> None:
    path = preview(write_format(tmp_path / name), 1.0, 2.0, 320)
    info = probe(path)
    assert (info.container, info.codec, max(info.width, info.height) <= 320) == ("mp4", "h264", True)
    assert info.duration == pytest.approx(1.0, abs=0.05)
    assert [read_counter(frame) for frame in read_frames(path, [0.02, 0.5, 0.98])] == [25, 37, 49]


def test_a_preview_ends_with_its_video_and_is_upright(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", [solid((200, 0, 0), 96, 64)] * 25, rotation=90)
    info = probe(preview(video, 0.5, 9.0))
    assert (info.width, info.height) == (64, 96)
    assert info.duration == pytest.approx(0.5, abs=0.05)


def test_an_animation_has_a_preview(tmp_path: Path) -> None:
    animation = write_animation(tmp_path / "a.webp", [counter_frame(number) for number in range(5)], [200] * 5)
    assert [read_counter(frame) for frame in read_frames(preview(animation, 0.2, 1.0), [0.1, 0.5])] == [1, 3]


def test_sound_is_heard_at_its_time(tmp_path: Path) -> None:
    """The sound begins a second after the pictures."""
    frames = [counter_frame(number) for number in range(75)]
    video = write_video(tmp_path / "a.ts", frames, sound_seconds=2.0, sound_start=1.0)
    with av.open(io.BytesIO(preview(video, 0.5, 2.5).read_bytes())) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    loudness = [float(np.abs(sound[:, round(second * 44_100) :][:, :4410]).mean()) for second in (0.1, 0.3, 0.7, 1.8)]
    assert [value > 0.01 for value in loudness] == [False, False, True, True], loudness


def test_sound_that_begins_a_little_after_the_pictures_is_not_early(tmp_path: Path) -> None:
    clicks = click_train(44_100, 1.5, [0.5, 1.0])[None]
    video = write_audio(tmp_path / "a.mkv", clicks, 44_100, "pcm_s16le", with_video=True, gap=(0.0, 0.08))
    sound = read_audio(preview(video, 0.0, 1.5), 0.0, 1.5, 44_100)
    assert sound is not None
    assert click_times(sound, 44_100) == pytest.approx([0.58, 1.08], abs=0.003)


def test_sound_of_the_default_track_that_can_be_decoded_is_heard_and_read(tmp_path: Path) -> None:
    """Of three tracks the first cannot be decoded and is a default, too; the second is no default."""
    clock = np.arange(2 * RATE) / RATE
    tracks = [("w.mkv", 3000, "wavpack"), ("a.mka", 1000, "aac"), ("b.mka", 2000, "aac")]
    sources = [write_color_video(tmp_path / "v.mkv", (9, 9, 9))]
    for name, pitch, codec in tracks:
        tone = (0.3 * np.sin(2 * np.pi * pitch * clock)).astype(np.float32)[None]
        sources.append(write_audio(tmp_path / name, tone, RATE, codec))
    path = tmp_path / "film.mkv"
    with ExitStack() as files:
        target = files.enter_context(av.open(str(path), "w"))
        inputs = [files.enter_context(av.open(str(source))) for source in sources]
        streams = [target.add_stream_from_template(container.streams[0]) for container in inputs]
        for stream, disposition in zip(streams, (1, 1, 0, 1), strict=True):
            stream.disposition = Disposition(disposition)
        for container, stream in zip(inputs, streams, strict=True):
            for packet in container.demux():
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    for file in (path, preview(path, 0.0, 2.0)):
        sound = read_audio(file, 0, 2, RATE)
        assert sound is not None
        assert np.abs(np.fft.rfft(sound[:RATE])).argmax() == pytest.approx(2000, abs=2)
    audio = probe(path).audio
    assert audio is not None
    assert audio.codec == "aac"


def test_a_span_outside_the_video_and_a_picture_have_no_preview(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [counter_frame(1)] * 25)
    for start, end in ((1.0, 2.0), (0.5, 0.5)):
        with pytest.raises(InvalidInput, match="start, end"):
            preview(video, start, end)
    with pytest.raises(InvalidInput, match="0 seconds"):
        preview(write_picture(tmp_path / "a.png", counter_frame(1)), 0.0, 1.0)
