"""Sound of media files: mono samples of a span, placed by their timestamps.

Time 0 of a file is that of its pictures, or without any the first sound that can be decoded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
from av.stream import Discard, Disposition
from numpy.typing import NDArray

from vitascope.errors import InvalidInput, MediaCorrupt, MediaUnsupported
from vitascope.media.file import MediaFile, MediaSource, open_source
from vitascope.media.formats import FileFormat, sniff
from vitascope.media.limits import AUDIO_CODECS, DEFAULT_LIMITS, SILENCE, MediaLimits
from vitascope.media.video import (
    READING_ERRORS,
    measured_seconds,
    open_container,
    origin_of,
    tagged_seconds,
    video_streams,
)

if TYPE_CHECKING:
    from av.audio.fifo import AudioFifo
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

Samples = NDArray[np.float32]
"""Mono samples (N,) float32, -1 to 1."""
MAX_SAMPLES = 2**26
"""Maximum samples of one read: 70 minutes at 16 kHz."""
MAX_RATE = 768_000
"""Range of sample rates of files, in Hz."""
_MIN_RATE = 1000
_UNTIMED = ("aac", "mp3", "wav", "aiff")
"""Containers without timestamps, whose sound therefore has no gaps."""
_ESTIMATED = ("aac", "mp3")
"""Containers whose duration FFmpeg may estimate by the bit rate."""
_PREROLL = 1.0
"""Seconds decoded before a span, since the first output of a decoder after a seek is wrong."""
_NEAR = 2.0
"""Maximum gap, in seconds, between clips that are decoded together."""
_BLOCK_SECONDS = 0.5
"""Seconds of sound that are converted at a time."""
_MARGIN = 0.05
"""Seconds resampled before and after a span, longer than the resampler's filter."""
_UNREADABLE_PLANES = 8
"""Number of channels from which PyAV's ``to_ndarray`` crashes on planar sound; it can read interleaved channels."""
_MAX_DRIFT = 0.025
"""Maximum difference, in seconds, between a timestamp and the count of samples; beyond it, the sound is moved. FFmpeg's
timestamps of Vorbis are up to 448 samples off where blocks change their size."""
_MAX_OVERLAP = Fraction(1)
"""Maximum backward step of timestamps, in seconds, for which overlapping sound is dropped; after a larger step,
timestamps have started again and are shifted."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Description of the main audio stream of a file, from its header."""

    codec: str
    """FFmpeg's name of the codec; "unknown" if FFmpeg does not know it."""
    sample_rate: int
    """Hz; 0 if the header does not contain it. The same applies to ``channels``."""
    channels: int
    seconds: float | None
    """None if the header does not state it."""


class _Block(NamedTuple):
    """Consecutive mono samples."""

    position: int
    """Position of the first sample: number of samples, at ``rate``, since time 0 of the file."""
    samples: Samples
    rate: int


@dataclass(frozen=True)
class OpenAudio:
    """An open container and its main audio stream."""

    file: MediaFile
    container: InputContainer
    stream: AudioStream
    time_base: Fraction
    origin: Fraction | None
    """Time 0 of the file, in seconds on the stream's clock; None: time 0 is where the sound begins."""
    seek_stream: AudioStream | VideoStream
    """The stream whose index is used to seek."""
    is_timed: bool
    """Whether the container stores timestamps; otherwise FFmpeg counts samples."""


def read_audio(
    source: MediaSource, start: float, end: float, sample_rate: int, limits: MediaLimits = DEFAULT_LIMITS
) -> Samples | None:
    """Decode the sound from ``start`` to ``end`` (s); see ``read_clips``."""
    [sound] = read_clips(source, [(start, end)], sample_rate, limits)
    return sound


