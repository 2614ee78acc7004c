"""Pictures from the web with their captions, in WebDataset shards as img2dataset writes them.

KEY.jpg (or .jpeg, .png, .webp) with KEY.txt and KEY.json, see training.data.captioned_shards. The split is by the
key: a picture that is listed under two keys may be in two splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.captioned_shards import captioned_entries
from training.data.example import Example
from training.data.hash_split import split_rule
from training.data.packed import Media, Origin
from training.data.webdataset import PICTURES

ORIGIN = Origin(
    source="pictures with captions from the web, in shards as img2dataset writes them",
    licence="captions: that of the list they were downloaded by; every picture belongs to its author",
    split_rule=split_rule("the key"),
)


def image_shards(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every captioned picture of a split, shard by shard. Raises CorpusError naming shard and member."""
    for entry in captioned_entries(folder, split, sorted(PICTURES)):
        yield Example(entry.key, (entry.caption,), still=True), entry.media
