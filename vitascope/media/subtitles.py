"""Parser of subtitles: SubRip (.srt) and WebVTT (.vtt) files, and text streams of containers.

A cue is a line of two times, `00:00:01,000 --> 00:00:02,500` (comma or dot, hours optional), followed by lines of text;
a line above it may contain its name or number. A WebVTT file begins with WEBVTT, times may be followed by settings, and
the blocks NOTE, STYLE and REGION are ignored. The text of a cue is returned on one line, without tags (<i>, <v Name>,
{\\an8}) and with entities unescaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from av.stream import Discard, Disposition

from vitascope.errors import MediaError, SubtitlesCorrupt
from vitascope.media.audio import main_audio_stream
from vitascope.media.file import MediaFile, MediaSource, map_os_errors, open_source
from vitascope.media.formats import sniff
from vitascope.media.limits import DEFAULT_LIMITS, MAX_CUE_GAP, MediaLimits
from vitascope.media.video import READING_ERRORS, open_container, origin_of, video_streams

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.subtitles.stream import SubtitleStream

SUFFIXES = (".srt", ".vtt")
MAX_BYTES = 8 * 1024**2
"""Maximum bytes of a subtitle file; subtitles of a film have about 0.1 MB."""

_MAX_LINE = 10_000
"""Maximum characters of a line. Longer lines are not speech, and would slow down the patterns below."""
_ARROW = "-->"
_TIME = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]\d)[.,](\d{3})", re.ASCII)
# Possessive, so that a line of blanks is scanned once.
_BROKEN_ARROW = re.compile(r"\s*\d+:\d\d[\d:]*[.,]\d++\s*+(?:[-\u2013\u2014]\s*+)*+>?\s*+\d+:\d\d[\d:.,]*\s*$")
_HIDDEN_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

_TEXT_CODECS = frozenset({"subrip", "mov_text", "webvtt", "ass", "ssa", "text"})
"""Text codecs, which FFmpeg converts to ASS; subtitles of other codecs are pictures."""
_ASS_FIELDS = 9
"""Number of fields of an ASS event; the last one is the text and may contain commas."""
_ASS_BLOCK = re.compile(r"(\{[^{}]*\})")
"""Style overrides or a comment, in braces."""
_ASS_DRAWING = re.compile(r"\\p(\d+)", re.ASCII)
"""Tag that starts a drawing, with its scale; 0 ends the drawing."""
MAX_CUES = 100_000


@dataclass(frozen=True, slots=True)
class Cue:
    """Text on screen from ``start`` to ``end`` (s), on one line."""

    start: float
    end: float
    text: str


@dataclass
class _RawCue:
    """A cue as written in the file."""

    start: float
    end: float
    lines: list[str] = field(default_factory=list)


def parse_subtitles(text: str, name: str, *, vtt: bool) -> list[Cue]:
    """Parse the content of a subtitle file; return the cues that have text, in order of time.

    Automatic captions repeat each line in the next cue. A line that is also in the previous cue is omitted unless there
    is a pause between the two; if no line remains, the previous cue is extended instead.

    Args:
        text: content of the file.
        name: name of the file, for errors.
        vtt: whether the file is WebVTT; otherwise SubRip.

    Raises:
        SubtitlesCorrupt: a time, the header or a line is invalid; the message has the name and the line number.
    """
    # Not splitlines(), which also splits at characters that may occur in speech.
    lines = re.split(r"\r\n|\n|\r", text)
    for number, line in enumerate(lines, 1):
        if len(line) > _MAX_LINE:
            raise SubtitlesCorrupt(f"{name}:{number}: {len(line)} characters; at most {_MAX_LINE} were expected")
    if vtt and not re.match(r"WEBVTT(?:\s|$)", lines[0]):
        raise SubtitlesCorrupt(f"{name}:1: header: {lines[0][:60]!r}; WEBVTT was expected")
    cues = _parse_cues(name, lines, vtt)
    return _without_repeats(sorted(cues, key=lambda cue: (cue.start, cue.end)))


def read_subtitles(source: MediaSource) -> tuple[list[Cue], str]:
    """Read an .srt or .vtt file; return its cues and the detected encoding.

    Raises SubtitlesCorrupt with the name of the file and the invalid line.
    """
    text, encoding = read_text(source)
    path = source.path if isinstance(source, MediaFile) else Path(source)
    return parse_subtitles(text, path.name, vtt=path.suffix.lower() == ".vtt"), encoding


def read_text(source: MediaSource) -> tuple[str, str]:
    """Read a subtitle file; return its text and the detected encoding.

    The encoding is UTF-8; UTF-16, detected by its byte order mark or its NUL bytes; otherwise Windows-1252.

    Raises SubtitlesCorrupt with the name of the file.
    """
    try:
        with open_source(source) as file, map_os_errors(file.path):
            path, data = file.path, file.reader().read(MAX_BYTES + 1)
    except MediaError as error:
        raise SubtitlesCorrupt(str(error)) from error
    if len(data) > MAX_BYTES:
        raise SubtitlesCorrupt(f"{path.name}: larger than {MAX_BYTES} bytes; subtitles were expected")
    return _decode(path.name, data)


def plain_text(line: str) -> str:
    """Return a line without tags, with entities unescaped and runs of white space replaced by single spaces."""
    return " ".join(html.unescape(_TAG.sub("", line)).split())


def _decode(name: str, data: bytes) -> tuple[str, str]:
    from_mark = _UTF_16.get(data[:2])
    encoding = from_mark or _unmarked_utf16(data[:1000]) or "utf-8-sig"
    try:
        return data[2 if from_mark else 0 :].decode(encoding), encoding.removesuffix("-sig")
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise SubtitlesCorrupt(f"{name}: not {encoding} at byte {error.start}: {error.reason}") from None
    # Some editors add a UTF-8 byte order mark to text in other encodings.
    return data.removeprefix(b"\xef\xbb\xbf").decode("windows-1252", "replace"), "windows-1252"


def _unmarked_utf16(head: bytes) -> str | None:
    """Detect UTF-16 without a byte order mark: about every second byte is NUL, which other text does not contain."""
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        if len(zeros) > 8 and zeros.count(0) > len(zeros) / 2:
            return encoding
    return None


def _parse_cues(name: str, lines: Sequence[str], vtt: bool) -> list[_RawCue]:
    cues: list[_RawCue] = []
    hidden = vtt  # the header is a hidden block
    for index, line in enumerate(lines):
        above = lines[index - 1].strip() if index else ""
        if _ARROW in line:
            start, end = _times(name, index + 1, line)
            if above:
                is_cue_name = above.isdigit() or index < 2 or not lines[index - 2].strip()
            else:  # a blank line may separate a SubRip number from its times
                is_cue_name = not vtt and bool(cues) and cues[-1].lines[-1:] == [str(len(cues) + 1)]
            if is_cue_name and cues and cues[-1].lines:
                cues[-1].lines.pop()
            cues.append(_RawCue(start, end))
            hidden = False
        elif not line.strip():
            hidden = False
        elif vtt and not above and _HIDDEN_BLOCK.match(line):
            hidden = True
        elif hidden:
            continue
        elif _BROKEN_ARROW.match(line):
            raise SubtitlesCorrupt(f"{name}:{index + 1}: time: {line[:60]!r}; START --> END was expected")
        elif cues:
            # Also after a blank line, as some editors write blank lines within a cue.
            cues[-1].lines.append(line)
        elif not vtt and not _is_first_cue_name(lines, index):
            raise SubtitlesCorrupt(f"{name}:{index + 1}: time: {line[:60]!r}; START --> END was expected")
    return cues


def _is_first_cue_name(lines: Sequence[str], index: int) -> bool:
    next_line = next((line for line in lines[index + 1 :] if line.strip()), "")
    return _ARROW in next_line


def _times(name: str, number: int, line: str) -> tuple[float, float]:
    left, _, right = line.partition(_ARROW)
    ending = right.split()[:1]  # WebVTT settings follow the end time
    start, end = (_seconds(name, number, text) for text in (left.strip(), ending[0] if ending else ""))
    if end < start:
        raise SubtitlesCorrupt(f"{name}:{number}: time: {line.strip()[:60]!r}; an end after the start was expected")
    return start, end


def _seconds(name: str, number: int, text: str) -> float:
    match = _TIME.fullmatch(text) if len(text) < 40 else None
    if match is None:
        raise SubtitlesCorrupt(f"{name}:{number}: time: {text[:60]!r}; HH:MM:SS,mmm was expected")
    hours, minutes, seconds, thousandths = (int(part or 0) for part in match.groups())
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + thousandths) / 1000


def _without_repeats(raw_cues: Sequence[_RawCue]) -> list[Cue]:
    cues: list[Cue] = []
    previous: set[str] = set()
    previous_end = 0.0
    for cue in raw_cues:
        lines = [text for text in map(plain_text, cue.lines) if text]
        if not lines:
            continue
        follows = bool(cues) and cue.start <= previous_end + MAX_CUE_GAP
        new = [text for text in lines if not (follows and text in previous)]
        if new:
            cues.append(Cue(cue.start, cue.end, " ".join(new)))
        else:
            last = cues[-1]
            cues[-1] = Cue(last.start, max(last.end, cue.end), last.text)
        previous, previous_end = set(lines), cue.end
    return cues


@dataclass(frozen=True, slots=True)
class SubtitleStreamInfo:
    """A text subtitle stream of a container."""

    index: int
    """Index among all streams of the container."""
    language: str
    """ISO 639-2 code; "" if unknown."""
    forced: bool
    """Whether the stream contains only translations of foreign dialogue and on-screen text."""


def subtitle_streams(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> list[SubtitleStreamInfo]:
    """List the text subtitle streams of a file; empty for a picture. Raises media errors."""
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            return []
        with open_container(file, file_format) as container:
            return [
                SubtitleStreamInfo(
                    stream.index,
                    "" if stream.language in (None, "und") else str(stream.language).lower(),
                    bool(stream.disposition & Disposition.forced),
                )
                for stream in container.streams.subtitles
                if _codec(stream) in _TEXT_CODECS
            ]


def stream_cues(source: MediaSource, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
    """Read a subtitle stream; return its cues that have text, in order of time.

    Args:
        source: the media file.
        index: index among all streams of the container.
        limits: limits of decoding.

    Raises:
        SubtitlesCorrupt: the stream cannot be read, or has more than ``MAX_CUES`` cues.
        MediaError: the file cannot be read.
    """
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            raise SubtitlesCorrupt(f"{file.name}: a picture; a video with subtitles was expected")
        with open_container(file, file_format) as container:
            for other in container.streams:
                other.discard = Discard.default if other.index == index else Discard.all
            stream: Any = container.streams[index]
            try:
                return sorted(_decode_cues(file, container, stream), key=lambda cue: (cue.start, cue.end))
            except READING_ERRORS as error:
                raise SubtitlesCorrupt(f"{file.name}: subtitle stream {index} cannot be read: {error}") from error


def _codec(stream: SubtitleStream) -> str | None:
    context = getattr(stream, "codec_context", None)
    return None if context is None else str(context.codec.canonical_name)


def _origin(container: InputContainer) -> Fraction:
    """Return the stream time, in seconds, that corresponds to time 0 of the file."""
    if videos := video_streams(container):
        return origin_of(container, videos[0])
    audio = main_audio_stream(container)
    return (audio.start_time or 0) * (audio.time_base or Fraction(1)) if audio is not None else Fraction(0)


def _decode_cues(file: MediaFile, container: InputContainer, stream: SubtitleStream) -> list[Cue]:
    origin = _origin(container)
    unit = stream.time_base or Fraction(1, 1000)
    is_ass = _codec(stream) in ("ass", "ssa")
    cues: list[Cue] = []
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        decoded = stream.decode2(packet)
        texts = [_ass_text(rect.ass, is_ass) for rect in decoded or [] if hasattr(rect, "ass")]
        text = " ".join(part for part in texts if part)
        if not text:
            continue
        if len(cues) >= MAX_CUES:
            raise SubtitlesCorrupt(f"{file.name}: more than {MAX_CUES} subtitles in stream {stream.index}")
        start = float(packet.pts * unit - origin)
        end = start + float(max(0, packet.duration or 0) * unit)  # negative in damaged files
        if end > 0:
            cues.append(Cue(max(start, 0.0), end, text))
    return cues


def _ass_text(event: bytes, is_ass: bool) -> str:
    """Return the text of a decoded ASS event. ``is_ass``: whether the stream is also ASS in the file."""
    fields = event.decode("utf-8", "replace").split(",", _ASS_FIELDS - 1)
    text = fields[-1] if len(fields) == _ASS_FIELDS else ""
    if is_ass:  # in other formats braces may be text
        text = _without_blocks(text)
    for escape in (r"\N", r"\n", r"\h"):
        text = text.replace(escape, " ")
    return plain_text(text)


def _without_blocks(text: str) -> str:
    """Remove blocks in braces, and drawings from {\\p1} to {\\p0}, from the text of an ASS event."""
    parts: list[str] = []
    is_drawing = False
    for number, part in enumerate(_ASS_BLOCK.split(text)):
        if number % 2:
            scales = _ASS_DRAWING.findall(part)
            is_drawing = bool(scales[-1].strip("0")) if scales else is_drawing
        elif not is_drawing:
            parts.append(part)
    return "".join(parts)
