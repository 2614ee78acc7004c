"""Tar archives and WebDataset shards: labelled pictures, and captioned pictures and videos from the web.

Labelled pictures: SPLIT-00000.tar with KEY.jpg and KEY.json (`read_shard`).

Captioned media, as img2dataset (`image_shards`) and video2dataset (`video_shards`) write them: 00000.tar, 00001.tar ...
with, for every KEY, KEY.txt (the caption), KEY.json {"caption", "url", ...} and KEY.jpg (.jpeg, .png, .webp) or KEY.mp4
(.webm, .mkv, .avi, .mov). The caption is that of KEY.txt, or of KEY.json where the former is absent or blank. Other
members are skipped. The names contain no split, so it is decided by hash (`training.data.corpus.split_of`): of
pictures by the key; of videos by the key of the video, so that all clips of a video are in one split. The key
000000012_00003 is clip 3, cut from video 000000012 before it was stored.

Archives are read with `tarfile`, member by member; the package `webdataset` holds skipped members in memory as well and
names neither shard nor member in its errors.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.corpus import (
    CorpusError,
    EmptySplit,
    Record,
    check_split,
    object_of,
    split_of,
    split_rule,
    text_or_blank,
    warn_of,
)
from training.data.example import Example
from training.data.packed import EncodedMedia, Media, Origin
from vitascope.tar_headers import CheckedTarInfo

PICTURES = frozenset({"jpg", "jpeg", "png", "webp"})


@dataclass(frozen=True)
class Sample:
    """The picture and JSON of a key of a shard. `shard` and `key` identify it in errors."""

    shard: Path
    key: str
    media: EncodedMedia
    record: dict[str, Any]


def tar_members(archive: Path, accept: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the regular files whose name is accepted, in one pass over a plain or gzipped archive.

    Raises CorpusError naming the archive when it is missing, truncated, damaged or no tar archive.
    """
    try:
        with tarfile.open(archive, "r|*", tarinfo=CheckedTarInfo) as tar:
            for member in tar:
                if not member.isfile() or not accept(member.name):
                    continue
                stream = tar.extractfile(member)
                assert stream is not None  # isfile() was checked
                yield member.name, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(f"{archive}: {error}; a readable tar archive was expected") from error


def shard_paths(folder: Path, split: str) -> list[Path]:
    """Return the shards SPLIT-NNNNN.tar of a split in order."""
    return sorted(folder.glob(f"{split}-[0-9]*.tar"))


def read_shard(shard: Path) -> Iterator[Sample]:
    """Yield every key of a shard, in order. Raises CorpusError when a key lacks its picture or its JSON."""
    for key, parts in shard_entries(shard):
        yield _sample(shard, key, parts)


