"""Text subtitles that a container holds beside the picture, as cues on the clock of its video."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from av.stream import Discard, Disposition

from vitascope.errors import SubtitlesCorrupt
from vitascope.media.container import READING_ERRORS, OpenVideo, open_video
from vitascope.media.file import MediaFile, MediaSource, held_open
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.sniff import Signature, sniff
from vitascope.media.subtitles import Cue, plain_text

if TYPE_CHECKING:
    from av.subtitles.stream import SubtitleStream

_TEXT_CODECS = frozenset({"subrip", "mov_text", "webvtt", "ass", "ssa", "text"})
"""FFmpeg gives the words of all of them as ASS; other codecs are pictures of words."""
_ASS_FIELDS = 9
"""Of a decoded event; the last one is the text and may have commas."""
MAX_CUES = 100_000


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A text subtitle stream: its place among the container's streams, ISO 639-2 language ("" where none is
    stated), and whether it only has what a viewer of the original cannot read.
    """

    index: int
    language: str
    forced: bool


def subtitle_streams(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> list[StreamInfo]:
    """The text subtitle streams of a file, in its order; none for a picture. Raises media errors."""
    with held_open(source) as file:
        signature = sniff(file, limits)
        return [] if signature.demuxer is None else _subtitle_streams(file, signature, limits)


def _subtitle_streams(file: MediaFile, signature: Signature, limits: MediaLimits) -> list[StreamInfo]:
    with open_video(file, signature, limits, threads=1) as video:
        return [
            StreamInfo(
                stream.index,
                "" if stream.language in (None, "und") else str(stream.language).lower(),
                bool(stream.disposition & Disposition.forced),
            )
            for stream in video.container.streams.subtitles
            if _codec(stream) in _TEXT_CODECS
        ]


def stream_cues(source: MediaSource, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
    """What the text subtitle stream at ``index`` says, in order of time; one that shows no words is left out.

    Raises SubtitlesCorrupt where it cannot be read or has more than ``MAX_CUES``, and media errors.
    """
    with held_open(source) as file:
        signature = sniff(file, limits)
        if signature.demuxer is None:
            raise SubtitlesCorrupt(f"{file.name}: a picture; a video with subtitles was expected")
        return _stream_cues(file, signature, index, limits)


def _stream_cues(file: MediaFile, signature: Signature, index: int, limits: MediaLimits) -> list[Cue]:
    with open_video(file, signature, limits, threads=1) as video:
        for other in video.container.streams:
            other.discard = Discard.default if other.index == index else Discard.all
        stream: Any = video.container.streams[index]
        try:
            return sorted(_cues(video, stream), key=lambda cue: (cue.start, cue.end))
        except READING_ERRORS as error:
            raise SubtitlesCorrupt(f"{file.name}: subtitle stream {index} cannot be read: {error}") from error


def _codec(stream: SubtitleStream) -> str | None:
    context = getattr(stream, "codec_context", None)
    return None if context is None else str(context.codec.canonical_name)


def _cues(video: OpenVideo, stream: SubtitleStream) -> list[Cue]:
    unit = stream.time_base or Fraction(1, 1000)
    cues: list[Cue] = []
    for packet in video.container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        decoded = stream.decode2(packet)
        words = [_words(rect.ass) for rect in decoded or [] if hasattr(rect, "ass")]
        text = " ".join(part for part in words if part)
        if not text:
            continue
        if len(cues) >= MAX_CUES:
            raise SubtitlesCorrupt(f"{video.file.name}: more than {MAX_CUES} subtitles in stream {stream.index}")
        start = float(packet.pts * unit - video.origin)
        end = start + float(max(0, packet.duration or 0) * unit)  # a damaged one may be negative
        if end > 0:
            cues.append(Cue(max(start, 0.0), end, text))
    return cues


def _words(event: bytes) -> str:
    fields = event.decode("utf-8", "replace").split(",", _ASS_FIELDS - 1)
    text = fields[-1] if len(fields) == _ASS_FIELDS else ""
    for mark in (r"\N", r"\n", r"\h"):
        text = text.replace(mark, " ")
    return plain_text(text)
