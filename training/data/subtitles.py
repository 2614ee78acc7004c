"""Subtitles of a corpus: the runtime's reader of SubRip and WebVTT, for files in UTF-8 alone, and merged cues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Utterance
from training.data.text_file import read_text
from vitascope.errors import SubtitlesCorrupt
from vitascope.media.subtitles import SUFFIXES, parse_subtitles

__all__ = ["SUFFIXES", "merged", "read_subtitles"]


def read_subtitles(path: Path) -> list[Utterance]:
    """What is said, in order of time, of an .srt or .vtt file; see ``parse_subtitles``.

    Another encoding than UTF-8 is refused: words that are read wrongly would be learned.
    Raises CorpusError naming the file, the line and the time that was not understood.
    """
    text = read_text(path)
    try:
        cues = parse_subtitles(text, str(path), vtt=path.suffix.lower() == ".vtt")
    except SubtitlesCorrupt as error:
        raise CorpusError(str(error)) from error
    return [Utterance(cue.start, cue.end, cue.text) for cue in cues]


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
