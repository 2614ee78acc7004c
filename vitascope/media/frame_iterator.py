"""Decoding forward from one seek, passing over damaged packets and frames that nobody will see."""

from __future__ import annotations

import bisect
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from vitascope.errors import MediaTooLarge
from vitascope.media.container import READING_ERRORS, OpenVideo
from vitascope.media.limits import MediaLimits

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

LOOKAHEAD = 24
"""Packets read ahead of the decoder; more than any common codec reorders."""
_SKIPPING = ("h264", "hevc", "mpeg2video", "mpeg4")
"""Codecs whose decoders can be told, packet by packet, to leave out frames that no other refers to."""


class Run:
    """An iterator of frames in order of showing; ``stamp(frame)`` is a frame's timestamp."""

    def __init__(
        self, video: OpenVideo, wanted: Sequence[int] | None, limits: MediaLimits, from_start: bool, frames_left: int
    ) -> None:
        """``wanted``: ascending timestamps at which frames are shown to somebody; None: every frame is."""
        self.video = video
        self.limits = limits
        self.from_start = from_start
        self.frames_left = frames_left
        """Frames that may still be decoded."""
        self.first_key: int | None = None
        """Timestamp of the key frame it began with."""
        self.last_sent = 0
        """Greatest timestamp fed to the decoder."""
        self.damaged = 0
        """Packets since the last good frame that could not be read or decoded."""
        self.lacked_memory = False
        """Whether one of them could not, for want of memory."""
        self.goal: int | None = None
        """A wanted timestamp after which nothing more is wanted of this run; None while that is not known."""
        self.reached: int | None = None
        """Once it ended at the goal: the timestamp of the packet that is on screen then."""
        step = 1 / ((video.stream.average_rate or 25) * video.time_base)
        self.usual_step = max(1, round(step))
        self._is_avi = video.signature.container == "avi"
        self._can_skip = video.stream.codec_context.codec.canonical_name in _SKIPPING and not self._is_avi
        self._can_skip &= wanted is not None
        self._wanted = wanted or ()
        self._sent: deque[int] = deque(maxlen=2 * LOOKAHEAD)
        self._last: int | None = None
        self._frames = self._decode_all()

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> VideoFrame:
        return next(self._frames)

    def close(self) -> None:
        """Let go of packets and frames now; they and the decoder would stay until a collection of garbage else."""
        self._frames.close()

    def stamp(self, frame: VideoFrame) -> int:
        """The frame's timestamp in the stream's time base."""
        return frame.pts or 0

    def _decode_all(self) -> Generator[VideoFrame]:
        ahead: deque[Packet[VideoStream]] = deque()
        depth = LOOKAHEAD if self._can_skip else 0
        for packet in self._packets():
            if self.first_key is None:
                if not self.from_start and not packet.is_keyframe:
                    continue  # it refers to packets before the seek
                self.first_key = packet.pts
            ahead.append(packet)
            if len(ahead) > depth:
                yield from self._decode(ahead.popleft(), ahead)
                if self._has_reached(ahead):
                    # The decoder gives out what it holds back: quicker than decoding on until it does.
                    ahead.clear()
                    break
        while ahead:
            yield from self._decode(ahead.popleft(), ahead)
        yield from self._decode(None, ahead)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        try:
            for packet in self.video.container.demux(self.video.stream):
                if packet.size:  # the last one is empty and means: flush
                    yield packet
        except READING_ERRORS as error:
            self.damaged += 1
            logger.info("%s: reading ends early: %s", self.video.file.name, error)

    def _decode(self, packet: Packet[VideoStream] | None, ahead: deque[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        stream = self.video.stream
        if packet is not None and packet.pts is not None:
            skip = self._can_skip and self._is_never_shown(packet.pts, ahead)
            stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            self._sent.append(packet.pts)
            self.last_sent = max(self._sent)
        try:
            frames = stream.decode(packet)
        except READING_ERRORS as error:
            self.damaged += 1
            self.lacked_memory |= isinstance(error, MemoryError)
            logger.debug("%s: a damaged packet was passed over: %s", self.video.file.name, error)
            return
        for frame in frames:
            if self._take(frame):
                yield frame

    def _take(self, frame: VideoFrame) -> bool:
        """Note a decoded frame; False when it is not whole."""
        self.frames_left -= 1
        if self.frames_left < 0:
            raise MediaTooLarge(f"{self.video.file.name}: more than {self.limits.max_frames} frames had to be decoded")
        frame.pts = self._timestamp(frame.pts, frame.dts)
        if not self.from_start and self.first_key is not None and frame.pts < self.first_key:
            return False  # it refers to frames before the seek
        self._last = frame.pts
        self.damaged = 0
        return True

    def _timestamp(self, pts: int | None, dts: int | None) -> int:
        """Frames come in order of showing, so timestamps must ascend; AVI stores only decoding times."""
        if dts is not None and self._is_avi:
            dts -= self.video.stream.codec_context.reorder_depth  # it is when the decoder gave the frame out
        for stamp in (dts, pts) if self._is_avi else (pts, dts):
            if stamp is not None and (self._last is None or stamp > self._last):
                return stamp
        return 0 if self._last is None else self._last + self.usual_step

    def _has_reached(self, ahead: deque[Packet[VideoStream]]) -> bool:
        """Whether all that is needed to show the goal has been fed to the decoder."""
        goal = self.goal
        if goal is None or not ahead or not all(packet.pts is not None and packet.pts > goal for packet in ahead):
            return False
        self.reached = max((sent for sent in self._sent if sent <= goal), default=None)
        return self.reached is not None

    def _is_never_shown(self, pts: int, ahead: deque[Packet[VideoStream]]) -> bool:
        """Whether other frames are on screen at every wanted time; then this one need not be decoded."""
        following = bisect.bisect_left(self._wanted, pts)
        if following == len(self._wanted):
            return True
        want = self._wanted[following]
        coming = any(packet.pts is not None and pts < packet.pts <= want for packet in ahead)
        return coming or any(pts < sent <= want for sent in self._sent)
