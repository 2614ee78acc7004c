"""Previews: spans of a video as H.264 and AAC in a small MP4, for browsers that cannot play the file itself."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput, MediaError, MediaUnsupported
from vitascope.media.audio import is_decodable, main_audio_stream
from vitascope.media.decode import DECODING_THREADS, frames_at, probe
from vitascope.media.file import MediaFile
from vitascope.media.formats import sniff
from vitascope.media.frame import Frame, size_within
from vitascope.media.limits import MediaLimits
from vitascope.media.video import READING_ERRORS, OpenVideo, open_video

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.packet import Packet

MEDIA_TYPE = "video/mp4"
MAX_BYTES_PER_SECOND = 500_000
"""Upper bound of the size of a preview; the encoder is limited to about half of it."""
_FRAME_RATE = 25
_SAMPLE_RATE = 44_100
_AUDIO_FRAME = 1024
"""Samples per AAC frame."""
_ENCODER = "libx264"
_VIDEO_OPTIONS = {"preset": "veryfast", "crf": "28", "maxrate": "1500k", "bufsize": "1500k"}
_MAX_DRIFT = 0.1
"""Maximum difference, in seconds, between the time of decoded sound and the sound before it; beyond it, it is moved."""


def encode_preview(file: MediaFile, start: float, end: float, side: int, limits: MediaLimits) -> bytes:
    """Encode a span of a video as MP4, whose time 0 is the start of the span.

    Sound that cannot be decoded is left out.

    Args:
        file: The video.
        start: Start of the span in seconds.
        end: End of the span in seconds; clamped to the end of the video.
        side: Maximum length of the longer side in pixels.
        limits: Limits on the file.

    Raises:
        InvalidInput: The span is empty.
        MediaUnsupported, MediaCorrupt, MediaTooLarge, MediaError: The file cannot be decoded, or is a picture; or this
            build of PyAV cannot encode H.264.
    """
    if _ENCODER not in av.codecs_available:
        raise MediaUnsupported(f"{file.name}: no preview: this build of PyAV has no encoder {_ENCODER}")
    duration = probe(file, limits).duration
    if not 0 <= start < min(end, duration):
        raise InvalidInput(f"start, end: {start:g}, {end:g}; a span of the {duration:g} seconds was expected")
    seconds = min(end, duration) - start
    times = [start + number / _FRAME_RATE for number in range(math.ceil(seconds * _FRAME_RATE))]
    samples = _decode_sound(file, start, seconds, limits)
    output = io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        video: Any = container.add_stream(_ENCODER, rate=_FRAME_RATE, options=_VIDEO_OPTIONS)
        video.codec_context.thread_count = DECODING_THREADS
        sound: Any = None if samples is None else container.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
        sound_packets = iter(()) if sound is None or samples is None else _encode_sound(sound, samples)
        packet = next(sound_packets, None)
        for positions, frame in frames_at(file, times, limits, threads=DECODING_THREADS):
            if positions[0] == 0:
                video.width, video.height = _even_size(frame, side)
                video.pix_fmt = "yuv420p"
            pixels = frame.rgb(video.width, video.height)
            for position in positions:
                picture: Any = av.VideoFrame.from_ndarray(pixels, "rgb24")
                picture.pts, picture.time_base = position, Fraction(1, _FRAME_RATE)
                container.mux(video.encode(picture))
                while packet is not None and (packet.pts or 0) * packet.time_base <= position / _FRAME_RATE:
                    container.mux(packet)  # interleaved, as players expect
                    packet = next(sound_packets, None)
        container.mux(video.encode())
        while packet is not None:
            container.mux(packet)
            packet = next(sound_packets, None)
    return output.getvalue()


def _even_size(frame: Frame, side: int) -> tuple[int, int]:
    """Return a (width, height) within ``side``; both are even, as 4:2:0 requires."""
    width, height = size_within(frame, side)
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def _encode_sound(stream: AudioStream, samples: NDArray[np.float32]) -> Iterator[Packet[AudioStream]]:
    for first in range(0, samples.shape[1], _AUDIO_FRAME):
        part = np.ascontiguousarray(samples[:, first : first + _AUDIO_FRAME])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = _SAMPLE_RATE, first, Fraction(1, _SAMPLE_RATE)
        yield from stream.encode(frame)
    yield from stream.encode()


def _decode_sound(file: MediaFile, start: float, seconds: float, limits: MediaLimits) -> NDArray[np.float32] | None:
    """Return the sound of a span as (2, samples) float32, with silence where there is none; None without sound."""
    samples = np.zeros((2, math.ceil(seconds * _SAMPLE_RATE)), np.float32)
    try:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            return None
        with open_video(file, file_format, limits, threads=1) as video:
            stream = main_audio_stream(video.container)
            if stream is None or not is_decodable(stream):
                return None
            resampler = av.AudioResampler("fltp", "stereo", _SAMPLE_RATE)
            position: int | None = None
            for frame in _audio_frames(video, stream, start):
                time = (frame.time or 0.0) - float(video.origin) - start
                if position is None or abs(time - position / _SAMPLE_RATE) > _MAX_DRIFT:
                    position = round(time * _SAMPLE_RATE)
                if position >= samples.shape[1]:
                    break
                for part in resampler.resample(frame):
                    values = part.to_ndarray()
                    first, last = max(0, position), min(samples.shape[1], position + values.shape[1])
                    if first < last:
                        samples[:, first:last] = values[:, first - position : last - position]
                    position += values.shape[1]
    except (MediaError, *READING_ERRORS):
        return samples if samples.any() else None
    return samples


def _audio_frames(video: OpenVideo, stream: AudioStream, start: float) -> Iterator[AudioFrame]:
    """Decode sound from a little before ``start`` (s), or from the beginning if the file does not support seeking."""
    if start > 0:
        try:
            target = int((Fraction(start) + video.origin - 1) / (stream.time_base or Fraction(1)))
            video.container.seek(target, stream=stream)
        except READING_ERRORS:
            pass
    for packet in video.container.demux(stream):
        try:
            yield from packet.decode()
        except READING_ERRORS:
            continue  # a damaged packet
