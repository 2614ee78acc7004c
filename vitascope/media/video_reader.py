"""Frames of an open video: seek to a key frame, decode forward past damaged packets, each frame once.

Timestamps are on the stream's own clock, in units of its time base, so that comparisons are exact.
"""

from __future__ import annotations

import bisect
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from typing import TYPE_CHECKING

import av.error

from vitascope.errors import MediaCorrupt, MediaTooLarge
from vitascope.media.formats import MAX_MISSING_FRACTION, missing_bytes
from vitascope.media.frame import Frame
from vitascope.media.limits import MediaLimits
from vitascope.media.video import READING_ERRORS, DecodedFrame, OpenVideo, OrientationCache

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

_SEEK_GAP = 3.0
"""Seconds between requested frames from which a seek is tried if no index lists the key frames."""
_PREROLL = 2.0
"""Seconds: an MPEG program stream's timestamps are guesses for some frames after a seek."""
_INDEXED = ("mp4", "matroska", "avi")
"""Containers whose index lists every key frame up to its last entry; others list only what was read so far."""
_WITHOUT_INDEX = ("mpegts", "mpeg")
"""Containers in which a seek by time to the start lands a few packets after it, so the first byte is sought."""
_LOOKAHEAD = 24
"""Packets read ahead of the decoder; more than any common codec reorders."""
_MAX_OVERLAP = 1
"""Maximum backward step of timestamps, in seconds, after which frames follow at once; after a larger step, timestamps
have started again and are shifted."""
_SKIPPABLE = ("h264", "hevc", "mpeg2video", "mpeg4")
"""Codecs whose decoders can omit, packet by packet, frames that no other frame refers to."""


