"""Files behind URLs, by fsspec. Each protocol may need a package of its own, which fsspec names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from index.jobs.folder_scan import NOT_MEDIA
from index.jobs.sources.access_policy import Reach, check_url
from index.jobs.sources.item import SourceItem
from vitascope.errors import InvalidInput, MediaError

BLOCK = 1024 * 1024


def list_url(url: str, reach: Reach, title: str | None = None) -> Iterator[SourceItem]:
    """The file of this URL, which has the title, all files below it, or those that match a ``*`` in it, by name.

    Raises InvalidInput for a protocol that cannot be used, OSError when the place cannot be listed.
    """
    system, path = _open_system(url)
    try:
        if "*" in url:
            base = url[: url.index("*")].rpartition("/")[0]
            names = sorted(name for name in system.glob(path) if system.isfile(name))
        elif system.isdir(path):
            base = url.rstrip("/")
            names = sorted(system.find(path))
        else:
            yield SourceItem(url, title=title)
            return
        stem = str(system._strip_protocol(base)).rstrip("/")
    except OSError:
        raise
    except Exception as error:  # each protocol has errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from error
    for name in names:
        yield _judged(f"{base}/{str(name).removeprefix(stem).lstrip('/')}", reach)


def open_url(url: str) -> tuple[IO[bytes], int | None]:
    """The content of a URL, and its size in bytes where that is known. Raises MediaError and InvalidInput."""
    system, path = _open_system(url)
    try:
        stream = system.open(path, "rb", block_size=BLOCK)
    except Exception as error:
        raise MediaError(f"{url}: cannot be opened: {type(error).__name__}: {error}") from error
    size = getattr(stream, "size", None)
    return stream, size if isinstance(size, int) else None


def _judged(uri: str, reach: Reach) -> SourceItem:
    name = PurePosixPath(uri).name
    ending = PurePosixPath(name).suffix.lower()
    if name.startswith("."):
        return SourceItem(uri, "skipped", "hidden file")
    if ending in NOT_MEDIA:
        return SourceItem(uri, "skipped", f"not a media file ({ending})")
    try:
        check_url("url", uri)
    except InvalidInput as error:
        return SourceItem(uri, "failed", str(error))
    refused = reach.refuses_url(uri)
    return SourceItem(uri) if refused is None else SourceItem(uri, "failed", refused)


def _open_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{url}: URLs need the package 'fsspec'; in the checkout: pip install --editable '.[remote]'"
        ) from error
    try:
        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InvalidInput(f"{url}: {error}") from error
    return system, str(path)
