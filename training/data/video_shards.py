"""Videos from the web with their captions, in WebDataset shards as video2dataset writes them.

KEY.mp4 (or .webm, .mkv, .avi, .mov) with KEY.txt and KEY.json, see training.data.captioned_shards.

A key 000000012_00003 is clip 3, cut out of video 000000012 before it was stored: "clips" of its JSON says where
it was in that video, so the stored file is used whole. The split is by the key of the video, so that all clips
of a video are in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.captioned_shards import captioned_entries
from training.data.example import Example
from training.data.hash_split import split_rule
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="videos with captions, in shards as video2dataset writes them",
    licence="captions: that of the list they were downloaded by; every video belongs to its author",
    split_rule=split_rule("the key, without the number of a clip"),
)
VIDEOS = ("mp4", "webm", "mkv", "avi", "mov")
_CLIP_KEY = re.compile(r"(\d+)_\d+")


def video_shards(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every captioned video of a split, shard by shard. Raises CorpusError naming shard and member."""
    for entry in captioned_entries(folder, split, VIDEOS, _video):
        attributes = {name: entry.record.fields[name] for name in ("url", "clips") if name in entry.record.fields}
        yield Example(entry.key, (entry.caption,), attributes=attributes), entry.media


def _video(key: str) -> str:
    clip = _CLIP_KEY.fullmatch(key)
    return clip[1] if clip else key
