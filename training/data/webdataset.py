"""Tar archives, read member by member: WebDataset shards (KEY.jpg + KEY.json), packages of registries."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.errors import CorpusError

PICTURES = frozenset({"jpg", "jpeg", "png", "webp"})


@dataclass(frozen=True)
class EncodedMedia:
    """An encoded picture or video held in memory; `name` ends in the format's extension."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Sample:
    """One key of a shard. `shard` and `key` name it in errors."""

    shard: Path
    key: str
    media: EncodedMedia
    record: dict[str, Any]


def tar_members(archive: Path, accept: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files whose name is wanted, in one pass over a plain or gzipped archive.

    Raises CorpusError naming the archive when it is missing, truncated or no tar archive.
    """
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                if not member.isfile() or not accept(member.name):
                    continue
                stream = tar.extractfile(member)
                assert stream is not None  # isfile() was checked
                yield member.name, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(f"{archive}: {error}; a readable tar archive was expected") from error


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards SPLIT-NNNNN.tar of a split in order, none when the folder holds no such shard."""
    return sorted(folder.glob(f"{split}-[0-9]*.tar"))


def read_shard(shard: Path) -> Iterator[Sample]:
    """Every key of a shard, in order. Raises CorpusError when a key lacks its picture or its JSON."""
    for key, parts in shard_entries(shard):
        yield _sample(shard, key, parts)


def shard_entries(
    shard: Path, accept: Callable[[str, str], bool] = lambda key, extension: True
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension in lower case: content}) of every key of a shard, in order. Raises CorpusError.

    Members are passed over unread unless `wanted(key, extension)`, and hidden ones, which have no key, always.
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
    """(key, extension in lower case): the key ends at the first dot of the file name, as WebDataset defines it."""
    key, _, extension = PurePosixPath(name).name.partition(".")
    return key, extension.lower()


def _sample(shard: Path, key: str, parts: dict[str, bytes]) -> Sample:
    pictures = sorted(PICTURES & set(parts))
    if not pictures:
        raise CorpusError(f"{shard}: {key}: has {sorted(parts)}; one of {sorted(PICTURES)} was expected")
    if "json" not in parts:
        raise CorpusError(f"{shard}: {key}.json: missing; every picture needs its annotation")
    try:
        record = json.loads(parts["json"])
    except ValueError as error:
        raise CorpusError(f"{shard}: {key}.json: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{shard}: {key}.json: {type(record).__name__}; a JSON object was expected")
    return Sample(shard, key, EncodedMedia(f"{key}.{pictures[0]}", parts[pictures[0]]), record)
