"""Sources of indexing jobs as data: small, comparable, stored as JSON with the job.

Paths are absolute once a source has been checked.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy, absolute_path, check_url, is_url
from index.records import MAX_KEY_LENGTH, Scalar, check_text
from index.storage.removals import MEDIA
from vitascope.errors import InvalidInput

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
NON_MEDIA_SUFFIXES = frozenset(
    (  # noqa: SIM905 (ninety lines otherwise)
        ".ass .bak .bib .bz2 .c .cfg .conf .cpp .css .csv .db .doc .docx .eml .epub .gz .h .htm .html .ics .ini .ipynb"
        " .java .js .json .jsonl .key .lock .log .m3u .m3u8 .md .nfo .npy .npz .odp .ods .odt .onnx .parquet .pdf .pem"
        " .pkl .ppt .pptx .ps1 .pt .py .pyc .rb .rs .rst .rtf .safetensors .sh .sql .sqlite .sqlite3 .srt .ssa .sub"
        " .tar .tex .tgz .toml .torrent .tsv .txt .url .vtt .xls .xlsx .xml .xz .yaml .yml .zip .zst"
    ).split()
)
"""Suffixes of files that lie beside videos and are never media. All other files are classified by their content."""
MAX_NAMED = 10_000
"""Maximum number of files or shards that a source names one by one; a file list may contain any number."""
NOT_UTF_8 = "the path is not valid UTF-8, which was expected; rename the file or folder"
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""A byte of a file's name that is not UTF-8, as Python represents it."""
_UPLOAD_NAME = re.compile(r"upload-[0-9a-f]{32}\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class FolderSource:
    """All files of a folder, and with ``recursive`` of its subfolders."""

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

    ``path_column`` holds a path (relative to the list's folder, or absolute) or a URL, ``title_column`` an optional
    title; all other columns become metadata.
    """

    kind: ClassVar[str] = "list"
    file: str
    path_column: str = "path"
    title_column: str = "title"


@dataclass(frozen=True, slots=True)
class ShardsSource:
    """WebDataset shards: tar archives of media members with JSON and text members of the same key."""

    kind: ClassVar[str] = "shards"
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UrlSource:
    """The file at an fsspec URL, all files below a folder, or those that match a pattern with ``*``.

    ``title``: title of the video if the URL is a single file.
    """

    kind: ClassVar[str] = "url"
    url: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class UploadSource:
    """One uploaded file.

    Attributes:
        file: name of the file at the client.
        stored_name: name of the file in the collection's media folder.
        title: title of the video.
    """

    kind: ClassVar[str] = "upload"
    file: str
    stored_name: str
    title: str

    @property
    def stored_path(self) -> str:
        """The path of the file as the catalogue names it."""
        return f"{MEDIA}/{self.stored_name}"


Source = FolderSource | FilesSource | ListSource | ShardsSource | UrlSource | UploadSource
SOURCE_TYPES: dict[str, type[Source]] = {
    source.kind: source for source in (FolderSource, FilesSource, ListSource, ShardsSource, UrlSource, UploadSource)
}


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One item of a source. ``state``: ``queued`` to be indexed, or a final state with the ``reason``.

    Attributes:
        uri: an absolute path, a URL, or ``tar://MEMBER::ARCHIVE``; for a row that names no video, the row's position.
        title: the item's own title.
        metadata: the item's own metadata.
    """

    uri: str
    state: Literal["queued", "failed", "skipped"] = "queued"
    reason: str | None = None
    title: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def new_upload_name(suffix: str) -> str:
    """Return a new name for an uploaded file. ``suffix``: suffix of its format, such as "mp4"."""
    return f"upload-{uuid.uuid4().hex}.{suffix}"


def is_upload_name(name: str) -> bool:
    """Return whether a name has the form of ``new_upload_name``, which cannot lead out of the media folder."""
    return _UPLOAD_NAME.fullmatch(name) is not None


def printable_path(path: Path) -> str:
    """Return a path as text that can be stored; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def member_uri(shard: Path, member: str) -> str:
    """Return the URI of a member, in the form of fsspec."""
    return f"tar://{member}::{shard}"


def split_member_uri(uri: str) -> tuple[str, Path] | None:
    """Return (member, archive) of the URI of an archive member; None for any other URI."""
    if not uri.startswith("tar://") or "::" not in uri:
        return None
    member, _, shard = uri.removeprefix("tar://").rpartition("::")
    return member, Path(shard)


def source_dict(source: Source) -> dict[str, Any]:
    """Return a source as a JSON object for clients: ``kind`` and its fields, without the stored name of an upload."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(source).items()}
    fields.pop("stored_name", None)
    return {"kind": source.kind, **fields}


def source_json(source: Source) -> str:
    """Return a source as the JSON text that the catalogue stores; the stored name of an upload has the key ``held``."""
    stored = {"held": source.stored_name} if isinstance(source, UploadSource) else {}
    return json.dumps({**source_dict(source), **stored}, ensure_ascii=False)


def read_source(text: str) -> Source:
    """Parse a source from the text that ``source_json`` returned."""
    fields = json.loads(text)
    source_type: Callable[..., Source] = SOURCE_TYPES[fields.pop("kind")]
    if "held" in fields:
        fields["stored_name"] = fields.pop("held")
    return source_type(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def source_name(source: Source) -> str:
    """Return a short name of a source for messages."""
    match source:
        case FolderSource(folder=folder):
            return folder
        case FilesSource(files=names) | ShardsSource(shards=names):
            return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        case ListSource(file=file) | UploadSource(file=file):
            return file
        case UrlSource(url=url):
            return url


def parse_source(names: Sequence[str], *, recursive: bool = True) -> Source:
    """Return the source that paths or a URL name: one folder, file list or URL, or any number of shards or files.

    Raises InvalidInput.
    """
    if len(names) == 1:
        (name,) = names
        if is_url(name):
            return UrlSource(name)
        if Path(name).is_dir():
            return FolderSource(name, recursive)
        if not Path(name).exists():
            raise InvalidInput(
                f"source: {name!r} does not exist; an existing folder, file list, shard or file, or a URL was expected"
            )
        if name.lower().endswith(LIST_SUFFIXES):
            return ListSource(name)
    if all(name.lower().endswith(SHARD_SUFFIXES) for name in names):
        return ShardsSource(tuple(names))
    for name in names:
        if is_url(name) or Path(name).is_dir() or name.lower().endswith((*LIST_SUFFIXES, *SHARD_SUFFIXES)):
            raise InvalidInput(
                f"source: {name!r} together with others; one folder, one file list, one URL, or any number of shards "
                "or of files was expected"
            )
    return FilesSource(tuple(names))


def check_source(source: Source, policy: AccessPolicy = UNRESTRICTED) -> Source:
    """Return a source with absolute paths that exist and that ``policy`` allows.

    Raises InvalidInput naming the field.
    """
    match source:
        case FolderSource():
            path = _check_path("folder", source.folder, policy)
            if not path.is_dir():
                raise InvalidInput(f"folder: {source.folder!r} is not a folder; an existing folder was expected")
            return replace(source, folder=str(path))
        case FilesSource():
            return FilesSource(_check_files("files", source.files, policy))
        case ListSource():
            return _check_list(source, policy)
        case ShardsSource():
            shards = _check_files("shards", source.shards, policy)
            for shard in shards:
                if not shard.lower().endswith(SHARD_SUFFIXES) or "::" in shard:
                    raise InvalidInput(f"shards: {shard!r}; a name ending in {', '.join(SHARD_SUFFIXES)} was expected")
            return ShardsSource(shards)
        case UrlSource():
            return _check_url_source(source, policy)
        case UploadSource():
            return source  # stored by the collection, whatever the policy


def path_of_file_url(url: str) -> str | None:
    """Return the path in a ``file:`` URL; None for any other. Raises InvalidInput for a remote host or no path."""
    parts = urlsplit(url)
    if parts.scheme not in ("file", "local"):
        return None
    if parts.netloc not in ("", "localhost"):
        raise InvalidInput(f"url: {url!r} names the machine {parts.netloc!r}; file:///PATH was expected")
    if not parts.path:
        raise InvalidInput(f"url: {url!r} has no path; file:///PATH was expected")
    return unquote(parts.path)


def _check_list(source: ListSource, policy: AccessPolicy) -> ListSource:
    (file,) = _check_files("file", (source.file,), policy)
    if not file.lower().endswith(LIST_SUFFIXES):
        raise InvalidInput(f"file: {source.file!r}; a name ending in {', '.join(LIST_SUFFIXES)} was expected")
    for name in ("path_column", "title_column"):
        if not check_text(name, getattr(source, name), MAX_KEY_LENGTH):
            raise InvalidInput(f"{name}: it is empty; the name of a column was expected")
    if source.path_column == source.title_column:
        raise InvalidInput(f"title_column: {source.title_column!r} is the path_column, too; another was expected")
    return replace(source, file=file)


def _check_url_source(source: UrlSource, policy: AccessPolicy) -> Source:
    """Check a URL; one of a local file becomes a path, so that nothing is copied."""
    check_url("url", source.url)
    if source.title is not None:
        check_text("title", source.title)
    if (path := path_of_file_url(source.url)) is not None:
        return check_source(FolderSource(path) if Path(path).is_dir() else FilesSource((path,)), policy)
    if (problem := policy.url_error(source.url)) is not None:
        raise InvalidInput(f"url: {problem}")
    return source


def _check_files(name: str, files: Sequence[str], policy: AccessPolicy) -> tuple[str, ...]:
    if not 1 <= len(files) <= MAX_NAMED:
        raise InvalidInput(f"{name}: {len(files)} given; 1 to {MAX_NAMED} were expected (a file list may hold more)")
    paths = []
    for file in files:
        path = _check_path(name, file, policy)
        if not path.is_file():
            raise InvalidInput(f"{name}: {file!r} is not a file; an existing file was expected")
        paths.append(str(path))
    return tuple(dict.fromkeys(paths))


def _check_path(name: str, text: str, policy: AccessPolicy) -> Path:
    if _ESCAPED_BYTE.search(text):
        raise InvalidInput(f"{name}: '{printable_path(Path(text))}': {NOT_UTF_8}")
    path = absolute_path(Path(check_text(name, text)))
    if (problem := policy.path_error(path)) is not None:
        raise InvalidInput(f"{name}: {problem}")
    return path
