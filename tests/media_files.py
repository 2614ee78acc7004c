"""Media files for tests, written with PyAV and Pillow.

A counter frame shows its own number as bars, which can be read after lossy compression and resizing.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
BITS = 10
BAR = 16
COUNTER_WIDTH, COUNTER_HEIGHT = BITS * BAR, 64
ONE_TO_FIVE = Path(__file__).parent / "one_to_five.ogg"
"""A synthetic voice that says "one two three four five", 1.8 s, which PocketSphinx understands."""
_X264 = {"preset": "veryfast", "crf": "20", "sc_threshold": "0"}  # key frames only at the start of a group


def counter_frame(number: int) -> Pixels:
    """Return (64, 160, 3): ``number`` in binary, a bar of 16 pixels per bit, lowest bit first."""
    bars = np.array([(number >> bit) & 1 for bit in range(BITS)], np.uint8) * 255
    row = np.repeat(bars, BAR)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (COUNTER_HEIGHT, COUNTER_WIDTH, 3)))


def read_counter(frame: Pixels) -> int:
    """Return the number of a counter frame of any size."""
    height, width, _ = frame.shape
    columns = frame[height // 4 : 3 * height // 4].mean(axis=(0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return int(sum(1 << bit for bit, centre in enumerate(centres) if columns[centre] > 127))


def solid(color: tuple[int, int, int], width: int = 96, height: int = 64) -> Pixels:
    """Return (height, width, 3) of one colour, 0 to 255."""
    return np.full((height, width, 3), color, np.uint8)


def mean_color(picture: bytes) -> tuple[float, float, float]:
    """Return the mean red, green and blue of an encoded picture, 0 to 255."""
    red, green, blue = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).mean(axis=(0, 1))
    return float(red), float(green), float(blue)


def write_video(
    path: Path,
    frames: Iterable[Pixels],
    *,
    codec: str = "libx264",
    rate: int = 25,
    gop: int = 250,
    b_frames: int = 3,
    starts: Sequence[float] | None = None,
    sound_seconds: float = 0.0,
    sound_start: float = 0.0,
    rotation: int = 0,
    mirror: bool = False,
    pix_fmt: str = "yuv420p",
    pixel_aspect: Fraction | None = None,
    matrix: int | None = None,
    tag_matrix: bool = True,
    format: str | None = None,
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames``, (H, W, 3) or (H, W, 4) uint8, and return ``path``.

    ``starts``: start of each frame (s), for variable frame rates and a first frame after 0.
    ``rotation``: degrees counter-clockwise by which a player must turn the picture, stated in the header.
    ``matrix``: conversion to YUV, 1 for BT.709 and 5 for BT.601, stated in the header if ``tag_matrix``.
    """
    frames = list(frames)
    height, width, channels = frames[0].shape
    pixel_format = "rgba" if channels == 4 else "rgb24"
    time_base = Fraction(1, 12800) if starts is not None else Fraction(1, rate)
    with av.open(str(path), "w", format=format, container_options=muxer_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or _default_options(codec))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.gop_size = gop
        if codec in ("libx264", "mpeg4", "mpeg2video", "libx265"):
            stream.max_b_frames = b_frames
        stream.time_base = stream.codec_context.time_base = time_base
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if matrix is not None and tag_matrix:
            stream.codec_context.colorspace = matrix
        if rotation or mirror:
            stream.set_display_rotation(rotation, mirror)
        sound: Any = container.add_stream("aac", rate=16000) if sound_seconds else None
        audio_packets = _audio_packets(sound, sound_seconds, sound_start) if sound is not None else iter(())
        packet = next(audio_packets, None)
        for number, pixels in enumerate(frames):
            start = number / rate if starts is None else starts[number]
            while packet is not None and packet.pts * packet.time_base <= start:
                container.mux(packet)  # players and probes expect interleaved audio and video
                packet = next(audio_packets, None)
            frame: Any = av.VideoFrame.from_ndarray(pixels, pixel_format)
            frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, interpolation="BICUBIC")
            if matrix is not None and not tag_matrix:
                frame.colorspace = 2
            frame.time_base = time_base
            frame.pts = number if starts is None else round(starts[number] / time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        while packet is not None:
            container.mux(packet)
            packet = next(audio_packets, None)
    return path


_ASS_HEADER = """\
[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Bold, Italic, Alignment
Style: Default,Arial,16,&Hffffff,0,0,2

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def write_subtitled_video(
    path: Path,
    frames: Iterable[Pixels],
    streams: Sequence[tuple[str, str, Sequence[tuple[float, float, str]]]],
    *,
    rate: int = 10,
) -> Path:
    """Write an H.264 video with subtitle streams, each (codec, ISO 639-2 language, cues).

    A cue is (start, end, text with ASS markup). ``path`` is an .mkv (codecs subrip, ass, webvtt) or .mp4 (mov_text).
    """
    milli = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=rate, options=_X264)
        frames = list(frames)
        video.height, video.width, _ = frames[0].shape
        video.pix_fmt = "yuv420p"
        added: list[tuple[Any, Sequence[tuple[float, float, str]]]] = []
        for codec, language, cues in streams:
            stream: Any = container.add_stream(codec)
            stream.codec_context.subtitle_header = _ASS_HEADER.encode()
            stream.time_base = stream.codec_context.time_base = milli
            if language:
                stream.metadata["language"] = language
            added.append((stream, cues))
        for number, pixels in enumerate(frames):
            frame: Any = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for stream, cues in added:
            for start, end, text in cues:
                start_ms, duration_ms = round(start * 1000), round((end - start) * 1000)
                event = SubtitleSet.create(f"0,0,Default,,0,0,0,,{text}".encode(), 0, duration_ms, start_ms)
                packet: Any = stream.codec_context.encode_subtitle(event)
                packet.pts = packet.dts = start_ms
                packet.duration, packet.time_base, packet.stream = duration_ms, milli, stream
                container.mux(packet)
    return path


def moving_shot(seed: int, count: int, *, speed: int = 2) -> list[Pixels]:
    """Return ``count`` frames (64, 96, 3) of a pan over one scene, by ``speed`` pixels per frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 16, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((384, 64), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(np.roll(scene, -speed * number, axis=1)[:, :96]) for number in range(count)]


def _default_options(codec: str) -> dict[str, str]:
    return {
        "libx264": _X264,
        "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "crf": "30", "b": "0"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    }.get(codec, {})


def _audio_packets(stream: Any, seconds: float, start: float = 0.0) -> Iterator[Any]:
    """Encode a tone."""
    rate, size = 16000, 1024
    for first in range(0, int(seconds * rate), size):
        wave = (0.2 * np.sin(np.arange(first, first + size) * 0.1)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first + round(start * rate), Fraction(1, rate)
        yield from stream.encode(frame)
    yield from stream.encode()


def write_counter_video(path: Path, count: int, **options: Any) -> Path:
    """Write ``count`` (at most 1024) counter frames; options as ``write_video``."""
    return write_video(path, [counter_frame(number) for number in range(count)], **options)


def write_tracks(path: Path, sources: Sequence[Path]) -> Path:
    """Write the video track of each source into one file, the main one first."""
    with ExitStack() as files:
        target = files.enter_context(av.open(str(path), "w"))
        inputs = [files.enter_context(av.open(str(source))) for source in sources]
        tracks = [target.add_stream_from_template(container.streams.video[0]) for container in inputs]
        for container, track in zip(inputs, tracks, strict=True):
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream = track
                    target.mux(packet)
    return path


def write_color_video(path: Path, color: tuple[int, int, int], seconds: float = 2.0, **options: Any) -> Path:
    """Write a video of one colour."""
    rate = options.setdefault("rate", 10)
    return write_video(path, [solid(color)] * round(seconds * rate), **options)


def write_audio_only(path: Path, seconds: float = 1.0) -> Path:
    """Write a file with audio and no video, in the container of the suffix."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        container.mux(list(_audio_packets(stream, seconds)))
    return path


def click_train(rate: int, seconds: float, times: Sequence[float]) -> NDArray[np.float32]:
    """Return (samples,) at ``rate`` (Hz) with pulses of 2 ms whose peaks are at ``times`` (s)."""
    clock = np.arange(round(rate * seconds)) / rate
    pulses = [np.exp(-0.5 * ((clock - time) / 0.0004) ** 2) for time in times]
    samples: NDArray[np.float32] = (0.8 * np.sum(pulses, axis=0)).astype(np.float32)
    return samples


def click_times(samples: NDArray[np.float32], rate: int) -> list[float]:
    """Return the times (s) of the pulses of a click train, interpolated between samples."""
    peaks = [
        index
        for index in range(1, len(samples) - 1)
        if samples[index] > 0.3 and samples[index - 1] < samples[index] >= samples[index + 1]
    ]
    times = []
    for peak in peaks:
        window = np.maximum(samples[peak - 1 : peak + 2], 1e-6)
        left, middle, right = np.log(window)  # of a Gaussian, a parabola
        times.append((peak + 0.5 * (left - right) / (left - 2 * middle + right)) / rate)
    return times


_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def write_audio(
    path: Path,
    channels: NDArray[np.float32],
    rate: int,
    codec: str,
    *,
    with_video: bool = False,
    gap: tuple[float, float] = (0.0, 0.0),
    options: dict[str, str] | None = None,
) -> Path:
    """Write sound (C, samples) in the container of the suffix, with grey pictures if ``with_video``.

    ``gap``: (start, length) in s of a gap in the timestamps.
    """
    layout, clock = _LAYOUTS[len(channels)], Fraction(1, rate)
    with av.open(str(path), "w", options=options or {}) as container:
        video: Any = container.add_stream("libx264", rate=25, options=_X264) if with_video else None
        sound: Any = container.add_stream(codec, rate=rate, layout=layout)
        if with_video:
            video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        pictures = 0
        for first in range(0, channels.shape[1], 1024):
            while with_video and pictures <= 25 * first / rate:
                picture: Any = av.VideoFrame.from_ndarray(solid((99, 99, 99)), "rgb24")
                picture.pts = pictures
                container.mux(video.encode(picture))
                pictures += 1
            part = np.ascontiguousarray(channels[:, first : first + 1024].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, format="flt", layout=layout)
            shift = round(gap[1] * rate) if first >= gap[0] * rate else 0
            frame.sample_rate, frame.pts, frame.time_base = rate, first + shift, clock
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
        if with_video:
            container.mux(video.encode())
    return path


def write_without_frames(path: Path) -> Path:
    """Write a container with a video stream without frames."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    return path


def write_picture(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write a still picture, (H, W), (H, W, 3) or (H, W, 4) uint8, in the format of the suffix."""
    Image.fromarray(pixels).save(path, **options)
    return path


def write_animation(path: Path, frames: Sequence[NDArray[Any]], milliseconds: Sequence[int], **options: Any) -> Path:
    """Write an animated GIF, WebP or PNG, by suffix, with the duration of each frame."""
    images = [Image.fromarray(frame) for frame in frames]
    if path.suffix == ".webp":
        options.setdefault("lossless", True)
    durations = [float(value) for value in milliseconds]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    return path


def write_truncated(source: Path, target: Path, fraction: float) -> Path:
    """Write the first ``fraction`` (0 to 1) of the bytes of ``source``."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


def write_png_header(path: Path, width: int, height: int) -> Path:
    """Write a PNG with a header of any size and almost no pixels, as a decompression bomb has."""
    return write_png_chunks(path, width, height, zlib.compress(bytes(1024)))


def write_png_chunks(path: Path, width: int, height: int, packed: bytes) -> Path:
    """Write a PNG with a header of this size of RGB pixels and the zlib stream ``packed`` as data."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in [(b"IHDR", fields), (b"IDAT", packed), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return path
