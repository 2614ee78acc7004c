"""Subtitles as files have them: SubRip (.srt) and WebVTT (.vtt), read into times and plain words.

A cue is a line of two times, `00:00:01,000 --> 00:00:02,500` (comma or dot; hours may be left out), and the
lines of text after it; above it there may be a line that names or numbers it. In WebVTT the file begins with
WEBVTT, times may have settings after them, and the blocks NOTE, STYLE and REGION are not shown.
Text is given as it is read aloud: without tags (<i>, <v Name>, {\\an8}), entities unescaped, in one line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitascope.errors import MediaError, SubtitlesCorrupt
from vitascope.media.file import MediaSource, held_open, media_errors

SUFFIXES = (".srt", ".vtt")
MAX_BYTES = 8 * 1024**2
"""Of a subtitle file; those of a film have about 0.1 MB."""
TOUCHING = 0.1
"""Seconds: cues that are no further apart follow one another without a pause."""

_MAX_LINE = 10_000
"""Characters: what has longer lines is no speech, and costs the patterns below time."""
_ARROW = "-->"
_TIME = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]\d)[.,](\d{3})", re.ASCII)
# Possessive, so that a line of blanks is gone through once.
_BROKEN_ARROW = re.compile(r"\s*\d+:\d\d[\d:]*[.,]\d++\s*+(?:[-\u2013\u2014]\s*+)*+>?\s*+\d+:\d\d[\d:.,]*\s*$")
_HIDDEN_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


@dataclass(frozen=True, slots=True)
class Cue:
    """What is said from ``start`` to ``end`` (s), in one line."""

    start: float
    end: float
    text: str


@dataclass
class _Shown:
    start: float
    end: float
    lines: list[str] = field(default_factory=list)


def parse_subtitles(text: str, name: str, *, vtt: bool) -> list[Cue]:
    """What is said, in order of time; none where no cue has words. ``vtt``: WebVTT, otherwise SubRip.

    A line that the cue before shows already is left out when there is no pause between the two, as automatic
    captions show each line twice; a cue of which nothing is left prolongs the one before it.
    Raises SubtitlesCorrupt with ``name``, the line and the time that was not understood.
    """
    # Not splitlines(): it also splits at characters that may stand in a line of speech.
    lines = re.split(r"\r\n|\n|\r", text)
    for number, line in enumerate(lines, 1):
        if len(line) > _MAX_LINE:
            raise SubtitlesCorrupt(f"{name}:{number}: {len(line)} characters; at most {_MAX_LINE} were expected")
    if vtt and not re.match(r"WEBVTT(?:\s|$)", lines[0]):
        raise SubtitlesCorrupt(f"{name}:1: header: {lines[0][:60]!r}; WEBVTT was expected")
    cues = _cues(name, lines, vtt)
    return _without_repeats(sorted(cues, key=lambda cue: (cue.start, cue.end)))


def read_subtitles(source: MediaSource) -> tuple[list[Cue], str]:
    """The cues of an .srt or .vtt file, and the encoding that it was read as.

    UTF-8; UTF-16 with a byte-order mark, or told by the NULs that it gives Latin letters; what is neither is
    read as Windows-1252. Raises SubtitlesCorrupt naming the file, and the line that was not understood.
    """
    try:
        with held_open(source) as file, media_errors(file.path):
            path, data = file.path, file.reader().read(MAX_BYTES + 1)
    except MediaError as error:
        raise SubtitlesCorrupt(str(error)) from error
    if len(data) > MAX_BYTES:
        raise SubtitlesCorrupt(f"{path.name}: larger than {MAX_BYTES} bytes; subtitles were expected")
    text, encoding = _decoded(path.name, data)
    return parse_subtitles(text, path.name, vtt=path.suffix.lower() == ".vtt"), encoding


def plain_text(line: str) -> str:
    """The words of a line: without tags and position marks, entities unescaped, single spaces."""
    return " ".join(html.unescape(_TAG.sub("", line)).split())


def _decoded(name: str, data: bytes) -> tuple[str, str]:
    marked = _UTF_16.get(data[:2])
    encoding = marked or _unmarked_utf16(data[:1000]) or "utf-8-sig"
    try:
        return data[2 if marked else 0 :].decode(encoding), encoding.removesuffix("-sig")
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise SubtitlesCorrupt(f"{name}: not {encoding} at byte {error.start}: {error.reason}") from None
    # A mark of UTF-8 over what is none comes from editors that add it without looking.
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("windows-1252"), "windows-1252"
    except UnicodeDecodeError:  # five bytes have no character there
        return data.decode("latin-1"), "latin-1"


def _unmarked_utf16(head: bytes) -> str | None:
    """In either order of bytes, nearly every second byte of digits and arrows is NUL; text has no NUL at all."""
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        if len(zeros) > 8 and zeros.count(0) > len(zeros) / 2:
            return encoding
    return None


def _cues(name: str, lines: Sequence[str], vtt: bool) -> list[_Shown]:
    cues: list[_Shown] = []
    hidden = vtt  # the header is a block that is not shown
    for index, line in enumerate(lines):
        above = lines[index - 1].strip() if index else ""
        if _ARROW in line:
            start, end = _times(name, index + 1, line)
            if above:
                names_the_cue = above.isdigit() or index < 2 or not lines[index - 2].strip()
            else:  # a number of SubRip may also be parted from its times by a blank line
                names_the_cue = not vtt and bool(cues) and cues[-1].lines[-1:] == [str(len(cues) + 1)]
            if names_the_cue and cues and cues[-1].lines:
                cues[-1].lines.pop()
            cues.append(_Shown(start, end))
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
            # Also after a blank line: some editors write them within a cue.
            cues[-1].lines.append(line)
        elif not vtt and not _names_first_cue(lines, index):
            raise SubtitlesCorrupt(f"{name}:{index + 1}: time: {line[:60]!r}; START --> END was expected")
    return cues


def _names_first_cue(lines: Sequence[str], index: int) -> bool:
    following = next((line for line in lines[index + 1 :] if line.strip()), "")
    return _ARROW in following


def _times(name: str, number: int, line: str) -> tuple[float, float]:
    left, _, right = line.partition(_ARROW)
    ending = right.split()[:1]  # after the end time come the settings of WebVTT
    start, end = (_seconds(name, number, text) for text in (left.strip(), ending[0] if ending else ""))
    if end < start:
        raise SubtitlesCorrupt(f"{name}:{number}: time: {line.strip()[:60]!r}; an end after the start was expected")
    return start, end


def _seconds(name: str, number: int, text: str) -> float:
    found = _TIME.fullmatch(text) if len(text) < 40 else None
    if found is None:
        raise SubtitlesCorrupt(f"{name}:{number}: time: {text[:60]!r}; HH:MM:SS,mmm was expected")
    hours, minutes, seconds, thousandths = (int(part or 0) for part in found.groups())
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + thousandths) / 1000


def _without_repeats(shown_cues: Sequence[_Shown]) -> list[Cue]:
    cues: list[Cue] = []
    shown: set[str] = set()
    shown_until = 0.0
    for cue in shown_cues:
        lines = [text for text in map(plain_text, cue.lines) if text]
        if not lines:
            continue
        follows = bool(cues) and cue.start <= shown_until + TOUCHING
        new = [text for text in lines if not (follows and text in shown)]
        if new:
            cues.append(Cue(cue.start, cue.end, " ".join(new)))
        else:
            last = cues[-1]
            cues[-1] = Cue(last.start, max(last.end, cue.end), last.text)
        shown, shown_until = set(lines), cue.end
    return cues
