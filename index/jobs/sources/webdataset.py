"""WebDataset shards: tar archives in which the members with the same key (name up to its first dot) form a sample.

A media member is an item; the sample's ``KEY.json`` gives title and metadata, ``KEY.txt`` a caption. Members are read
with ``tarfile``: the ``webdataset`` package holds every member in memory as a whole, and reads only in sequence.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.list_limits import ListLimits, ListUsage
from index.jobs.sources.manifest_file import metadata_key
from index.jobs.sources.source_types import NON_MEDIA_SUFFIXES, SourceItem, member_uri
from index.records import MAX_TEXT_LENGTH, Scalar, check_metadata, check_text
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import MediaFile
from vitascope.tar_headers import CheckedTarInfo

_TEXT_SUFFIXES = (".json", ".txt")
_SKIPPED_SUFFIXES = NON_MEDIA_SUFFIXES | {".cls", ".id", ".idx", ".mp3", ".wav", ".flac", ".m4a", ".aac", ".opus"}
_MAX_TEXT_BYTES = 4 * 1024**2
"""Maximum bytes of all JSON and text members of one sample."""
_MAX_SHOWN = 200
_READ_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError)


def list_shard(
    shard: Path, policy: AccessPolicy, limits: ListLimits, on_member: Callable[[], None]
) -> Iterator[SourceItem]:
    """Yield an item for each media member, in the archive's order, and a failed item if the archive is damaged.

    ``on_member`` is called with each member; an exception it raises ends the listing. Raises InvalidInput beyond
    ``limits``.
    """
    try:
        file = policy.open_file(shard)
    except MediaError as error:
        yield SourceItem(str(shard), "failed", str(error))
        return
    with file:
        usage = ListUsage(file, limits)
        for item in _items(file, limits, on_member):
            usage.add_item(f"{shard.name}, {item.uri[:_MAX_SHOWN]}", item)
            yield item


class ShardReader:
    """An open archive whose members are read in any order; forward is fastest."""

    def __init__(self, path: Path, policy: AccessPolicy) -> None:
        """Open the archive. Raises MediaError if it is not a tar archive, or if ``policy`` forbids it."""
        self.path = path
        self._file = policy.open_file(path)
        try:
            self._archive = tarfile.open(fileobj=self._file.reader(), mode="r:*", tarinfo=CheckedTarInfo)  # noqa: SIM115 (closed by close)
        except _READ_ERRORS as error:
            self._file.close()
            raise MediaError(f"{path.name}: {error}; a tar archive was expected") from error
        self._members: dict[str, tarfile.TarInfo] = {}

    def open(self, name: str) -> tuple[IO[bytes], int]:
        """Return a stream of a member's content, and its size in bytes. Raises MediaError."""
        member = self._find_member(name)
        stream = None if member is None else self._archive.extractfile(member)
        if member is None or stream is None:
            raise MediaError(f"{self.path.name}: no member {name!r} any more")
        return stream, member.size

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def _find_member(self, name: str) -> tarfile.TarInfo | None:
        if name not in self._members:
            try:
                for member in self._archive:
                    if member.isfile():
                        self._members.setdefault(member.name, member)
            except _READ_ERRORS:
                pass  # members before the damage can be read
        return self._members.get(name)


def _items(file: MediaFile, limits: ListLimits, on_member: Callable[[], None]) -> Iterator[SourceItem]:
    shard = file.path
    sample = _Sample(shard, "", limits)
    last_name = "its beginning"
    try:
        with tarfile.open(fileobj=file.reader(), mode="r:*", tarinfo=CheckedTarInfo) as archive:
            for member in archive:
                on_member()
                last_name = member.name
                key = _sample_key(member.name)
                if not member.isfile() or not PurePosixPath(key).name:
                    continue  # folders, links, hidden files
                if key != sample.key:
                    yield from sample.items()
                    sample = _Sample(shard, key, limits)
                sample.add(archive, member)
    except _READ_ERRORS as error:
        yield from sample.items()
        yield SourceItem(str(shard), "failed", f"{shard.name}: cannot be read beyond {last_name}: {error}")
        return
    yield from sample.items()


class _Sample:
    """The members with the same key."""

    def __init__(self, shard: Path, key: str, limits: ListLimits) -> None:
        self.shard = shard
        self.key = key
        self._limits = limits
        self._remaining_bytes = _MAX_TEXT_BYTES
        self._media: list[str] = []
        self._skipped: list[str] = []
        self._texts: dict[str, bytes | None] = {}

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix in _TEXT_SUFFIXES:
            stream = archive.extractfile(member)
            assert stream is not None  # isfile() was checked
            self._remaining_bytes -= member.size
            self._texts[member.name] = stream.read() if self._remaining_bytes >= 0 else None
        elif suffix in _SKIPPED_SUFFIXES:
            self._skipped.append(member.name)
        else:
            self._media.append(member.name)
        count = len(self._media) + len(self._skipped) + len(self._texts)
        self._limits.check_rows(f"{self.shard.name}, member {member.name[:_MAX_SHOWN]}", count)

    def items(self) -> Iterator[SourceItem]:
        for name in self._skipped:
            suffix = PurePosixPath(name).suffix.lower()
            yield SourceItem(member_uri(self.shard, name), "skipped", f"not a media file ({suffix})")
        if not self._media:
            for name in self._texts:
                yield SourceItem(member_uri(self.shard, name), "skipped", "no media file has this key")
            return
        try:
            title, metadata = self._read_texts()
        except InvalidInput as error:
            yield from (SourceItem(member_uri(self.shard, name), "failed", str(error)) for name in self._media)
            return
        for name in self._media:
            try:
                uri = check_text("member", member_uri(self.shard, name))
            except InvalidInput as error:
                escaped = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
                yield SourceItem(member_uri(self.shard, escaped)[:MAX_TEXT_LENGTH], "failed", str(error))
            else:
                yield SourceItem(uri, title=title, metadata=metadata)

    def _read_texts(self) -> tuple[str | None, dict[str, Scalar]]:
        """Return (title, metadata). Only numbers, texts and booleans of the JSON are kept: filters can use these."""
        title: str | None = None
        metadata: dict[str, Scalar] = {}
        for name, content in sorted(self._texts.items()):  # .json before .txt
            position = f"{self.shard.name}, member {name}"
            text = _decode(position, content)
            if name.lower().endswith(".txt"):
                self._limits.check_text(position, caption := text.strip())
                metadata["caption"] = check_text(position, caption)
                continue
            values = _parse_object(position, text)
            self._limits.check_columns(position, len(values), "keys")
            for key, value in values.items():
                self._limits.check_text(f"{position}, key {key!r}", value)
            if isinstance(own_title := values.pop("title", None), str):
                title = check_text(f"{position}, key 'title'", own_title.strip()) or None
            metadata |= {metadata_key(k): v for k, v in values.items() if isinstance(v, str | int | float)}
            try:
                check_metadata(metadata)
            except InvalidInput as error:
                raise InvalidInput(f"{position}: {error}") from error
        return title, metadata


def _decode(position: str, content: bytes | None) -> str:
    if content is None:
        raise InvalidInput(f"{position}: with the sample's other texts larger than {_MAX_TEXT_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{position}: {error}; UTF-8 was expected") from error


def _parse_object(position: str, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{position}: not JSON ({error}); an object was expected") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{position}: a JSON {type(values).__name__}; an object was expected")
    return values


def _sample_key(name: str) -> str:
    """Return the folder and the file's name up to its first dot; for hidden files the name is empty."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
