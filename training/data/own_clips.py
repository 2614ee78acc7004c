"""Clips of a user's videos, divided into training and held-out clips.

Videos have subtitles or transcripts (`own_clips`), or no text (`unlabelled_clips`). The split is that of
`training.data.subtitled`: validation videos are held out, test videos are not used. About one video in twenty belongs
to the validation split, so a small folder may have none. Then other videos are held out, in the order of the same hash.

Videos without text, for distillation: FOLDER/any/depth/video.mp4, cut into equal parts; each is one example:
    key         any/depth/video.mp4#00012, numbered from 0 in order of time
    attributes  video (path relative to the folder), start, end (seconds of the video)
All clips of a video are in one split.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from training.data.corpus import CorpusError, split_of
from training.data.example import Example
from training.data.exported import VIDEOS_NAME, exported_videos
from training.data.packed import Media, MediaSpan, Origin
from training.data.subtitled import ORIGIN, VIDEO_SUFFIXES, SpokenVideo, clips_of, pair_subtitles, read_videos
from vitascope.errors import MediaError
from vitascope.media.decode import probe

MIN_HELD_OUT = 4
"""Minimum number of different held-out sentences. With four, the chance level of R@1 is 25%."""
MIN_TRAINING = 16
"""Minimum number of different training sentences, since ITC contrasts each sentence with the others of its batch."""
HELD_OUT_SHARE = 20
"""At least one clip in this many is held out, as in the validation split."""
SENTENCE = "sentence"
"""Attribute with the caption in lower case; equal values are not negatives of one another."""
RULE = (
    "validation videos of the folder's split (first byte of the SHA-1 of the path below 26 and not below 13) are held "
    f"out; where they give less than a clip in {HELD_OUT_SHARE} or {MIN_HELD_OUT}, also test videos and then those "
    "of the lowest SHA-1, never more than half of all clips; other test videos are left alone where there is enough "
    "without them"
)

Clip = tuple[Example, Media]


@dataclass(frozen=True)
class OwnClips:
    """Training and held-out clips. `identity` is a hash of videos, subtitles and segmentation."""

    training: list[Clip]
    held_out: list[Clip]
    unused: int
    """Number of clips of test videos, which are not used."""
    pairing: str
    """Summary of videos with and without subtitles."""
    identity: str
    origin: Origin


EXPORT_ORIGIN = replace(ORIGIN, source="an exported collection of videos with subtitles or transcripts")


def own_clips(folder: Path, shortest: float, longest: float, media: Path | None = None) -> OwnClips:
    """Read the subtitles of all videos in `folder`, or of the exported collection there, without decoding videos.

    Args:
        folder: Folder of videos, or of an export.
        shortest, longest: Minimum and maximum length of a clip, in seconds.
        media: Folder of the exported collection, for files that the collection owns.

    Raises:
        CorpusError: There is no folder, no video or no subtitles, or there are too few clips to train or to hold out.
    """
    if not 0 <= shortest <= longest:
        raise CorpusError(f"clips of {shortest:g} to {longest:g} s; 0 <= shortest <= longest was expected")
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; one with videos and subtitles was expected")
    videos, pairing, origin = _spoken_videos(folder, media)
    by_video: dict[str, list[Clip]] = {}
    for example, span in clips_of(videos, shortest, longest):
        example = replace(example, attributes={**example.attributes, SENTENCE: example.captions[0].casefold()})
        by_video.setdefault(str(example.attributes["video"]), []).append((example, span))
    if len(by_video) < 2:
        raise CorpusError(
            f"{folder}: {len(by_video)} videos with words; at least 2 were expected, so that one can be held out "
            f"({pairing})"
        )
    held_out = choose_held_out({video: len(clips) for video, clips in by_video.items()})
    rest = [(video, clip) for video, clips in by_video.items() if video not in held_out for clip in clips]
    training = [clip for video, clip in rest if split_of(video) != "test"]
    if len(training) < MIN_TRAINING:
        training = [clip for _, clip in rest]
    clips_of_splits = OwnClips(
        training=training,
        held_out=[clip for video in by_video if video in held_out for clip in by_video[video]],
        unused=len(rest) - len(training),
        pairing=pairing,
        identity=_identity([clip for clips in by_video.values() for clip in clips]),
        origin=replace(origin, split_rule=RULE),
    )
    check_enough(folder, "train on", [example for example, _ in clips_of_splits.training], MIN_TRAINING)
    check_enough(folder, "hold out", [example for example, _ in clips_of_splits.held_out], MIN_HELD_OUT)
    return clips_of_splits


def _spoken_videos(folder: Path, media: Path | None) -> tuple[list[SpokenVideo], str, Origin]:
    """Return the videos with words, a description of all, and their origin. Raises CorpusError."""
    if (folder / VIDEOS_NAME).is_file():
        return *exported_videos(folder, media), EXPORT_ORIGIN
    if not any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*")):
        raise CorpusError(f"{folder}: no video in it; {', '.join(VIDEO_SUFFIXES[:5])} ... were expected")
    pairing = pair_subtitles(folder)
    return list(read_videos(folder, pairing.pairs)), str(pairing), ORIGIN


def choose_held_out(clips: Mapping[str, int]) -> set[str]:
    """Return the paths of the videos to hold out, by `RULE`. clips: Number of clips by video path."""
    order = sorted(clips, key=lambda video: (("val", "test", "train").index(split_of(video)), _sha1(video)))
    total = sum(clips.values())
    minimum = max(MIN_HELD_OUT, math.ceil(total / HELD_OUT_SHARE))
    chosen: set[str] = set()
    count = 0
    for video in order:
        needed = split_of(video) == "val" or count < minimum
        if needed and 2 * (count + clips[video]) <= total:
            chosen.add(video)
            count += clips[video]
    return chosen


def check_enough(folder: Path, what_for: str, examples: Sequence[Example], minimum: int) -> None:
    """Raise CorpusError unless the examples have at least `minimum` different sentences."""
    different = len({example.attributes[SENTENCE] for example in examples})
    if different < minimum:
        raise CorpusError(
            f"{folder}: too few clips to {what_for}: {len(examples)} with {different} different sentences; at least "
            f"{minimum} were expected. More videos with subtitles give more, and so do shorter clips (--shortest 2)"
        )


def _identity(clips: Sequence[Clip]) -> str:
    files = {str(example.attributes["video"]): media.path for example, media in clips if isinstance(media, MediaSpan)}
    facts = {
        "videos": [(video, file.stat().st_size) for video, file in sorted(files.items())],
        "clips": [(e.key, e.captions, m.start, m.end) for e, m in clips if isinstance(m, MediaSpan)],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _sha1(name: str) -> bytes:
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()


UNLABELLED_ORIGIN = Origin(
    source="a folder of videos",
    licence="that of the videos",
    split_rule=(
        "by video: validation when the first byte of the SHA-1 of its path is below 26 and not below 13; of few "
        "videos, those of the lowest SHA-1, never more than half of all clips"
    ),
)


def unlabelled_clips(folder: Path, seconds: float, left_out: Callable[[str], None]) -> tuple[list[Clip], list[Clip]]:
    """Return training and held-out clips of all videos in `folder`, each about `seconds` long.

    left_out: Called with a line of text for each unreadable video. Raises CorpusError if no video is readable.
    """
    if not seconds > 0:
        raise CorpusError(f"clip-seconds: {seconds:g}; more than 0 was expected")
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; one with videos was expected")
    by_video: dict[str, list[Clip]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if hidden or path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            continue
        try:
            info = probe(path)
            info.require_pictures(path.name)
            duration = info.duration
        except MediaError as error:
            left_out(f"{name}: {error}")
            continue
        by_video[name] = _cut(path, name, duration, seconds)
    if not by_video:
        raise CorpusError(f"{folder}: no readable video in it; {', '.join(VIDEO_SUFFIXES[:5])} ... were expected")
    held_out = choose_held_out({video: len(clips) for video, clips in by_video.items()})
    training = [clip for video, clips in by_video.items() if video not in held_out for clip in clips]
    return training, [clip for video in by_video if video in held_out for clip in by_video[video]]


def _cut(path: Path, name: str, duration: float, seconds: float) -> list[Clip]:
    count = max(1, round(duration / seconds))
    edges = [duration * i / count for i in range(count + 1)]
    return [
        (
            Example(f"{name}#{i:05}", attributes={"video": name, "start": start, "end": end}),
            MediaSpan(path, start, end),
        )
        for i, (start, end) in enumerate(pairwise(edges))
    ]
