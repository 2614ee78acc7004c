"""Some frames of a film as small pictures, read by ours and by each library that people decode films with.

Every reader takes a film and ascending seconds, opens the film itself, and gives (F, SIDE, SIDE, 3) uint8 RGB: for each
second the frame that is on screen then. Each is written as that library does it best.
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
from vitascope.media.sampling import StreamSpec, clip_times, sample_streams
from vitascope.sandbox.decoder import PooledDecoder
from vitascope.sandbox.pool import DecodingPool

SIDE = 224
Read = Callable[[Path, Sequence[float]], Pixels]


@dataclass(frozen=True)
class Way:
    """One way of reading: ``library`` it belongs to, and what is particular about it."""

    library: str
    manner: str
    read: Read
    ours: bool = False
    as_served: bool = False


def seconds_of(duration: float, frames: int) -> list[float]:
    """When a clip of ``duration`` s is looked at, as the service does it: the centres of equal parts."""
    return clip_times(_stream(frames), 0.0, duration)


@contextmanager
def our_ways() -> Iterator[list[Way]]:
    """The sampler, called here and through a decoding process, as the service does it."""
    pool = DecodingPool(1)
    pool.start()
    try:
        pool.wait_until_ready()
        decoder = PooledDecoder(pool)

        def in_process(film: Path, seconds: Sequence[float]) -> Pixels:
            pixels: Pixels = sample_streams(film, [_stream(len(seconds))], [_clip(seconds)])["all"][0]
            return pixels

        def pooled(film: Path, seconds: Sequence[float]) -> Pixels:
            pixels: Pixels = decoder.sample(film, [_stream(len(seconds))], [_clip(seconds)]).frames["all"][0]
            return pixels

        yield [
            Way("Vitascope", f"in process, {DECODING_THREADS} threads", in_process, ours=True),
            Way("Vitascope", "through a decoding process, as the service does it", pooled, ours=True, as_served=True),
        ]
    finally:
        pool.close()


def others() -> tuple[list[Way], list[str]]:
    """(what the installed libraries can do, one line for each that is missing and why)."""
    ways = [Way("PyAV", "a seek for each frame", _pyav_seek), Way("PyAV", "all frames decoded", _pyav_all)]
    missing = []
    for module, made in (("torchcodec.decoders", _torchcodec), ("decord", _decord), ("cv2", _opencv)):
        try:
            ways += made(importlib.import_module(module))
        except (ImportError, OSError, RuntimeError) as error:
            missing.append(f"{module}: {str(error).strip().splitlines()[0]}")
    return ways, missing


def _stream(frames: int) -> StreamSpec:
    return StreamSpec("all", frames, SIDE, SIDE, "uniform", "stretch")


def _clip(seconds: Sequence[float]) -> tuple[float, float]:
    """The clip of which these are the seconds: from 0 to as far behind the last as the first is behind 0."""
    return 0.0, seconds[0] + seconds[-1]


def small(frame: av.VideoFrame) -> Pixels:
    """The frame as (SIDE, SIDE, 3), made in one step by FFmpeg."""
    pixels: Any = frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE, interpolation="BICUBIC")
    return np.asarray(pixels, np.uint8)


def _pyav_seek(film: Path, seconds: Sequence[float]) -> Pixels:
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.time_base is not None
        assert stream.average_rate is not None
        step = float(1 / stream.average_rate)
        found = []
        for second in seconds:
            container.seek(int(second / stream.time_base), stream=stream)
            found.append(small(next(f for f in container.decode(stream) if (f.time or 0.0) + step > second)))
    return np.stack(found)


def _pyav_all(film: Path, seconds: Sequence[float]) -> Pixels:
    found: list[Pixels] = []
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.average_rate is not None
        step = float(1 / stream.average_rate)
        for frame in container.decode(stream):
            if (frame.time or 0.0) + step > seconds[len(found)]:
                found.append(small(frame))
                if len(found) == len(seconds):
                    break
    return np.stack(found)


def _torchcodec(decoders: Any) -> list[Way]:
    functional = importlib.import_module("torch.nn.functional")

    def way(threads: int, mode: str) -> Way:
        def read(film: Path, seconds: Sequence[float]) -> Pixels:
            decoder = decoders.VideoDecoder(str(film), num_ffmpeg_threads=threads, seek_mode=mode)
            frames = decoder.get_frames_played_at(list(seconds)).data
            small = functional.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
            return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())

        return Way("torchcodec", f"{mode} seeks, threads {threads or 'of its choice'}", read)

    return [way(threads, mode) for threads in (0, 1, 2) for mode in ("approximate", "exact")]


def _decord(decord: Any) -> list[Way]:
    def way(threads: int) -> Way:
        def read(film: Path, seconds: Sequence[float]) -> Pixels:
            reader = decord.VideoReader(str(film), width=SIDE, height=SIDE, num_threads=threads)
            rate = reader.get_avg_fps()
            pixels: Any = reader.get_batch([int(second * rate + 1e-6) for second in seconds]).asnumpy()
            return np.asarray(pixels, np.uint8)

        return Way("decord", f"a batch, threads {threads or 'of its choice'}", read)

    return [way(threads) for threads in (0, 1, 2)]


def _opencv(cv2: Any) -> list[Way]:
    def opened(film: Path, threads: int) -> tuple[Any, float]:
        capture = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
        if not capture.isOpened():
            raise RuntimeError(f"{film.name}: OpenCV cannot open it")
        return capture, capture.get(cv2.CAP_PROP_FPS)

    def shrunk(pixels: Any) -> Any:
        return cv2.cvtColor(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)

    def seeking(threads: int) -> Way:
        def read(film: Path, seconds: Sequence[float]) -> Pixels:
            capture, rate = opened(film, threads)
            found = []
            for second in seconds:
                capture.set(cv2.CAP_PROP_POS_FRAMES, int(second * rate + 1e-6))
                found.append(shrunk(capture.read()[1]))
            capture.release()
            return np.stack(found)

        return Way("OpenCV", f"a seek for each frame, {threads} threads", read)

    def onward(threads: int) -> Way:
        def read(film: Path, seconds: Sequence[float]) -> Pixels:
            capture, rate = opened(film, threads)
            found, at = [], -1
            for second in seconds:
                while at < int(second * rate + 1e-6):
                    capture.grab()
                    at += 1
                found.append(shrunk(capture.retrieve()[1]))
            capture.release()
            return np.stack(found)

        return Way("OpenCV", f"all frames decoded, {threads} threads", read)

    return [made(threads) for made in (seeking, onward) for threads in (1, 2)]
