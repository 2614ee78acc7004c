"""A folder of videos of which nothing is said: clips in a row, as `vitascope distil --videos` learns from.

FOLDER/any/depth/film.mp4, cut into equal parts; each is one example without captions:
    key         any/depth/film.mp4#00012, numbered from 0 in order of time
    attributes  video (path relative to the folder), start, end (seconds of the video)
All clips of a video are in one split.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Example
from training.data.own_clips import choose_held_out
from training.data.packed import Media, MediaSpan, Origin
from training.data.subtitled import VIDEO_SUFFIXES
from vitascope.errors import MediaError
from vitascope.media.decode import probe

ORIGIN = Origin(
    source="a folder of videos",
    licence="that of the videos",
    split_rule=(
        "by video: validation when the first byte of the SHA-1 of its path is below 26 and not below 13; of few "
        "videos, those of the lowest SHA-1, never more than half of all clips"
    ),
)

Clips = list[tuple[Example, Media]]


def film_clips(folder: Path, seconds: float, left_out: Callable[[str], None]) -> tuple[Clips, Clips]:
    """(clips to learn from, clips that are held out) of all videos in `folder`, each about `seconds` long.

    left_out: takes a line about each file that is no readable video. Raises CorpusError where none is.
    """
    if not seconds > 0:
        raise CorpusError(f"clip-seconds: {seconds:g}; more than 0 was expected")
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; one with videos was expected")
    by_video: dict[str, Clips] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if hidden or path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            continue
        try:
            duration = probe(path).duration
        except MediaError as error:
            left_out(f"{name}: {error}")
            continue
        by_video[name] = _cut(path, name, duration, seconds)
    if not by_video:
        raise CorpusError(f"{folder}: no readable video in it; {', '.join(VIDEO_SUFFIXES[:5])} ... were expected")
    held_out = choose_held_out({video: len(clips) for video, clips in by_video.items()})
    learned = [clip for video, clips in by_video.items() if video not in held_out for clip in clips]
    return learned, [clip for video in by_video if video in held_out for clip in by_video[video]]


def _cut(path: Path, name: str, duration: float, seconds: float) -> Clips:
    count = max(1, round(duration / seconds))
    edges = [duration * i / count for i in range(count + 1)]
    return [
        (
            Example(f"{name}#{i:05}", attributes={"video": name, "start": start, "end": end}),
            MediaSpan(path, start, end),
        )
        for i, (start, end) in enumerate(pairwise(edges))
    ]