def video_frames(video: OpenVideo, times: Sequence[float], limits: MediaLimits) -> Iterator[tuple[list[int], Frame]]:
    """Decode each distinct frame that is on screen at ``times``.

    The frame on screen is the last that starts at or before the time, clamped to the first and the last frame.

    Args:
        video: Video to decode.
        times: Seconds from the origin, in any order.
        limits: Limits on the file.

    Yields:
        The indices in ``times`` of the times at which a frame is on screen, and the frame.

    Raises:
        MediaCorrupt: Nothing decodes, or a damaged file ends before a requested time and more than 10% before its
            stated duration.
        MediaTooLarge: More than ``limits.max_frames`` must be decoded, or there is too little memory.
    """
    # Fine clocks round (Matroska to 1 ms): allow half a unit. Coarse ones count frames and are exact.
    slack = video.time_base / 2 if video.time_base <= Fraction(1, 1000) else Fraction(1, 1_000_000)
    order = sorted(range(len(times)), key=times.__getitem__)
    targets = [int((Fraction(times[i]) + video.origin + slack) / video.time_base // 1) for i in order]
    reader = _SeekReader(video, targets, limits)
    orientations = OrientationCache()
    group: list[int] = []
    current: VideoFrame | None = None
    with closing(reader):
        for position, target in zip(order, targets, strict=True):
            frame = reader.frame_at(target)
            if current is not None and frame is not current:
                yield group, _decoded_frame(video, current, orientations, limits)
                group = []
            current = frame
            group.append(position)
        if current is not None:
            yield group, _decoded_frame(video, current, orientations, limits)


def every_frame(
    video: OpenVideo, limits: MediaLimits, key_frame_interval: float | None = None
) -> Iterator[tuple[float, DecodedFrame]]:
    """Decode every frame once, in display order, with its start in seconds from the origin.

    With ``key_frame_interval``, decode only key frames that are at least so many seconds apart. Damaged frames are
    omitted. Raises MediaTooLarge beyond ``limits``.
    """
    frames = FrameIterator(video, None, limits, from_start=True, frames_left=limits.max_frames)
    if key_frame_interval is not None:
        frames.key_frame_interval = round(key_frame_interval / video.time_base)
    orientations = OrientationCache()
    with closing(frames):
        for frame in frames:
            second = max(0.0, float(frames.pts_of(frame) * video.time_base - video.origin))
            yield second, _decoded_frame(video, frame, orientations, limits)


def _decoded_frame(
    video: OpenVideo, frame: VideoFrame, orientations: OrientationCache, limits: MediaLimits
) -> DecodedFrame:
    limits.check_pixels(video.file.name, frame.width, frame.height)  # the size may change within a stream
    return DecodedFrame(video.file.name, frame, orientations.of(frame), video.pixel_aspect)


class FrameIterator:
    """Iterator over the frames of a video in display order, from the current position of its container."""

    def __init__(
        self, video: OpenVideo, targets: Sequence[int] | None, limits: MediaLimits, from_start: bool, frames_left: int
    ) -> None:
        """Create the iterator.

        Args:
            video: Video to decode.
            targets: Ascending timestamps whose frames are needed, None for every frame.
            limits: Limits on the file.
            from_start: Whether the container is at its beginning.
            frames_left: Number of frames that may be decoded.
        """
        self.video = video
        self.limits = limits
        self.from_start = from_start
        self.frames_left = frames_left
        self.first_key: int | None = None
        """Timestamp of the first key frame."""
        self.last_sent = 0
        """Greatest timestamp sent to the decoder."""
        self.damaged = 0
        """Packets since the last good frame that could not be read or decoded."""
        self.out_of_memory = False
        """Whether decoding one of them failed for lack of memory."""
        self.stop_at: int | None = None
        """Target after which no frame of this iterator is needed; None while unknown."""
        self.stopped_at: int | None = None
        """After stopping at ``stop_at``: the timestamp of the frame on screen then."""
        self.key_frame_interval: int | None = None
        """Decode only key frames, at least this far apart; None: decode every frame."""
        step = 1 / ((video.stream.average_rate or 25) * video.time_base)
        self.nominal_frame_step = max(1, round(step))
        self._is_avi = video.file_format.container == "avi"
        self._can_skip = video.stream.codec_context.codec.canonical_name in _SKIPPABLE and not self._is_avi
        self._can_skip &= targets is not None
        self._targets = targets or ()
        self._sent: deque[int] = deque(maxlen=2 * _LOOKAHEAD)
        self._last: int | None = None
        self._last_stated: int | None = None
        """Timestamp of the last frame in the file; ``_last`` is its shifted timestamp."""
        self._frames = self._decode_all()

    def __iter__(self) -> FrameIterator:
        return self

    def __next__(self) -> VideoFrame:
        return next(self._frames)

    def close(self) -> None:
        """Release packets and frames now rather than at the next garbage collection."""
        self._frames.close()

    def pts_of(self, frame: VideoFrame) -> int:
        """Return a frame's timestamp in the stream's time base."""
        return frame.pts or 0

    def _decode_all(self) -> Generator[VideoFrame]:
        ahead: deque[Packet[VideoStream]] = deque()
        depth = _LOOKAHEAD if self._can_skip else 0
        for packet in self._packets():
            if self.first_key is None:
                if not self.from_start and not packet.is_keyframe:
                    continue  # it refers to packets before the seek
                self.first_key = packet.pts
            ahead.append(packet)
            if len(ahead) > depth:
                yield from self._decode(ahead.popleft(), ahead)
                if self._should_stop(ahead):
                    # Flushing the decoder is faster than decoding until it returns the frame.
                    ahead.clear()
                    break
        while ahead:
            yield from self._decode(ahead.popleft(), ahead)
        yield from self._decode(None, ahead)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        next_key_frame: int | None = None
        try:
            for packet in self.video.container.demux(self.video.stream):
                if not packet.size:  # the last one, which means: flush
                    continue
                if self.key_frame_interval is not None:
                    timestamp = packet.pts if packet.dts is None else packet.dts
                    is_due = next_key_frame is None or timestamp is None or timestamp >= next_key_frame
                    if not (packet.is_keyframe and is_due):
                        continue
                    next_key_frame = (timestamp or 0) + self.key_frame_interval
                yield packet
        except READING_ERRORS as error:
            self.damaged += 1
            logger.info("%s: reading ends early: %s", self.video.file.name, error)

    def _decode(self, packet: Packet[VideoStream] | None, ahead: deque[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        stream = self.video.stream
        if packet is not None and packet.pts is not None:
            skip = self._can_skip and self._is_never_on_screen(packet.pts, ahead)
            stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            self._sent.append(packet.pts)
            self.last_sent = max(self._sent)
        try:
            frames = stream.decode(packet)
        except READING_ERRORS as error:
            self.damaged += 1
            self.out_of_memory |= isinstance(error, MemoryError)
            logger.debug("%s: skipped a damaged packet: %s", self.video.file.name, error)
            return
        for frame in frames:
            if self._accept(frame):
                yield frame

    def _accept(self, frame: VideoFrame) -> bool:
        """Set the timestamp of a decoded frame; False if it is incomplete."""
        self.frames_left -= 1
        if self.frames_left < 0:
            self.limits.check_frames(self.video.file.name, self.limits.max_frames + 1)
        frame.pts = self._ascending_timestamp(frame.pts, frame.dts)
        if not self.from_start and self.first_key is not None and frame.pts < self.first_key:
            return False  # it refers to frames before the seek
        self._last = frame.pts
        self.damaged = 0
        return True

    def _ascending_timestamp(self, pts: int | None, dts: int | None) -> int:
        """Frames come in display order, so timestamps must ascend; AVI stores only decoding times."""
        if dts is not None and self._is_avi:
            dts -= self.video.stream.codec_context.reorder_depth  # the time at which the decoder returned the frame
        timestamps = [timestamp for timestamp in ((dts, pts) if self._is_avi else (pts, dts)) if timestamp is not None]
        previous, self._last_stated = self._last_stated, timestamps[0] if timestamps else None
        for timestamp in timestamps:
            if self._last is None or timestamp > self._last:
                return timestamp
        if self._last is None:
            return 0
        is_ascending = bool(timestamps) and previous is not None and timestamps[0] > previous
        if is_ascending and (self._last - timestamps[0]) * self.video.time_base < _MAX_OVERLAP:
            return self._last + 1  # it follows a repeated timestamp
        return self._last + self.nominal_frame_step

    def _should_stop(self, ahead: deque[Packet[VideoStream]]) -> bool:
        """Return whether everything needed for the frame at ``stop_at`` has been sent to the decoder."""
        stop_at = self.stop_at
        if stop_at is None or not ahead or not all(packet.pts is not None and packet.pts > stop_at for packet in ahead):
            return False
        self.stopped_at = max((sent for sent in self._sent if sent <= stop_at), default=None)
        return self.stopped_at is not None

    def _is_never_on_screen(self, pts: int, ahead: deque[Packet[VideoStream]]) -> bool:
        """Return whether other frames are on screen at every target, so that this one need not be decoded."""
        index = bisect.bisect_left(self._targets, pts)
        if index == len(self._targets):
            return True
        target = self._targets[index]
        is_replaced = any(packet.pts is not None and pts < packet.pts <= target for packet in ahead)
        return is_replaced or any(pts < sent <= target for sent in self._sent)


class _SeekReader:
    """Returns the frames at ascending timestamps, and seeks if that saves decoding."""

    def __init__(self, video: OpenVideo, targets: Sequence[int], limits: MediaLimits) -> None:
        self.video = video
        self.targets = targets
        self.limits = limits
        self.frames_left = limits.max_frames
        self.gap = _SEEK_GAP
        self.frames: FrameIterator | None = None
        self.current: VideoFrame | None = None
        """The last frame at or before the last target."""
        self.following: VideoFrame | None = None
        """The frame after it, already decoded."""

    def close(self) -> None:
        """Release the decoder's frames."""
        if self.frames is not None:
            self.frames.close()

    def frame_at(self, target: int) -> VideoFrame:
        if self.frames is None or self.frames.stopped_at is not None:
            self._restart(target)
        elif self._is_seek_useful(target):
            before = self.frames.last_sent
            self._restart(target)
            self._forward(target)
            if self.current is None or (self.frames.first_key or 0) <= before:
                self.gap *= 2  # the seek went back: seeking is not useful in this file
        self._finish(target)
        back = 1.0
        while self.current is None and self.frames is not None and not self.frames.from_start:
            # The seek landed after the target, or nothing decodes from there: start earlier.
            self._restart(target - round(back / self.video.time_base))
            self._forward(target)
            back *= 4
        frame = self.current or self.following
        if frame is None and self.frames is not None and self.frames.out_of_memory:
            raise MediaTooLarge(f"{self.video.file.name}: decoding it needs more memory than there is")
        if frame is None:
            raise MediaCorrupt(f"{self.video.file.name}: not a single frame can be decoded")
        if self.following is None and (self.frames is None or self.frames.stopped_at is None):
            self._check_not_truncated(frame, target)
        return frame

    def _finish(self, target: int) -> None:
        """Decode until ``target``, and no further if the next target is for another iterator."""
        assert self.frames is not None
        if self._is_last_target(target):
            self.frames.stop_at = target
        self._forward(target)
        stopped_at = self.frames.stopped_at
        if stopped_at is not None and (self.current is None or self.frames.pts_of(self.current) != stopped_at):
            # The frame is damaged. Continue to decode, to find the frame shown instead and whether others follow.
            self._restart(target)
            self._forward(target)

    def _is_last_target(self, target: int) -> bool:
        """Return whether there is no further target, or the next is far and has a key frame before it."""
        assert self.frames is not None
        index = bisect.bisect_right(self.targets, target)
        if index == len(self.targets):
            return True
        next_target = self.targets[index]
        is_far = next_target - target > _LOOKAHEAD * self.frames.nominal_frame_step
        return is_far and self.video.file_format.container in _INDEXED and self._has_key_frame(target, next_target)

    def _forward(self, target: int) -> None:
        """Decode until the frame after ``target`` is known."""
        assert self.frames is not None
        while True:
            if self.following is None:
                self.following = next(self.frames, None)
            if self.following is None or self.frames.pts_of(self.following) > target:
                return
            self.current, self.following = self.following, None

    def _restart(self, timestamp: int) -> None:
        """Begin at the last key frame before ``timestamp``, or at the start of the file."""
        video = self.video
        first = video.stream.start_time or 0
        if video.file_format.container == "mpeg":
            timestamp -= round(_PREROLL / video.time_base)
        from_start = timestamp <= first
        if self.frames is not None:
            self.frames_left = self.frames.frames_left
            self.frames.close()
        elif not from_start and video.stream.codec_context.pix_fmt == "pal8":
            with suppress(*READING_ERRORS):  # FFmpeg passes the palette with the first packet alone
                next(video.container.decode(video.stream), None)
        if self.frames is not None or not from_start:
            from_start = self._seek(first if from_start else timestamp, from_start)
        self.current = self.following = None
        self.frames = FrameIterator(video, self.targets, self.limits, from_start, self.frames_left)

    def _seek(self, timestamp: int, to_start: bool) -> bool:
        """Seek; True if it went to the start of the file, as it does if the file does not support seeking by time."""
        video = self.video
        by_byte = to_start and video.file_format.container in _WITHOUT_INDEX
        try:
            video.container.seek(0 if by_byte else timestamp, stream=video.stream, unsupported_byte_offset=by_byte)
        except av.error.FFmpegError as error:
            if self.frames is None:
                return True
            try:
                video.container.seek(0, stream=video.stream, unsupported_byte_offset=True)
            except av.error.FFmpegError:
                raise MediaCorrupt(f"{video.file.name}: seeking failed: {error.strerror}") from error
            return True
        return to_start

    def _is_seek_useful(self, target: int) -> bool:
        """Return whether a key frame lies between what was sent to the decoder and ``target``."""
        assert self.frames is not None
        position = self.frames.last_sent
        if target <= position:
            return False
        if self._has_key_frame(position, target):
            return True
        index = self.video.stream.index_entries
        gap = self.gap / self.video.time_base
        has_index = self.video.file_format.container in _INDEXED and len(index) > 0
        is_indexed = has_index and index[-1].timestamp >= target - gap
        return not is_indexed and target - position > gap

    def _has_key_frame(self, after: int, until: int) -> bool:
        """Return whether the index, as far as it has been read, lists a key frame in (after, until]."""
        index = self.video.stream.index_entries
        entry = index.search_timestamp(until, backward=True) if len(index) else -1
        return entry >= 0 and index[entry].timestamp > after

    def _check_not_truncated(self, last: VideoFrame, target: int) -> None:
        """Raise MediaCorrupt if ``target`` is after ``last``, the last frame, because the file is truncated."""
        video, frames = self.video, self.frames
        assert frames is not None
        if video.stated_duration is None:
            return
        step = last.duration or frames.nominal_frame_step
        end_timestamp = frames.pts_of(last) + step
        end = float(end_timestamp * video.time_base - video.origin)
        if target < end_timestamp or end >= (1 - MAX_MISSING_FRACTION) * video.stated_duration:
            return
        missing = missing_bytes(video.file, video.file_format.container)
        if missing or frames.damaged or video.file_format.container == "flv":
            cause = f"the file is truncated by {missing} bytes" if missing else "the rest is damaged"
            raise MediaCorrupt(
                f"{video.file.name}: {end:.2f} seconds can be decoded of the "
                f"{video.stated_duration:.2f} seconds that its header states; {cause}"
            )