def read_clips(
    source: MediaSource, clips: Sequence[tuple[float, float]], sample_rate: int, limits: MediaLimits = DEFAULT_LIMITS
) -> list[Samples | None]:
    """Decode the sound of clips: the mean of all channels, resampled. Neighbouring clips are decoded together.

    Sample i of a clip is at ``start + i / sample_rate`` seconds. Gaps, and parts that cannot be decoded, are silent;
    NaN samples are 0.

    Args:
        source: File to decode.
        clips: (start, end) in seconds. A clip is shorter if the sound of the file ends before the clip.
        sample_rate: Sample rate of the result, in Hz.
        limits: Limits on the file.

    Returns:
        Samples (N,) float32 from -1 to 1 per clip; None for digital silence, and for a file or clip without sound.

    Raises:
        InvalidInput: A clip is empty or has more than ``MAX_SAMPLES``.
        MediaUnsupported, MediaCorrupt, MediaTooLarge, MediaError: The file cannot be decoded.
    """
    bounds = [_bounds(start, end, sample_rate, limits) for start, end in clips]
    sounds: list[Samples | None] = [None] * len(clips)
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            return sounds
        for group in _neighbours(bounds, sample_rate):
            begin, stop = bounds[group[0]][0], max(bounds[clip][1] for clip in group)
            sound = _read_span(file, file_format, begin, stop, sample_rate, limits)
            for clip in group:
                first, last = bounds[clip]
                part = sound[first - begin : last - begin]
                if np.abs(part).max(initial=0) >= SILENCE:
                    sounds[clip] = part.copy() if len(group) > 1 else part
    return sounds


def _bounds(start: float, end: float, sample_rate: int, limits: MediaLimits) -> tuple[int, int]:
    """Return (first, end): the position of a clip's first sample, and the position after its last sample."""
    if not 0 <= start < end:
        raise InvalidInput(f"start, end: {start:g}, {end:g}; 0 <= start < end was expected")
    first, last = (round(min(time, limits.max_seconds) * sample_rate) for time in (start, end))
    if last - first > MAX_SAMPLES:
        raise InvalidInput(
            f"start, end: {start:g}, {end:g}: {last - first} samples at {sample_rate} Hz; at most {MAX_SAMPLES} were "
            "expected"
        )
    return first, last


def _neighbours(bounds: Sequence[tuple[int, int]], sample_rate: int) -> list[list[int]]:
    """Group the indices of clips that are so close to each other that decoding through is faster than seeking."""
    groups: list[list[int]] = []
    begin = stop = 0
    for clip in sorted(range(len(bounds)), key=bounds.__getitem__):
        first, last = bounds[clip]
        if groups and first - stop <= _NEAR * sample_rate and max(stop, last) - begin <= MAX_SAMPLES:
            groups[-1].append(clip)
            stop = max(stop, last)
        else:
            groups.append([clip])
            begin, stop = first, last
    return groups


def _read_span(
    file: MediaFile, file_format: FileFormat, first: int, last: int, sample_rate: int, limits: MediaLimits
) -> Samples:
    """Return the samples from position ``first`` to ``last``, or to the end of the sound."""
    for preroll in (_PREROLL, math.inf):
        begin = first / sample_rate - preroll
        parts, is_complete = _read_parts(file, file_format, begin, first, last, sample_rate, limits)
        if is_complete:
            break
    stop = max((index + len(samples) for index, samples in parts), default=first)
    result = np.zeros(max(0, min(stop, last) - first), np.float32)
    for index, samples in parts:
        offset = max(0, first - index)
        target = result[index + offset - first :]
        target[: len(samples) - offset] = samples[offset : offset + len(target)]
    return np.clip(result, -1, 1, out=result)


def _read_parts(
    file: MediaFile, file_format: FileFormat, begin: float, first: int, last: int, sample_rate: int, limits: MediaLimits
) -> tuple[list[tuple[int, Samples]], bool]:
    """Decode from about ``begin`` (s) and resample.

    Returns:
        (position, samples) of each part that overlaps ``first`` to ``last``; and whether sound before ``first`` was
        read, so that the parts are complete.
    """
    low, high = first / sample_rate - _MARGIN, last / sample_rate + _MARGIN
    parts: list[tuple[int, Samples]] = []
    with open_audio(file, file_format, limits) as audio:
        if audio is None:
            return parts, True
        blocks = _blocks(audio, begin)
        is_complete = begin <= 0
        run: _ResampledRun | None = None
        for block in blocks:
            position, rate = block.position, block.rate
            is_complete |= position <= low * rate
            if position > high * rate:
                break
            if position + len(block.samples) < low * rate:
                continue
            if run is None or (run.rate, run.end) != (rate, position):
                parts += run.flush() if run is not None else []
                run = _ResampledRun(position, rate, sample_rate)
            parts += run.feed(block.samples)
        parts += run.flush() if run is not None else []
    return [(index, samples) for index, samples in parts if index < last and index + len(samples) > first], is_complete