def shard_entries(
    shard: Path, accept: Callable[[str, str], bool] = lambda key, extension: True
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {extension in lower case: content}) of every key of a shard, in order. Raises CorpusError.

    Members for which `accept(key, extension)` is false are skipped without reading, as are hidden files, which have no
    key.
    """
    parts: dict[str, bytes] = {}
    current: str | None = None
    for name, content in tar_members(shard, lambda name: bool(_parted(name)[0]) and accept(*_parted(name))):
        key, extension = _parted(name)
        if current is not None and key != current:
            yield current, parts
            parts = {}
        current = key
        parts[extension] = content
    if current is not None:
        yield current, parts


def _parted(name: str) -> tuple[str, str]:
    """Return (key, extension in lower case).

    The key is the path up to the first dot of the file name, as in WebDataset. That of a hidden file is empty.
    """
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else "", extension.lower()


def _sample(shard: Path, key: str, parts: dict[str, bytes]) -> Sample:
    pictures = sorted(PICTURES & set(parts))
    if not pictures:
        raise CorpusError(f"{shard}: {key}: has {sorted(parts)}; one of {sorted(PICTURES)} was expected")
    if "json" not in parts:
        raise CorpusError(f"{shard}: {key}.json: missing; every picture needs its annotation")
    try:
        record = json.loads(parts["json"])
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{shard}: {key}.json: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{shard}: {key}.json: {type(record).__name__}; a JSON object was expected")
    return Sample(shard, key, EncodedMedia(f"{key}.{pictures[0]}", parts[pictures[0]]), record)


@dataclass(frozen=True)
class Captioned:
    """A key with its caption; `record` is the content of KEY.json."""

    key: str
    caption: str
    media: EncodedMedia
    record: Record


def captioned_entries(
    folder: Path, split: str, extensions: Sequence[str], unit: Callable[[str], str] = str
) -> Iterator[Captioned]:
    """Yield every captioned key of a split, shard by shard, with its media file of the first of `extensions`.

    A key without a media file gets an empty one, which packing lists as skipped. Keys without a caption are left out
    with a warning. unit: Maps a key to the name whose hash decides the split. Raises CorpusError naming shard and
    member.
    """
    check_split(split)
    extensions_read = {*extensions, "txt", "json"}
    without_caption: list[str] = []
    keys: set[str] = set()
    for shard in _numbered_shards(folder):
        for key, parts in shard_entries(
            shard, lambda key, ext: ext in extensions_read and split_of(unit(key)) == split
        ):
            if key in keys:
                raise CorpusError(f"{shard}: {key}: occurs twice; unique keys were expected")
            keys.add(key)
            record = object_of(f"{shard}: {key}.json: ", parts.get("json", b"{}"))
            caption = _caption(shard, key, parts, record)
            if not caption:
                without_caption.append(key)
                continue
            extension = next((extension for extension in extensions if extension in parts), extensions[0])
            yield Captioned(key, caption, EncodedMedia(f"{key}.{extension}", parts.get(extension, b"")), record)
    warn_of(folder, split, "without a caption are left out", without_caption)


def _numbered_shards(folder: Path) -> list[Path]:
    shards = [path for path in folder.glob("*.tar") if path.stem.isdecimal()]
    if not shards:
        raise CorpusError(f"{folder}: no shard; 00000.tar, 00001.tar and so on were expected")
    return sorted(shards, key=lambda path: int(path.stem))


def _caption(shard: Path, key: str, parts: Mapping[str, bytes], record: Record) -> str:
    try:
        caption = parts.get("txt", b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{shard}: {key}.txt: {error}; UTF-8 was expected") from None
    if not caption.strip() and record.fields.get("caption"):
        return text_or_blank(record, "caption", "a sentence")
    return " ".join(caption.split())


NAMED_PHOTOGRAPHS_ORIGIN = Origin(
    source="ImageNet categories (Deng et al., CVPR 2009), some photographs of each",
    licence="ImageNet's own terms: non-commercial research and education",
    split_rule="by the names of the shards",
)


def named_photographs(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield the photographs of SPLIT-00000.tar ..., KEY.jpg with KEY.json {"name": ..., "wnid": ...}.

    The name is the caption. Raises CorpusError, and EmptySplit for a split without shards.
    """
    shards = shard_paths(folder, split)
    if not shards:
        raise EmptySplit(f"{folder}: no {split}-*.tar")
    for shard in shards:
        for sample in read_shard(shard):
            name = sample.record.get("name")
            if not isinstance(name, str) or not name:
                raise CorpusError(f"{shard}: {sample.key}.json: name: {name!r}; the name of the category was expected")
            yield Example(sample.key, (name,), still=True, attributes={"wnid": sample.record.get("wnid")}), sample.media


IMAGE_SHARDS_ORIGIN = Origin(
    source="pictures with captions from the web, in shards as img2dataset writes them",
    licence="captions: that of the list they were downloaded by; every picture belongs to its author",
    split_rule=split_rule("the key"),
)


def image_shards(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every captioned picture of a split, shard by shard. Raises CorpusError naming shard and member."""
    for entry in captioned_entries(folder, split, sorted(PICTURES)):
        yield Example(entry.key, (entry.caption,), still=True), entry.media


VIDEO_SHARDS_ORIGIN = Origin(
    source="videos with captions, in shards as video2dataset writes them",
    licence="captions: that of the list they were downloaded by; every video belongs to its author",
    split_rule=split_rule("the key, without the number of a clip"),
)
VIDEOS = ("mp4", "webm", "mkv", "avi", "mov")
_CLIP_KEY = re.compile(r"(\d+)_\d+")


def video_shards(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every captioned video of a split, shard by shard. Raises CorpusError naming shard and member."""
    for entry in captioned_entries(folder, split, VIDEOS, _video):
        attributes = {name: entry.record.fields[name] for name in ("url", "clips") if name in entry.record.fields}
        yield Example(entry.key, (entry.caption,), attributes=attributes), entry.media


def _video(key: str) -> str:
    clip = _CLIP_KEY.fullmatch(key)
    return clip[1] if clip else key
