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
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Utterance
from training.data.text_file import read_text

SUFFIXES = (".srt", ".vtt")
TOUCHING = 0.1
"""Seconds: cues that are no further apart follow one another without a pause."""

_ARROW = "-->"
_TIME = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]\d)[.,](\d{3})")
_BROKEN_ARROW = re.compile(r"\s*\d+:\d\d[\d:]*[.,]\d+\s*(?:[-\u2013\u2014]\s*)*>?\s*\d+:\d\d[\d:.,]*\s*$")
_HIDDEN_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")


@dataclass
class _Cue:
    start: float
    end: float
    lines: list[str] = field(default_factory=list)


def read_subtitles(path: Path) -> list[Utterance]:
    """What is said, in order of time, of an .srt or .vtt file; none where no cue has words.

    A line that the cue before shows already is left out when there is no pause between the two, as automatic
    captions show each line twice; a cue of which nothing is left prolongs the one before it.
    Raises CorpusError naming the file, the line and the time that was not understood.
    """
    lines = _lines(path)
    vtt = path.suffix.lower() == ".vtt"
    if vtt and not re.match(r"WEBVTT(?:\s|$)", lines[0]):
        raise CorpusError(f"{path}:1: header: {lines[0][:60]!r}; WEBVTT was expected")
    cues = _cues(path, lines, vtt)
    return _without_repeats(sorted(cues, key=lambda cue: (cue.start, cue.end)))


def merged(utterances: Sequence[Utterance], shortest: float, longest: float) -> list[tuple[Utterance, ...]]:
    """Utterances in a row put together until they last `shortest` seconds, pauses included.

    One is added only while the whole lasts `longest` seconds at most: so a group is shorter than `shortest`
    where the next words come too late or there are none, and longer than `longest` only as a single utterance.
    """
    groups: list[list[Utterance]] = []
    for utterance in utterances:
        if groups:
            group = groups[-1]
            start, end = group[0].start, max(u.end for u in group)
            if end - start < shortest and max(end, utterance.end) - start <= longest:
                group.append(utterance)
                continue
        groups.append([utterance])
    return [tuple(group) for group in groups]


def plain_text(line: str) -> str:
    """The words of a line: without tags and position marks, entities unescaped, single spaces."""
    return " ".join(html.unescape(_TAG.sub("", line)).split())


def _lines(path: Path) -> list[str]:
    # Not splitlines(): it also splits at characters that may stand in a line of speech.
    return re.split(r"\r\n|\n|\r", read_text(path))


def _cues(path: Path, lines: Sequence[str], vtt: bool) -> list[_Cue]:
    cues: list[_Cue] = []
    hidden = vtt  # the header is a block that is not shown
    for index, line in enumerate(lines):
        above = lines[index - 1].strip() if index else ""
        if _ARROW in line:
            start, end = _times(path, index + 1, line)
            if above:
                names_the_cue = above.isdigit() or index < 2 or not lines[index - 2].strip()
            else:  # a number of SubRip may also be parted from its times by a blank line
                names_the_cue = not vtt and bool(cues) and cues[-1].lines[-1:] == [str(len(cues) + 1)]
            if names_the_cue and cues and cues[-1].lines:
                cues[-1].lines.pop()
            cues.append(_Cue(start, end))
            hidden = False
        elif not line.strip():
            hidden = False
        elif vtt and not above and _HIDDEN_BLOCK.match(line):
            hidden = True
        elif hidden:
            continue
        elif _BROKEN_ARROW.match(line):
            raise CorpusError(f"{path}:{index + 1}: time: {line[:60]!r}; START --> END was expected")
        elif cues:
            # Also after a blank line: some editors write them within a cue.
            cues[-1].lines.append(line)
        elif not vtt and not _names_first_cue(lines, index):
            raise CorpusError(f"{path}:{index + 1}: time: {line[:60]!r}; START --> END was expected")
    return cues


def _names_first_cue(lines: Sequence[str], index: int) -> bool:
    following = next((line for line in lines[index + 1 :] if line.strip()), "")
    return _ARROW in following


def _times(path: Path, number: int, line: str) -> tuple[float, float]:
    left, _, right = line.partition(_ARROW)
    ending = right.split()[:1]  # after the end time come the settings of WebVTT
    start, end = (_seconds(path, number, text) for text in (left.strip(), ending[0] if ending else ""))
    if end < start:
        raise CorpusError(f"{path}:{number}: time: {line.strip()[:60]!r}; an end after the start was expected")
    return start, end


def _seconds(path: Path, number: int, text: str) -> float:
    found = _TIME.fullmatch(text)
    if found is None:
        raise CorpusError(f"{path}:{number}: time: {text[:60]!r}; HH:MM:SS,mmm was expected")
    hours, minutes, seconds, thousandths = (int(part or 0) for part in found.groups())
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + thousandths) / 1000


def _without_repeats(cues: Sequence[_Cue]) -> list[Utterance]:
    utterances: list[Utterance] = []
    shown: list[str] = []
    shown_until = 0.0
    for cue in cues:
        lines = [text for text in map(plain_text, cue.lines) if text]
        if not lines:
            continue
        follows = bool(utterances) and cue.start <= shown_until + TOUCHING
        new = [text for text in lines if not (follows and text in shown)]
        if new:
            utterances.append(Utterance(cue.start, cue.end, " ".join(new)))
        else:
            last = utterances[-1]
            utterances[-1] = Utterance(last.start, max(last.end, cue.end), last.text)
        shown, shown_until = lines, cue.end
    return utterances
