"""A folder of one's own videos with subtitles beside them: what is said becomes the caption of its clip.

FOLDER/any/depth/talk.mp4 with talk.srt or talk.vtt, or with a language: talk.en.vtt, talk.en-GB.srt.
Where a video has several subtitles one is read: talk.srt, talk.vtt, then English, then the first by name.
Cues in a row are merged into clips of 4 to 16 seconds (see training.data.subtitles.merged); each clip is one
example, cut from the whole file as exactly as its frames allow:
    key         any/depth/talk.mp4#00012, numbered from 0 in order of time
    captions    the words of the clip
    transcript  its cues, in seconds of the clip
    attributes  video, subtitles (paths relative to the folder), start, end (seconds of the video)
All clips of a video are in one split.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Example, Utterance
from training.data.hash_split import EmptySplit, check_split, split_of, split_rule
from training.data.left_out import first_names
from training.data.packed import Media, MediaSpan, Origin
from training.data.subtitles import SUFFIXES, merged, read_subtitles

ORIGIN = Origin(
    source="a folder of videos with subtitles (SubRip or WebVTT)",
    licence="that of the videos and their subtitles",
    split_rule=split_rule("the video's path relative to the folder"),
)
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv")
SHORTEST, LONGEST = 4.0, 16.0
"""Seconds of a clip."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*|forced|auto|orig")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairing:
    """Which subtitles belong to which video, and all files that are not used. Paths relative to the folder."""

    pairs: tuple[tuple[Path, Path], ...]
    without_subtitles: tuple[Path, ...]
    without_video: tuple[Path, ...]
    other_languages: tuple[Path, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.pairs)} videos with subtitles"]
        for label, paths in (
            ("videos without subtitles", self.without_subtitles),
            ("subtitles without a video", self.without_video),
            ("further subtitles of the same videos", self.other_languages),
        ):
            if paths:
                parts.append(f"{len(paths)} {label} ({_named(paths)})")
        return "; ".join(parts)


def pair_subtitles(folder: Path) -> Pairing:
    """Every video and every subtitle file under `folder`, paired by name; hidden files are not looked at.

    Raises CorpusError when there is no pair, or when two videos claim the same subtitles.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    videos: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            videos.setdefault(path.with_suffix(""), []).append(path)
    subtitles_by_video: dict[Path, list[Path]] = {}
    without_video = []
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            name = _video_name(path, videos)
            if name is None:
                without_video.append(path)
            elif len(videos[name]) > 1:
                raise CorpusError(f"{folder}: {path} belongs to {_named(videos[name])}; one video was expected")
            else:
                subtitles_by_video.setdefault(name, []).append(path)
    chosen = {
        name: sorted(paths, key=lambda path: _preference(name, path)) for name, paths in subtitles_by_video.items()
    }
    pairing = Pairing(
        pairs=tuple((same[0], chosen[name][0]) for name, same in videos.items() if name in chosen),
        without_subtitles=tuple(path for name, same in videos.items() if name not in chosen for path in same),
        without_video=tuple(without_video),
        other_languages=tuple(path for paths in chosen.values() for path in paths[1:]),
    )
    if not pairing.pairs:
        raise CorpusError(f"{folder}: {pairing}; a video with an .srt or .vtt of the same name was expected")
    return pairing


def subtitled(
    folder: Path, split: str, *, shortest: float = SHORTEST, longest: float = LONGEST
) -> Iterator[tuple[Example, Media]]:
    """Every clip of a split in order of path and time. What is not used is logged as a warning.

    A single cue of more than `longest` seconds gives a clip of its first `longest` seconds.
    Raises CorpusError naming file and line, EmptySplit when no video falls into the split.
    """
    check_split(split)
    if not 0 <= shortest <= longest:
        raise CorpusError(f"clips of {shortest:g} to {longest:g} s; 0 <= shortest <= longest was expected")
    pairing = pair_subtitles(folder)
    if pairing.without_subtitles or pairing.without_video or pairing.other_languages:
        _logger.warning("%s: %s", folder, pairing)
    chosen = [pair for pair in pairing.pairs if split_of(pair[0].as_posix()) == split]
    if not chosen:
        raise EmptySplit(
            f"{folder}: split: {split!r}: none of {len(pairing.pairs)} videos falls into it ({ORIGIN.split_rule}); "
            "prepare other splits only"
        )
    yield from clips_of(folder, chosen, shortest, longest)


def clips_of(
    folder: Path, pairs: Iterable[tuple[Path, Path]], shortest: float, longest: float
) -> Iterator[tuple[Example, Media]]:
    """Every clip of these videos with their subtitles (paths relative to the folder), in their order and in time's."""
    for video, subtitles in pairs:
        utterances = read_subtitles(folder / subtitles)
        if not utterances:
            _logger.warning("%s: no cue has words; %s is not used", folder / subtitles, video)
        for number, group in enumerate(merged(utterances, shortest, longest)):
            yield _clip(folder, video, subtitles, number, group, longest)


def _clip(
    folder: Path, video: Path, subtitles: Path, number: int, group: Sequence[Utterance], longest: float
) -> tuple[Example, Media]:
    start = group[0].start
    end = round(min(max(utterance.end for utterance in group), start + longest), 3)
    transcript = tuple(Utterance(round(u.start - start, 3), round(min(u.end, end) - start, 3), u.text) for u in group)
    example = Example(
        key=f"{video.as_posix()}#{number:05d}",
        captions=(" ".join(utterance.text for utterance in group),),
        transcript=transcript,
        attributes={"video": video.as_posix(), "subtitles": subtitles.as_posix(), "start": start, "end": end},
    )
    return example, MediaSpan(folder / video, start, end)


def _video_name(subtitles: Path, videos: Collection[Path]) -> Path | None:
    """The path without suffix of the video that subtitles belong to: up to two endings may be a language."""
    name = subtitles.with_suffix("")
    for _ in range(3):
        if name in videos:
            return name
        if not _LANGUAGE.fullmatch(name.suffix[1:]):
            return None
        name = name.with_suffix("")
    return None


def _preference(name: Path, subtitles: Path) -> tuple[int, str]:
    language = subtitles.name[len(name.name) + 1 :].lower()
    if "." not in language:
        return 0, language
    return (1 if re.match(r"eng?\b", language) else 2), language


def _named(paths: Sequence[Path]) -> str:
    return first_names([path.as_posix() for path in paths])
