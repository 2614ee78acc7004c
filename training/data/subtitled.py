"""A folder of videos with subtitle files: the words of a clip are its caption.

FOLDER/any/depth/talk.mp4 with talk.srt or talk.vtt, or with a language: talk.en.vtt, talk.en-GB.srt.
Of several subtitle files of a video one is read: talk.srt, talk.vtt, then English, then the first by name.
Consecutive cues are merged into clips of 4 to 16 seconds (`merged`); each clip is one example, cut from the file as
exactly as its frames allow:
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

from training.data.corpus import CorpusError, EmptySplit, check_split, first_names, read_text, split_of, split_rule
from training.data.example import Example, Utterance
from training.data.packed import Media, MediaSpan, Origin
from vitascope.errors import SubtitlesCorrupt
from vitascope.media.subtitles import SUFFIXES, parse_subtitles

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
class SpokenVideo:
    """A video and its utterances.

    Attributes:
        name: Name from which keys of clips and the split are derived.
        path: Path of the file.
        subtitles: Source of the utterances: a path relative to the folder, or a column of an exported collection.
        utterances: Utterances in order of time.
    """

    name: str
    path: Path
    subtitles: str
    utterances: Sequence[Utterance]


@dataclass(frozen=True)
class Pairing:
    """Pairs of video and subtitle file, and all unused files. Paths are relative to the folder."""

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
    """Pair the videos and subtitle files in `folder` by name; hidden files are ignored.

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
    """Yield every clip of a split in order of path and time. Unused files are logged as a warning.

    Args:
        folder: Folder of videos and subtitle files.
        split: train, val or test.
        shortest: Cues are merged until a clip lasts this number of seconds.
        longest: Maximum length of a clip in seconds; a longer single cue is cut.

    Raises:
        CorpusError: A file is invalid; the error names file and line.
        EmptySplit: No video belongs to the split.
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
    yield from clips_of(read_videos(folder, chosen), shortest, longest)


def read_videos(folder: Path, pairs: Iterable[tuple[Path, Path]]) -> Iterator[SpokenVideo]:
    """Yield the videos of (video, subtitles) pairs (paths relative to the folder) in their order."""
    for video, subtitles in pairs:
        utterances = read_subtitles(folder / subtitles)
        if not utterances:
            _logger.warning("%s: no cue has words; %s is not used", folder / subtitles, video)
        yield SpokenVideo(video.as_posix(), folder / video, subtitles.as_posix(), utterances)


def clips_of(videos: Iterable[SpokenVideo], shortest: float, longest: float) -> Iterator[tuple[Example, Media]]:
    """Yield the clips of videos, in order of videos and time."""
    for video in videos:
        for number, group in enumerate(merged(video.utterances, shortest, longest)):
            yield _clip(video, number, group, longest)


def _clip(video: SpokenVideo, number: int, group: Sequence[Utterance], longest: float) -> tuple[Example, Media]:
    start = group[0].start
    end = round(min(max(utterance.end for utterance in group), start + longest), 3)
    transcript = tuple(Utterance(round(u.start - start, 3), round(min(u.end, end) - start, 3), u.text) for u in group)
    example = Example(
        key=f"{video.name}#{number:05d}",
        captions=(" ".join(utterance.text for utterance in group),),
        transcript=transcript,
        attributes={"video": video.name, "subtitles": video.subtitles, "start": start, "end": end},
    )
    return example, MediaSpan(video.path, start, end)


def _video_name(subtitles: Path, videos: Collection[Path]) -> Path | None:
    """Return the path without suffix of a subtitle file's video, or None. Up to two suffixes may be a language."""
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


def read_subtitles(path: Path) -> list[Utterance]:
    """Read the cues of an .srt or .vtt file in order of time.

    Only UTF-8 is accepted, because a model must not be trained on wrongly decoded words. Raises CorpusError naming
    file, line and the invalid time.
    """
    text = read_text(path)
    try:
        cues = parse_subtitles(text, str(path), vtt=path.suffix.lower() == ".vtt")
    except SubtitlesCorrupt as error:
        raise CorpusError(str(error)) from error
    return [Utterance(cue.start, cue.end, cue.text) for cue in cues]


def merged(utterances: Sequence[Utterance], shortest: float, longest: float) -> list[tuple[Utterance, ...]]:
    """Merge consecutive utterances until they last `shortest` seconds, pauses included.

    A group is shorter than `shortest` seconds if the next utterance would exceed `longest` seconds, or if there is no
    next utterance. Only a single utterance can be longer than `longest`.
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
