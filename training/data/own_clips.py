"""The clips of one's own videos with subtitles, parted into those that are learned from and those that are held out.

The split is that of `training.data.subtitled`: validation videos are held out, test videos are neither learned from nor
looked at. One video in twenty falls into validation, so that of a few videos there may be none: then others are held
out, in the order of the same hash, and there is always something to measure by.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.errors import CorpusError
from training.data.example import Example
from training.data.hash_split import split_of
from training.data.packed import Media, MediaSpan
from training.data.subtitled import VIDEO_SUFFIXES, clips_of, pair_subtitles

LEAST_HELD_OUT = 4
"""Different sentences that are held out; the first of four is found by chance once in four."""
LEAST_LEARNED = 16
"""Different sentences that are learned from; each learns from being told from the others of its batch."""
HELD_OUT_SHARE = 20
"""At least one clip in so many is held out: the share of validation."""
SENTENCE = "sentence"
"""The attribute by which clips that say the same are known."""
RULE = (
    "validation videos of the folder's split (first byte of the SHA-1 of the path below 26 and not below 13) are held "
    f"out; where they give less than a clip in {HELD_OUT_SHARE} or {LEAST_HELD_OUT}, also test videos and then those "
    "of the lowest SHA-1, never more than half of all clips; other test videos are left alone where there is enough "
    "without them"
)

Clip = tuple[Example, Media]


@dataclass(frozen=True)
class OwnClips:
    """Clips by what they are for. `identity` changes when a video, its subtitles or how they are cut change."""

    learned: list[Clip]
    held_out: list[Clip]
    untouched: int
    """Clips of test videos."""
    pairing: str
    """Which videos have subtitles and which have not, in words."""
    identity: str


def own_clips(folder: Path, shortest: float, longest: float) -> OwnClips:
    """Read the subtitles of all videos in `folder`; nothing is decoded yet. Seconds: the least and most of a clip.

    Raises CorpusError when there is no folder, no video or no subtitles, and when there is too little to learn from or
    to hold out.
    """
    if not 0 <= shortest <= longest:
        raise CorpusError(f"clips of {shortest:g} to {longest:g} s; 0 <= shortest <= longest was expected")
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; one of videos with subtitles beside them was expected")
    if not any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*")):
        raise CorpusError(f"{folder}: no video in it; {', '.join(VIDEO_SUFFIXES[:5])} ... were expected")
    pairing = pair_subtitles(folder)
    by_video: dict[str, list[Clip]] = {}
    for example, media in clips_of(folder, pairing.pairs, shortest, longest):
        example = replace(example, attributes={**example.attributes, SENTENCE: example.captions[0].casefold()})
        by_video.setdefault(str(example.attributes["video"]), []).append((example, media))
    if len(by_video) < 2:
        raise CorpusError(
            f"{folder}: {len(by_video)} videos with words; at least 2 were expected, so that one can be held out"
        )
    held_out = choose_held_out({video: len(clips) for video, clips in by_video.items()})
    rest = [(video, clip) for video, clips in by_video.items() if video not in held_out for clip in clips]
    learned = [clip for video, clip in rest if split_of(video) != "test"]
    if len(learned) < LEAST_LEARNED:
        learned = [clip for _, clip in rest]
    clips_of_splits = OwnClips(
        learned=learned,
        held_out=[clip for video in by_video if video in held_out for clip in by_video[video]],
        untouched=len(rest) - len(learned),
        pairing=str(pairing),
        identity=_identity(folder, [clip for clips in by_video.values() for clip in clips]),
    )
    check_enough(folder, "learn from", [example for example, _ in clips_of_splits.learned], LEAST_LEARNED)
    check_enough(folder, "hold out", [example for example, _ in clips_of_splits.held_out], LEAST_HELD_OUT)
    return clips_of_splits


def choose_held_out(clips: Mapping[str, int]) -> set[str]:
    """Of videos by path with their number of clips, those that are held out (see RULE)."""
    order = sorted(clips, key=lambda video: (("val", "test", "train").index(split_of(video)), _sha1(video)))
    total = sum(clips.values())
    minimum = max(LEAST_HELD_OUT, math.ceil(total / HELD_OUT_SHARE))
    chosen: set[str] = set()
    count = 0
    for video in order:
        needed = split_of(video) == "val" or count < minimum
        if needed and 2 * (count + clips[video]) <= total:
            chosen.add(video)
            count += clips[video]
    return chosen


def check_enough(folder: Path, what_for: str, examples: Sequence[Example], minimum: int) -> None:
    """Raises CorpusError unless there are `least` different sentences among the examples."""
    different = len({example.attributes[SENTENCE] for example in examples})
    if different < minimum:
        raise CorpusError(
            f"{folder}: too few clips to {what_for}: {len(examples)} with {different} different sentences; at least "
            f"{minimum} were expected. More videos with subtitles give more, and so do shorter clips (--shortest 2)"
        )


def _identity(folder: Path, clips: Sequence[Clip]) -> str:
    videos = sorted({str(example.attributes["video"]) for example, _ in clips})
    facts = {
        "videos": [(video, (folder / video).stat().st_size) for video in videos],
        "clips": [(e.key, e.captions, m.start, m.end) for e, m in clips if isinstance(m, MediaSpan)],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _sha1(name: str) -> bytes:
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()
