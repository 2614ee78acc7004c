"""WebDataset shards: tar archives in which members of one key (the name up to its first dot) are one sample.

A media member is an item; ``KEY.json`` beside it gives title and metadata, ``KEY.txt`` its caption.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from index.jobs.folder_scan import NOT_MEDIA
from index.jobs.sources.access_policy import Reach
from index.jobs.sources.item import SourceItem
from index.jobs.sources.list_limits import ListLimits, Tally
from index.jobs.sources.manifest_file import metadata_key
from index.records import MAX_TEXT_LENGTH, Scalar, check_metadata, check_text
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import MediaFile

_SIDECARS = (".json", ".txt")
_NO_PICTURES = NOT_MEDIA | {".cls", ".id", ".idx", ".mp3", ".wav", ".flac", ".m4a", ".aac", ".opus"}
_MAX_SIDECARS = 4 * 1024**2
"""Bytes of the JSON and text of one sample."""
_SHOWN = 200
_UNREADABLE = (tarfile.TarError, EOFError, OSError, ValueError)


def list_shard(shard: Path, reach: Reach, limits: ListLimits, on_member: Callable[[], None]) -> Iterator[SourceItem]:
    """An item for each media member, in the archive's order, and one that says why for a damaged archive.

    ``on_member`` is called with each member; what it raises ends the listing. Raises InvalidInput beyond ``limits``.
    """
    try:
        file = reach.open_file(shard)
    except MediaError as error:
        yield SourceItem(str(shard), "failed", str(error))
        return
    with file:
        tally = Tally(file, limits)
        for item in _items(file, limits, on_member):
            tally.add(f"{shard.name}, {item.uri[:_SHOWN]}", item)
            yield item


def _items(file: MediaFile, limits: ListLimits, on_member: Callable[[], None]) -> Iterator[SourceItem]:
    shard = file.path
    sample = _Sample(shard, "", limits)
    last = "its beginning"
    try:
        with tarfile.open(fileobj=file.reader(), mode="r:*") as archive:
            for member in archive:
                on_member()
                last = member.name
                key = _key(member.name)
                if not member.isfile() or not PurePosixPath(key).name:
                    continue  # folders, links, hidden files
                if key != sample.key:
                    yield from sample.items()
                    sample = _Sample(shard, key, limits)
                sample.add(archive, member)
    except _UNREADABLE as error:
        yield from sample.items()
        yield SourceItem(str(shard), "failed", f"{shard.name}: cannot be read beyond {last}: {error}")
        return
    yield from sample.items()


def member_uri(shard: Path, member: str) -> str:
    """How a member is named, as fsspec names it."""
    return f"tar://{member}::{shard}"


def split_member(uri: str) -> tuple[str, Path] | None:
    """(member, archive) of such a name; None for any other."""
    if not uri.startswith("tar://") or "::" not in uri:
        return None
    member, _, shard = uri.removeprefix("tar://").rpartition("::")
    return member, Path(shard)


class OpenShard:
    """One archive whose members are read in any order; forward is cheapest."""

    def __init__(self, path: Path, reach: Reach) -> None:
        """Raises MediaError for what is no archive, or may not be read."""
        self.path = path
        self._file = reach.open_file(path)
        try:
            self._archive = tarfile.open(fileobj=self._file.reader(), mode="r:*")  # noqa: SIM115 (closed by close)
        except _UNREADABLE as error:
            self._file.close()
            raise MediaError(f"{path.name}: {error}; a tar archive was expected") from error
        self._members: dict[str, tarfile.TarInfo] = {}

    def open(self, name: str) -> tuple[IO[bytes], int]:
        """The content of a member, and how many bytes it has. Raises MediaError."""
        member = self._find(name)
        stream = None if member is None else self._archive.extractfile(member)
        if member is None or stream is None:
            raise MediaError(f"{self.path.name}: no member {name!r} any more")
        return stream, member.size

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def _find(self, name: str) -> tarfile.TarInfo | None:
        if name not in self._members:
            try:
                for member in self._archive:
                    if member.isfile():
                        self._members.setdefault(member.name, member)
            except _UNREADABLE:
                pass  # what was found before the damage can be read
        return self._members.get(name)


class _Sample:
    """The members of one key."""

    def __init__(self, shard: Path, key: str, limits: ListLimits) -> None:
        self.shard = shard
        self.key = key
        self._limits = limits
        self._left = _MAX_SIDECARS
        self._media: list[str] = []
        self._others: list[str] = []
        self._texts: dict[str, bytes | None] = {}

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        ending = PurePosixPath(member.name).suffix.lower()
        if ending in _SIDECARS:
            stream = archive.extractfile(member)
            assert stream is not None  # isfile() was checked
            self._left -= member.size
            self._texts[member.name] = stream.read() if self._left >= 0 else None
        elif ending in _NO_PICTURES:
            self._others.append(member.name)
        else:
            self._media.append(member.name)
        count = len(self._media) + len(self._others) + len(self._texts)
        self._limits.check_rows(f"{self.shard.name}, member {member.name[:_SHOWN]}", count)

    def items(self) -> Iterator[SourceItem]:
        for name in self._others:
            ending = PurePosixPath(name).suffix.lower()
            yield SourceItem(member_uri(self.shard, name), "skipped", f"not a media file ({ending})")
        if not self._media:
            for name in self._texts:
                yield SourceItem(member_uri(self.shard, name), "skipped", "no media file of this key is beside it")
            return
        try:
            title, metadata = self._described()
        except InvalidInput as error:
            yield from (SourceItem(member_uri(self.shard, name), "failed", str(error)) for name in self._media)
            return
        for name in self._media:
            try:
                uri = check_text("member", member_uri(self.shard, name))
            except InvalidInput as error:
                shown = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
                yield SourceItem(member_uri(self.shard, shown)[:MAX_TEXT_LENGTH], "failed", str(error))
            else:
                yield SourceItem(uri, title=title, metadata=metadata)

    def _described(self) -> tuple[str | None, dict[str, Scalar]]:
        """(title, metadata). Numbers, texts and booleans of the JSON are kept; null, lists and objects, which
        no filter can ask for, stay in the archive.
        """
        title: str | None = None
        metadata: dict[str, Scalar] = {}
        for name, content in sorted(self._texts.items()):  # .json before .txt
            place = f"{self.shard.name}, member {name}"
            text = _decoded(place, content)
            if name.lower().endswith(".txt"):
                self._limits.check_text(place, caption := text.strip())
                metadata["caption"] = check_text(place, caption)
                continue
            values = _object(place, text)
            self._limits.check_columns(place, len(values), "keys")
            for key, value in values.items():
                self._limits.check_text(f"{place}, key {key!r}", value)
            if isinstance(given := values.pop("title", None), str):
                title = check_text(f"{place}, key 'title'", given.strip()) or None
            metadata |= {metadata_key(k): v for k, v in values.items() if isinstance(v, str | int | float)}
            try:
                check_metadata(metadata)
            except InvalidInput as error:
                raise InvalidInput(f"{place}: {error}") from error
        return title, metadata


def _decoded(place: str, content: bytes | None) -> str:
    if content is None:
        raise InvalidInput(f"{place}: with the sample's other texts larger than {_MAX_SIDECARS} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{place}: {error}; UTF-8 was expected") from error


def _object(place: str, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{place}: not JSON ({error}); an object was expected") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{place}: a JSON {type(values).__name__}; an object was expected")
    return values


def _key(name: str) -> str:
    """The folder and the file's name up to its first dot, as WebDataset defines it; no name for hidden files."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