class _ResampledRun:
    """Resampler of consecutive samples, whose positions do not depend on where it begins."""

    def __init__(self, position: int, rate: int, sample_rate: int) -> None:
        self.rate = rate
        self.end = position
        """Position after the last input sample."""
        step = rate // math.gcd(rate, sample_rate)
        lead = position % step  # begin, with silence, at the last position that both rates have in common
        self._ratio = Fraction(sample_rate, rate)
        self._index = int((position - lead) * self._ratio)
        self._lead = lead
        self._resampler = None if rate == sample_rate else av.AudioResampler("fltp", "mono", sample_rate)

    def feed(self, samples: Samples) -> list[tuple[int, Samples]]:
        """Resample further samples; return (position, samples) of the output that is ready."""
        self.end += len(samples)
        if self._resampler is None:
            return self._placed(samples)
        padded = np.concatenate([np.zeros(self._lead, np.float32), samples]) if self._lead else samples
        self._lead = 0
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(padded[None]), format="fltp", layout="mono")
        frame.sample_rate = self.rate
        return [part for output in self._resampler.resample(frame) for part in self._placed(output.to_ndarray()[0])]

    def flush(self) -> list[tuple[int, Samples]]:
        """Return the rest of the output as (position, samples)."""
        outputs = [] if self._resampler is None else self._resampler.resample(None)
        left = round(self.end * self._ratio) - self._index
        rest = np.concatenate([output.to_ndarray()[0] for output in outputs]) if outputs else np.zeros(0, np.float32)
        return self._placed(rest[: max(0, left)])

    def _placed(self, samples: Samples) -> list[tuple[int, Samples]]:
        index = self._index
        self._index += len(samples)
        return [(index, samples)] if len(samples) else []


