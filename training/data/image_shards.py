"""Pictures from the web with their captions, in WebDataset shards as img2dataset writes them.

00000.tar, 00001.tar ...: KEY.jpg (or .png, .webp), KEY.txt (the caption), KEY.json {"caption", "url", "status", ..}.
The caption is that of KEY.txt, or of KEY.json where the former is absent or blank. What could not be downloaded is
not in the shards. The names hold no split, so it is by rule, on the first byte of the SHA-1 of the key: below 5
test, below 10 validation (each about 2%), otherwise train. A picture that is listed under two keys may be in two
splits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.data.example import Example
from training.data.key_hash import first_byte
from training.data.packed import Media, Origin
from training.data.webdataset import PICTURES, CorpusError, EncodedMedia, shard_entries

SPLITS = ("train", "val", "test")
TEST_BYTES, VALIDATION_BYTES = 5, 10
ORIGIN = Origin(
    source="pictures with captions from the web, in shards as img2dataset writes them",
    licence="captions: that of the list they were downloaded by; every picture belongs to its author",
    split_rule=f"by the first byte of the SHA-1 of the key: below {TEST_BYTES} test, below {VALIDATION_BYTES} "
    "validation, otherwise train",
)


def image_shards(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every picture of a split with its caption, shard by shard.

    An entry without a picture comes with empty media: packing names it as skipped. Raises CorpusError naming
    shard and key when there is no caption.
    """
    if split not in SPLITS:
        raise CorpusError(f"split: {split!r}; one of {SPLITS} was expected")
    for shard in _numbered_shards(folder):
        for key, parts in shard_entries(shard):
            if split_of(key) != split:
                continue
            suffix = next(iter(sorted(PICTURES & parts.keys())), "jpg")
            media = EncodedMedia(f"{key}.{suffix}", parts.get(suffix, b""))
            yield Example(key, (_caption(shard, key, parts),), still=True), media


def split_of(key: str) -> str:
    """train, val or test for a key."""
    first = first_byte(key)
    return "test" if first < TEST_BYTES else "val" if first < VALIDATION_BYTES else "train"


def _numbered_shards(folder: Path) -> list[Path]:
    shards = [path for path in folder.glob("*.tar") if path.stem.isdecimal()]
    if not shards:
        raise CorpusError(f"{folder}: no shard; 00000.tar and the like were expected")
    return sorted(shards, key=lambda path: int(path.stem))


def _caption(shard: Path, key: str, parts: Mapping[str, bytes]) -> str:
    try:
        text = parts.get("txt", b"").decode().strip()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{shard}: {key}.txt: {error}; UTF-8 was expected") from None
    if text:
        return text
    if "json" not in parts:
        raise CorpusError(f"{shard}: {key}: a caption neither in {key}.txt nor in {key}.json; one was expected")
    try:
        record = json.loads(parts["json"])
    except ValueError as error:
        raise CorpusError(f"{shard}: {key}.json: not JSON ({error})") from None
    caption = record.get("caption") if isinstance(record, dict) else None
    if not isinstance(caption, str) or not caption.strip():
        raise CorpusError(f"{shard}: {key}.json: caption: {caption!r}; a sentence there or in {key}.txt was expected")
    return caption.strip()
