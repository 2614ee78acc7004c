"""Frames of a video at wanted times: seek to the key frame before, decode forward, each frame once.

Timestamps here are on the stream's own clock, in units of its time base, so that comparing them is exact.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from typing import TYPE_CHECKING

import av.error

from vitascope.errors import MediaCorrupt, MediaTooLarge
from vitascope.media.container import OpenVideo
from vitascope.media.frame import Frame
from vitascope.media.frame_iterator import LOOKAHEAD, Run
from vitascope.media.limits import MediaLimits, check_pixels
from vitascope.media.truncation import MISSING_SHARE, missing_bytes
from vitascope.media.video_frame import DecodedFrame, Turns

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_SEEK_GAP = 3.0
"""Seconds between wanted frames from which seeking is tried where no index tells of the key frames."""
_PREROLL = 2.0
"""Seconds: an MPEG program stream's timestamps are guesses for some frames after a seek."""
_INDEXED = ("mp4", "matroska", "avi")
"""Their indices name every key frame up to the last entry; others only know what was read so far."""
_WITHOUT_INDEX = ("mpegts", "mpeg")
"""Here a seek by time to the start lands a few packets after it, so the first byte is sought."""


def video_frames(video: OpenVideo, times: Sequence[float], limits: MediaLimits) -> Iterator[tuple[list[int], Frame]]:
    """Each distinct frame that ``times`` (s from the origin, any order) need, with the positions it answers.

    The frame on screen: the last that starts at or before the time; before the first frame the first,
    after the last the last. Raises MediaCorrupt when nothing decodes, or when a damaged file ends
    before a wanted time and more than 10% before its stated duration.
    """
    # Fine clocks round (Matroska to 1 ms): allow half a unit. Coarse ones count frames and are exact.
    slack = video.time_base / 2 if video.time_base <= Fraction(1, 1000) else Fraction(1, 1_000_000)
    order = sorted(range(len(times)), key=times.__getitem__)
    wanted = [int((Fraction(times[i]) + video.origin + slack) / video.time_base // 1) for i in order]
    reader = _Reader(video, wanted, limits)
    turns = Turns()
    group: list[int] = []
    current: VideoFrame | None = None
    with closing(reader):
        for position, want in zip(order, wanted, strict=True):
            frame = reader.frame_at(want)
            if current is not None and frame is not current:
                yield group, _shown(video, current, turns, limits)
                group = []
            current = frame
            group.append(position)
        if current is not None:
            yield group, _shown(video, current, turns, limits)


def every_frame(video: OpenVideo, limits: MediaLimits) -> Iterator[tuple[float, DecodedFrame]]:
    """Every frame that decodes, once, in order of showing, with the second from the origin at which it begins.

    Damaged frames are passed over. Raises MediaTooLarge beyond ``limits``.
    """
    run = Run(video, None, limits, from_start=True, frames_left=limits.max_frames)
    turns = Turns()
    with closing(run):
        for frame in run:
            second = max(0.0, float(run.stamp(frame) * video.time_base - video.origin))
            yield second, _shown(video, frame, turns, limits)


def _shown(video: OpenVideo, frame: VideoFrame, turns: Turns, limits: MediaLimits) -> DecodedFrame:
    check_pixels(video.file.name, frame.width, frame.height, limits)  # the size may change within a stream
    return DecodedFrame(video.file.name, frame, turns.of(frame), video.pixel_aspect)


class _Reader:
    """Answers ascending wanted timestamps, seeking where that saves decoding."""

    def __init__(self, video: OpenVideo, wanted: Sequence[int], limits: MediaLimits) -> None:
        self.video = video
        self.wanted = wanted
        self.limits = limits
        self.frames_left = limits.max_frames
        self.gap = _SEEK_GAP
        self.run: Run | None = None
        self.held: VideoFrame | None = None
        """The last frame at or before the timestamp asked last."""
        self.pending: VideoFrame | None = None
        """The frame after it, already decoded."""

    def close(self) -> None:
        """Let go of the decoder's frames."""
        if self.run is not None:
            self.run.close()

    def frame_at(self, want: int) -> VideoFrame:
        if self.run is None or self.run.reached is not None:
            self._start(want)
        elif self._is_worth_seeking(want):
            before = self._position()
            self._start(want)
            self._forward(want)
            if self.held is None or (self.run.first_key or 0) <= before:
                self.gap *= 2  # landed behind where it was: seeking does not pay in this file
        self._finish(want)
        back = 1.0
        while self.held is None and self.run is not None and not self.run.from_start:
            # The seek landed after the wanted frame, or nothing decodes from there: start earlier.
            self._start(want - round(back / self.video.time_base))
            self._forward(want)
            back *= 4
        frame = self.held or self.pending
        if frame is None and self.run is not None and self.run.lacked_memory:
            raise MediaTooLarge(f"{self.video.file.name}: decoding it needs more memory than there is")
        if frame is None:
            raise MediaCorrupt(f"{self.video.file.name}: not a single frame can be decoded")
        if self.pending is None and (self.run is None or self.run.reached is None):
            self._check_not_truncated(frame, want)
        return frame

    def _finish(self, want: int) -> None:
        """``_forward``, and no further than to ``want`` where the next wanted frame is for another run."""
        assert self.run is not None
        if self._is_last_of_run(want):
            self.run.goal = want
        self._forward(want)
        reached = self.run.reached
        if reached is not None and (self.held is None or self.run.stamp(self.held) != reached):
            # The frame is damaged. What is shown instead, and whether anything follows, only decoding on can tell.
            self._start(want)
            self._forward(want)

    def _is_last_of_run(self, want: int) -> bool:
        """Whether nothing more is wanted, or what is wanted next is far off and has a key frame before it."""
        assert self.run is not None
        following = bisect.bisect_right(self.wanted, want)
        if following == len(self.wanted):
            return True
        coming = self.wanted[following]
        is_far = coming - want > LOOKAHEAD * self.run.usual_step
        return is_far and self.video.signature.container in _INDEXED and self._has_key_frame(want, coming)

    def _forward(self, want: int) -> None:
        """Decode until the frame after ``want`` is known."""
        assert self.run is not None
        while True:
            if self.pending is None:
                self.pending = next(self.run, None)
            if self.pending is None or self.run.stamp(self.pending) > want:
                return
            self.held, self.pending = self.pending, None

    def _position(self) -> int:
        assert self.run is not None
        return self.run.last_sent

    def _start(self, at: int) -> None:
        """Begin a run at the last key frame before ``at``, or at the beginning."""
        video = self.video
        first = video.stream.start_time or 0
        if video.signature.container == "mpeg":
            at -= round(_PREROLL / video.time_base)
        from_start = at <= first
        if self.run is not None:
            self.frames_left = self.run.frames_left
            self.run.close()
        if self.run is not None or not from_start:
            from_start = self._seek(first if from_start else at, from_start)
        self.held = self.pending = None
        self.run = Run(video, self.wanted, self.limits, from_start, self.frames_left)

    def _seek(self, at: int, to_start: bool) -> bool:
        """Whether it went to the very start, as it also does where a file cannot be sought by time."""
        video = self.video
        by_byte = to_start and video.signature.container in _WITHOUT_INDEX
        try:
            video.container.seek(0 if by_byte else at, stream=video.stream, unsupported_byte_offset=by_byte)
        except av.error.FFmpegError as error:
            if self.run is None:
                return True
            try:
                video.container.seek(0, stream=video.stream, unsupported_byte_offset=True)
            except av.error.FFmpegError:
                raise MediaCorrupt(f"{video.file.name}: cannot be sought: {error.strerror}") from error
            return True
        return to_start

    def _is_worth_seeking(self, want: int) -> bool:
        """Whether a key frame lies between what was fed to the decoder and ``want``."""
        position = self._position()
        if want <= position:
            return False
        if self._has_key_frame(position, want):
            return True
        index = self.video.stream.index_entries
        gap = self.gap / self.video.time_base
        has_index = self.video.signature.container in _INDEXED and len(index) > 0
        is_indexed = has_index and index[-1].timestamp >= want - gap
        return not is_indexed and want - position > gap

    def _has_key_frame(self, after: int, until: int) -> bool:
        """Whether the index, as far as it has been read, knows a key frame after the one and not after the other."""
        index = self.video.stream.index_entries
        entry = index.search_timestamp(until, backward=True) if len(index) else -1
        return entry >= 0 and index[entry].timestamp > after

    def _check_not_truncated(self, last: VideoFrame, want: int) -> None:
        """``last`` is the last frame that decodes; is ``want`` past it because the file is broken off?"""
        video, run = self.video, self.run
        assert run is not None
        if video.stated_duration is None:
            return
        step = last.duration or run.usual_step
        end_stamp = run.stamp(last) + step
        end = float(end_stamp * video.time_base - video.origin)
        if want < end_stamp or end >= (1 - MISSING_SHARE) * video.stated_duration:
            return
        missing = missing_bytes(video.file, video.signature.container)
        if missing or run.damaged or video.signature.container == "flv":
            cause = f"the file breaks off {missing} bytes early" if missing else "what follows is damaged"
            raise MediaCorrupt(
                f"{video.file.name}: {end:.2f} seconds can be decoded of the "
                f"{video.stated_duration:.2f} seconds that its header states; {cause}"
            )