@contextmanager
def open_audio(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> Iterator[OpenAudio | None]:
    """Open a container and its main audio stream; None if there is none, or none decodable in a file with pictures.

    Raises:
        MediaCorrupt: The container cannot be parsed.
        MediaUnsupported: Its only stream has a codec or sample rate that is not allowed.
        MediaTooLarge: It is longer than ``limits`` allow.
    """
    with open_container(file, file_format) as container:
        stream, videos = main_audio_stream(container), video_streams(container)
        if stream is None:
            yield None
            return
        info = describe_audio(stream)
        if not is_decodable(stream):
            if not videos:
                raise MediaUnsupported(
                    f"{file.name}: the audio codec is {info.codec!r}; expected one of {', '.join(sorted(AUDIO_CODECS))}"
                )
            logger.info("%s: its sound cannot be decoded: the codec is %s", file.name, info.codec)
            yield None
            return
        limits.check_seconds(file.name, info.seconds or 0.0)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        origin = origin_of(container, videos[0]) if videos else None
        # Matroska's index lists pictures alone.
        seek_stream = videos[0] if videos and file_format.container == "matroska" else stream
        is_timed = file_format.container not in _UNTIMED
        yield OpenAudio(file, container, stream, stream.time_base or Fraction(1), origin, seek_stream, is_timed)


def probe_audio(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> tuple[AudioInfo, float]:
    """Describe the sound of a file without pictures; return the description and the duration in seconds.

    Raises:
        MediaUnsupported, MediaCorrupt, MediaTooLarge: It cannot be decoded.
    """
    with open_audio(file, file_format, limits) as audio:
        frame = None if audio is None else next(_frames(audio), None)
        if audio is None or frame is None:
            raise MediaCorrupt(f"{file.name}: no sound can be decoded")
        info = describe_audio(audio.stream)
        duration = info.seconds
        if duration is None or file_format.container in _ESTIMATED:
            duration = measured_seconds(
                audio.container, audio.stream, audio.time_base, (frame.pts or 0) * audio.time_base
            )
        limits.check_seconds(file.name, duration)
        return AudioInfo(info.codec, frame.sample_rate, frame.layout.nb_channels, duration), duration


def main_audio_stream(container: InputContainer) -> AudioStream | None:
    """Return the main audio stream: decodable streams take precedence, then default ones; None if there is none."""
    return min(
        container.streams.audio,
        key=lambda stream: (not is_decodable(stream), not stream.disposition & Disposition.default),
        default=None,
    )


def is_decodable(stream: AudioStream) -> bool:
    """Return whether the codec of a stream is allowed."""
    return describe_audio(stream).codec in AUDIO_CODECS


def describe_audio(stream: AudioStream) -> AudioInfo:
    """Describe a stream from its header."""
    context = getattr(stream, "codec_context", None)  # None for an unknown codec
    seconds = tagged_seconds(stream.metadata.get("DURATION"))
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    if context is None:
        return AudioInfo("unknown", 0, 0, seconds)
    return AudioInfo(context.codec.canonical_name, context.sample_rate or 0, context.channels, seconds)


def _blocks(audio: OpenAudio, begin: float) -> Iterator[_Block]:
    """Decode from about ``begin`` (s), or from the beginning if the file does not support seeking.

    Raises MediaCorrupt if packets were read, but none of them can be decoded.
    """
    time_base, origin, grid = audio.time_base, audio.origin, None
    if begin > 0:
        head = list(islice(_frames(audio), 3))
        if origin is None and head:
            origin = (head[0].pts or 0) * time_base
        grid = _frame_grid(head, time_base, origin or Fraction(0))
        _seek(audio, Fraction(begin) + (origin or 0))
    pending = av.AudioFifo()  # consecutive frames of the same kind, which are converted together
    kind: tuple[int, str, str] | None = None  # rate, sample format and layout of the last frame
    start = floor = Fraction(0)  # time of the first of them; time up to which sound was returned
    zero, tick = 0.0, float(time_base)  # expected timestamp of the first of them, and unit of timestamps, in seconds
    shift = Fraction(0)
    for frame in _frames(audio):
        rate, pts = frame.sample_rate, frame.pts or 0
        if not _MIN_RATE <= rate <= MAX_RATE:
            raise MediaUnsupported(f"{audio.file.name}: {rate} Hz; {_MIN_RATE} to {MAX_RATE} Hz were expected")
        kind, previous = (rate, frame.format.name, frame.layout.name), kind
        if previous is None:
            timestamp = pts * time_base
            origin = timestamp if origin is None else origin
            start = floor = timestamp - origin if grid is None else _snap(timestamp - origin, *grid, time_base)
            zero = float(start + origin)
        else:
            # Floats, as exact fractions would take longer than decoding.
            is_timed = audio.is_timed and frame.pts is not None
            drift = pts * tick - zero - pending.samples / previous[0] if is_timed else 0.0
            has_moved = abs(drift) > _MAX_DRIFT
            if has_moved or pending.samples >= _BLOCK_SECONDS * rate or kind != previous:
                end = start + Fraction(pending.samples, previous[0])
                if (block := _block(pending, start, floor)) is not None:
                    yield block
                pending, start, floor = av.AudioFifo(), end, max(floor, end)
                if has_moved and origin is not None:
                    time = pts * time_base - origin + shift
                    if time < floor - _MAX_OVERLAP:
                        shift += start - time
                    else:
                        start = time
                zero = float(start - shift + (origin or 0))
        frame.pts = None  # a queue takes no frames whose timestamps have moved
        pending.write(frame)
    if (block := _block(pending, start, floor)) is not None:
        yield block


def _block(frames: AudioFifo, start: Fraction, floor: Fraction) -> _Block | None:
    """Return the samples of frames that begin at ``start`` (s), except before ``floor``; None if none are left."""
    if not frames.samples or (frame := frames.read()) is None:
        return None
    rate, samples = frame.sample_rate, _mono(frame)
    position = _position(start, rate)
    overlap = max(0, _position(floor, rate) - position)
    return _Block(position + overlap, samples[overlap:], rate) if overlap < len(samples) else None


def _position(time: Fraction, rate: int) -> int:
    """Round a time to a position; times that differ by whole samples are rounded in the same direction."""
    return math.floor(time * rate + Fraction(1, 2))


def _seek(audio: OpenAudio, time: Fraction) -> None:
    """Seek to a time on the stream's clock, if the file supports it."""
    offset = int(time / (audio.seek_stream.time_base or Fraction(1)))
    try:
        audio.container.seek(offset, stream=audio.seek_stream)
    except READING_ERRORS as error:
        logger.debug("%s: seeking failed: %s", audio.file.name, error)


def _frame_grid(head: Sequence[AudioFrame], time_base: Fraction, origin: Fraction) -> tuple[Fraction, Fraction] | None:
    """Return the start of a frame (s) and the length of frames (s); None if lengths differ or the clock is exact.

    Containers such as Matroska round timestamps to milliseconds, although their frames follow each other without gaps.

    Args:
        head: The first frames; the very first may be shorter.
        time_base: Unit of the timestamps in seconds.
        origin: Time 0 of the file, in seconds on the stream's clock.
    """
    if len(head) < 3 or time_base * head[0].sample_rate <= 1 or head[1].samples != head[2].samples:
        return None
    rate, start = head[0].sample_rate, (head[0].pts or 0) * time_base - origin
    start = Fraction(0) if abs(start) <= time_base else start
    return start + Fraction(head[0].samples, rate), Fraction(head[1].samples, rate)


def _snap(time: Fraction, begin: Fraction, step: Fraction, tolerance: Fraction) -> Fraction:
    """Return the nearest start of a frame if it is within ``tolerance``, else ``time``."""
    nearest = begin + round((time - begin) / step) * step
    return nearest if abs(nearest - time) <= tolerance else time


def _frames(audio: OpenAudio) -> Iterator[AudioFrame]:
    """Decode frames from the container's current position. Raises MediaCorrupt if nothing can be decoded."""
    damaged, decoded = 0, 0
    try:
        for packet in audio.container.demux(audio.stream):
            try:
                frames = packet.decode()
            except READING_ERRORS as error:
                damaged += 1
                logger.debug("%s: skipped a damaged packet: %s", audio.file.name, error)
                continue
            decoded += len(frames)
            yield from frames
    except READING_ERRORS as error:
        damaged += 1
        logger.info("%s: reading sound ends early: %s", audio.file.name, error)
    if damaged and not decoded:
        raise MediaCorrupt(f"{audio.file.name}: no sound can be decoded")


def _mono(frame: AudioFrame) -> Samples:
    """Return the mean of the channels of a frame as float32 from -1 to 1."""
    channels, parts = frame.layout.nb_channels, [frame]
    is_planar = frame.format.is_planar and channels < _UNREADABLE_PLANES
    if frame.format.is_planar and not is_planar:
        resampler = av.AudioResampler(frame.format.packed, frame.layout, frame.sample_rate)
        parts = [*resampler.resample(frame), *resampler.resample(None)]
    values = np.concatenate([part.to_ndarray() for part in parts], axis=1)
    if not is_planar:
        values = values.reshape(-1, channels).T
    if values.dtype.kind == "f" and not (values.min() >= -1 and values.max() <= 1):  # also for NaN
        values = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), -1, 1)
    mean = values.mean(axis=0, dtype=np.float64)
    if values.dtype.kind != "f":
        zero = 128.0 if values.dtype.kind == "u" else 0.0
        mean = (mean - zero) / 2.0 ** (8 * values.itemsize - 1)
    samples: Samples = mean.astype(np.float32)
    return samples
