"""Readers of small frames of a film: ours and those of other libraries, each in the ways that suit the library best.

Every reader takes a film and ascending times in seconds, opens the film itself, and returns the frame on screen at each
time: (F, SIDE, SIDE, 3) uint8 RGB.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from vitascope.media.decode import DECODING_THREADS
from vitascope.media.frame import Pixels
from vitascope.media.sampling import Span, StreamSpec, clip_times, sample_streams
from vitascope.sandbox.pool import DecodingPool, PooledDecoder

SIDE = 224
ReadFrames = Callable[[Path, Sequence[float]], Pixels]


@dataclass(frozen=True)
class Reader:
    """One way to read frames with ``library``."""

    library: str
    method: str
    read: ReadFrames
    is_ours: bool = False
    is_service: bool = False
    """Whether the service reads frames this way."""


def sampling_times(duration: float, frames: int) -> list[float]:
    """Return the times (s) at which the service samples a clip: the centres of equal parts."""
    return clip_times(_stream(frames), 0.0, duration)


@contextmanager
def our_readers() -> Iterator[list[Reader]]:
    """Yield two readers: the sampler in this process, and in a decoding worker as in the service."""
    pool = DecodingPool(1)
    pool.start()
    try:
        pool.wait_until_ready()
        decoder = PooledDecoder(pool)

        def in_process(film: Path, times: Sequence[float]) -> Pixels:
            pixels: Pixels = sample_streams(film, [_stream(len(times))], [_clip(times)])["all"][0]
            return pixels

        def pooled(film: Path, times: Sequence[float]) -> Pixels:
            pixels: Pixels = decoder.sample(film, [_stream(len(times))], [_clip(times)]).frames["all"][0]
            return pixels

        yield [
            Reader("Vitascope", f"in process, {DECODING_THREADS} threads", in_process, is_ours=True),
            Reader("Vitascope", "in a decoding process, as the service", pooled, is_ours=True, is_service=True),
        ]
    finally:
        pool.close()


def other_readers() -> tuple[list[Reader], list[str]]:
    """Return the readers of the installed libraries, and a line for each library that is missing."""
    readers = [Reader("PyAV", "a seek per frame", _pyav_seek), Reader("PyAV", "all frames decoded", _pyav_all)]
    missing = []
    for module, readers_of in (("torchcodec.decoders", _torchcodec), ("decord", _decord), ("cv2", _opencv)):
        try:
            readers += readers_of(importlib.import_module(module))
        except (ImportError, OSError, RuntimeError) as error:
            missing.append(f"{module}: {str(error).strip().splitlines()[0]}")
    return readers, missing


def _stream(frames: int) -> StreamSpec:
    return StreamSpec("all", frames, SIDE, SIDE, "uniform")


def _clip(times: Sequence[float]) -> Span:
    """Return the clip for which uniform sampling gives these times."""
    return 0.0, times[0] + times[-1]


def small_rgb(frame: av.VideoFrame) -> Pixels:
    """Convert a frame to (SIDE, SIDE, 3) in one step of FFmpeg."""
    pixels: Any = frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE, interpolation="BICUBIC")
    return np.asarray(pixels, np.uint8)


def _pyav_seek(film: Path, times: Sequence[float]) -> Pixels:
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.time_base is not None
        assert stream.average_rate is not None
        step = float(1 / stream.average_rate)
        frames = []
        for time in times:
            container.seek(int(time / stream.time_base), stream=stream)
            frames.append(small_rgb(next(f for f in container.decode(stream) if (f.time or 0.0) + step > time)))
    return np.stack(frames)


def _pyav_all(film: Path, times: Sequence[float]) -> Pixels:
    frames: list[Pixels] = []
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.average_rate is not None
        step = float(1 / stream.average_rate)
        for frame in container.decode(stream):
            if (frame.time or 0.0) + step > times[len(frames)]:
                frames.append(small_rgb(frame))
                if len(frames) == len(times):
                    break
    return np.stack(frames)


def _torchcodec(decoders: Any) -> list[Reader]:
    functional = importlib.import_module("torch.nn.functional")

    def reader(threads: int, mode: str) -> Reader:
        def read(film: Path, times: Sequence[float]) -> Pixels:
            decoder = decoders.VideoDecoder(str(film), num_ffmpeg_threads=threads, seek_mode=mode)
            frames = decoder.get_frames_played_at(list(times)).data
            resized = functional.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
            return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())

        return Reader("torchcodec", f"{mode} seeks, {threads or 'default'} threads", read)

    return [reader(threads, mode) for threads in (0, 1, 2) for mode in ("approximate", "exact")]


def _decord(decord: Any) -> list[Reader]:
    def reader(threads: int) -> Reader:
        def read(film: Path, times: Sequence[float]) -> Pixels:
            video = decord.VideoReader(str(film), width=SIDE, height=SIDE, num_threads=threads)
            rate = video.get_avg_fps()
            pixels: Any = video.get_batch([int(time * rate + 1e-6) for time in times]).asnumpy()
            return np.asarray(pixels, np.uint8)

        return Reader("decord", f"a batch, {threads or 'default'} threads", read)

    return [reader(threads) for threads in (0, 1, 2)]


def _opencv(cv2: Any) -> list[Reader]:
    def open_film(film: Path, threads: int) -> tuple[Any, float]:
        capture = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
        if not capture.isOpened():
            raise RuntimeError(f"{film.name}: OpenCV cannot open it")
        return capture, capture.get(cv2.CAP_PROP_FPS)

    def resize(pixels: Any) -> Any:
        return cv2.cvtColor(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)

    def seeking(threads: int) -> Reader:
        def read(film: Path, times: Sequence[float]) -> Pixels:
            capture, rate = open_film(film, threads)
            frames = []
            for time in times:
                capture.set(cv2.CAP_PROP_POS_FRAMES, int(time * rate + 1e-6))
                frames.append(resize(capture.read()[1]))
            capture.release()
            return np.stack(frames)

        return Reader("OpenCV", f"a seek per frame, {threads} threads", read)

    def sequential(threads: int) -> Reader:
        def read(film: Path, times: Sequence[float]) -> Pixels:
            capture, rate = open_film(film, threads)
            frames, position = [], -1
            for time in times:
                while position < int(time * rate + 1e-6):
                    capture.grab()
                    position += 1
                frames.append(resize(capture.retrieve()[1]))
            capture.release()
            return np.stack(frames)

        return Reader("OpenCV", f"all frames decoded, {threads} threads", read)

    return [create(threads) for create in (seeking, sequential) for threads in (1, 2)]
