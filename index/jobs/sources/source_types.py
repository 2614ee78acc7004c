"""A source as data: small, comparable, kept as JSON with the job.

Paths are absolute. Relative ones become so when the description is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from index.jobs.sources.access_policy import EVERYWHERE, Reach, check_url, is_url
from index.records import MAX_KEY_LENGTH, check_text
from vitascope.errors import InvalidInput

LIST_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")
MAX_NAMED = 10_000
"""Files or shards that a description may name one by one; a file list may hold any number."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """All files of a folder; ``recursive``: and of the folders in it."""

    kind: ClassVar[str] = "folder"
    folder: str
    recursive: bool = True


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Files named one by one."""

    kind: ClassVar[str] = "files"
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListSource:
    """A CSV, TSV, JSON Lines or Parquet file with a row for each video.

    ``path_column`` holds a path (relative ones are below the list's folder) or URL, ``title_column`` an optional
    title; all other columns become metadata.
    """

    kind: ClassVar[str] = "list"
    file: str
    path_column: str = "path"
    title_column: str = "title"


@dataclass(frozen=True, slots=True)
class ShardsSource:
    """WebDataset shards: tar archives with media members, and JSON and text beside them."""

    kind: ClassVar[str] = "shards"
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UrlSource:
    """What an fsspec URL names: a file, all files below a folder, or those that match a pattern with ``*``.

    ``title`` is that of a single file.
    """

    kind: ClassVar[str] = "url"
    url: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class UploadSource:
    """One file that was handed over with the job. ``file``: what it was called; ``held``: what it is called where the
    collection holds it.
    """

    kind: ClassVar[str] = "upload"
    file: str
    held: str
    title: str


Source = FolderSource | FilesSource | ListSource | ShardsSource | UrlSource | UploadSource
KINDS: dict[str, type[Source]] = {
    s.kind: s for s in (FolderSource, FilesSource, ListSource, ShardsSource, UrlSource, UploadSource)
}


def source_dict(source: Source) -> dict[str, Any]:
    """The description as JSON has it: ``kind`` and the fields of that kind."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(source).items()}
    return {"kind": source.kind, **fields}


def source_json(source: Source) -> str:
    """The stored form."""
    return json.dumps(source_dict(source), ensure_ascii=False)


def read_source(text: str) -> Source:
    """The source of a stored form."""
    fields = json.loads(text)
    kind: Callable[..., Source] = KINDS[fields.pop("kind")]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def source_name(source: Source) -> str:
    """A source in a few words, for messages."""
    match source:
        case FolderSource(folder=folder):
            return folder
        case FilesSource(files=named) | ShardsSource(shards=named):
            return named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"
        case ListSource(file=file) | UploadSource(file=file):
            return file
        case UrlSource(url=url):
            return url


def guess_source(named: Sequence[str], *, recursive: bool = True) -> Source:
    """What paths or a URL mean: one folder, one file list, shards, one URL, or files. Raises InvalidInput."""
    if len(named) == 1:
        (name,) = named
        if is_url(name):
            return UrlSource(name)
        if Path(name).is_dir():
            return FolderSource(name, recursive)
        if not Path(name).exists():
            raise InvalidInput(
                f"source: {name!r} is not there; an existing folder, file list, shard or file, or a URL was expected"
            )
        if name.lower().endswith(LIST_ENDINGS):
            return ListSource(name)
    if all(name.lower().endswith(SHARD_ENDINGS) for name in named):
        return ShardsSource(tuple(named))
    for name in named:
        if is_url(name) or Path(name).is_dir() or name.lower().endswith((*LIST_ENDINGS, *SHARD_ENDINGS)):
            raise InvalidInput(
                f"source: {name!r} beside others; one folder, one file list, one URL, or any number of shards or of "
                "files was expected"
            )
    return FilesSource(tuple(named))


def check_source(source: Source, reach: Reach = EVERYWHERE) -> Source:
    """``source`` with absolute paths, if it can be begun with. Raises InvalidInput naming the field."""
    match source:
        case FolderSource():
            path = _path("folder", source.folder, reach)
            if not path.is_dir():
                raise InvalidInput(f"folder: {source.folder!r} is not a folder; an existing folder was expected")
            return replace(source, folder=str(path))
        case FilesSource():
            return FilesSource(_files("files", source.files, reach))
        case ListSource():
            return _check_list(source, reach)
        case ShardsSource():
            shards = _files("shards", source.shards, reach)
            for shard in shards:
                if not shard.lower().endswith(SHARD_ENDINGS) or "::" in shard:
                    raise InvalidInput(f"shards: {shard!r}; a name ending in {', '.join(SHARD_ENDINGS)} was expected")
            return ShardsSource(shards)
        case UrlSource():
            return _check_url(source, reach)
        case UploadSource():
            return source  # held already, where no reach matters


def _check_list(source: ListSource, reach: Reach) -> ListSource:
    (file,) = _files("file", (source.file,), reach)
    if not file.lower().endswith(LIST_ENDINGS):
        raise InvalidInput(f"file: {source.file!r}; a name ending in {', '.join(LIST_ENDINGS)} was expected")
    for name in ("path_column", "title_column"):
        if not check_text(name, getattr(source, name), MAX_KEY_LENGTH):
            raise InvalidInput(f"{name}: it is empty; the name of a column was expected")
    if source.path_column == source.title_column:
        raise InvalidInput(f"title_column: {source.title_column!r} is the path_column, too; another was expected")
    return replace(source, file=file)


def _check_url(source: UrlSource, reach: Reach) -> Source:
    """A local URL becomes what it stands for: nothing is copied then."""
    check_url("url", source.url)
    if source.title is not None:
        check_text("title", source.title)
    if (local := local_path(source.url)) is not None:
        guessed = FolderSource(local) if Path(local).is_dir() else FilesSource((local,))
        return check_source(guessed, reach)
    if (refused := reach.refuses_url(source.url)) is not None:
        raise InvalidInput(f"url: {refused}")
    return source


def local_path(url: str) -> str | None:
    """The path in a ``file:`` URL; None for any other."""
    parts = urlsplit(url)
    if parts.scheme not in ("file", "local"):
        return None
    if parts.netloc not in ("", "localhost"):
        raise InvalidInput(f"url: {url!r} names the machine {parts.netloc!r}; file:///PATH was expected")
    return unquote(parts.path)


def _files(name: str, given: Sequence[str], reach: Reach) -> tuple[str, ...]:
    if not 1 <= len(given) <= MAX_NAMED:
        raise InvalidInput(f"{name}: {len(given)} given; 1 to {MAX_NAMED} were expected (a file list may hold more)")
    found = []
    for one in given:
        path = _path(name, one, reach)
        if not path.is_file():
            raise InvalidInput(f"{name}: {one!r} is not a file; an existing file was expected")
        found.append(str(path))
    return tuple(dict.fromkeys(found))


def _path(name: str, given: str, reach: Reach) -> Path:
    path = Path(check_text(name, given)).absolute()
    if (refused := reach.refuses_path(path)) is not None:
        raise InvalidInput(f"{name}: {refused}")
    return path
