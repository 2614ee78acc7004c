"""Access policy of a job: the folders and URLs that its source may name."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from index.records import check_text
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import (
    FOLDER_FLAGS,
    MediaFile,
    PathOutsideRoot,
    map_os_errors,
    open_folder_inside,
    open_inside,
)

MAX_URL_LENGTH = 4096
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)


@dataclass(frozen=True)
class AccessPolicy:
    """Folders and URLs that a source may name.

    Attributes:
        roots: files must lie in one of these folders after links are resolved; None: anywhere.
        urls: allowed URL prefixes, compared by whole path segments; None: any URL.
        public_urls: whether other http and https URLs are allowed, too. Those are fetched by a ``UrlFetcher``.
    """

    roots: tuple[Path, ...] | None = None
    urls: tuple[str, ...] | None = None
    public_urls: bool = False

    def path_error(self, path: Path) -> str | None:
        """Return the reason why a path may not be read; None if it may be read."""
        if self.roots is None or is_inside(path, self.roots):
            return None
        return self._outside_roots(path)

    def open_file(self, path: Path) -> MediaFile:
        """Open a file, following links. Raises MediaError, also if the policy forbids the file."""
        if self.roots is None:
            return MediaFile.open(path)
        with map_os_errors(path):
            try:
                return open_inside(path, self.roots)
            except PathOutsideRoot as error:
                raise MediaError(self._outside_roots(path)) from error

    def open_folder(self, path: Path) -> int:
        """Open a folder, following links, and return its descriptor, which the caller closes.

        Raises OSError, also if the policy forbids the folder.
        """
        if self.roots is None:
            return os.open(path, FOLDER_FLAGS)
        try:
            return open_folder_inside(path, self.roots)
        except PathOutsideRoot as error:
            raise PermissionError(errno.EACCES, self._outside_roots(path)) from error

    def url_error(self, url: str) -> str | None:
        """Return the reason why a URL may not be requested; None if it may be requested."""
        if self._is_allowlisted(url) or self.is_public_url(url):
            return None
        allowed = ", ".join(self.urls or ()) or "none (VITASCOPE_ALLOWED_URLS allows some)"
        hint = "; VITASCOPE_URL_FETCH=on would allow those of public hosts" if _is_http(url) else ""
        return f"{url!r} is outside the URLs that jobs may name: {allowed}{hint}"

    def is_public_url(self, url: str) -> bool:
        """Return whether a URL is allowed only because of ``public_urls``, not by ``urls``."""
        return self.public_urls and _is_http(url) and not self._is_allowlisted(url)

    def _is_allowlisted(self, url: str) -> bool:
        return self.urls is None or any(_has_prefix(url, allowed) for allowed in self.urls)

    def _outside_roots(self, path: Path) -> str:
        roots = ", ".join(map(str, self.roots or ()))
        return f"{str(path)!r} is outside the folders that jobs may name: {roots} (VITASCOPE_ALLOWED_ROOTS adds others)"


UNRESTRICTED = AccessPolicy()


def is_url(text: str) -> bool:
    """Return whether a text begins like a URL."""
    return _URL.fullmatch(text) is not None


def absolute_path(path: Path) -> Path:
    """Return an absolute path without ``..``: links are followed up to the last of them, and kept after it."""
    path = path.absolute()
    if ".." not in path.parts:
        return path
    last = len(path.parts) - 1 - path.parts[::-1].index("..")
    return Path(os.path.realpath(Path(*path.parts[: last + 1])), *path.parts[last + 1 :])


def check_url(name: str, url: str) -> str:
    """Check that a URL can be stored and fetched, and return it. Raises InvalidInput with the field's ``name``.

    Rejects chained file systems (``::``), which could reach any place; user names and passwords, which would be stored
    in plain text; and ``..``, which could leave an allowed folder.
    """
    check_text(name, url, MAX_URL_LENGTH)
    if not is_url(url):
        raise InvalidInput(f"{name}: {url!r} is no URL; such as s3://bucket/videos/ was expected")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"{name}: {url!r}: {error}; a URL was expected") from error
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise InvalidInput(f"{name}: {url!r} holds control characters, which some clients drop; none were expected")
    if "::" in url:
        raise InvalidInput(f"{name}: {url!r} chains file systems; one without '::' was expected")
    if "@" in parts.netloc:
        raise InvalidInput(
            f"{name}: the URL of {parts.hostname!r} holds a name or password, which would be stored in plain text; "
            "fsspec takes them from its configuration and the environment"
        )
    if any(part in (".", "..") for part in re.split(r"[/\\]", unquote(unquote(parts.path)))):
        raise InvalidInput(f"{name}: {url!r} has '.' or '..' in its path; a plain path was expected")
    return url


def expand_home(path: str) -> str:
    """Return a path with ``~`` at its beginning replaced by the home folder of this process's user."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def is_inside(path: Path, roots: Sequence[Path]) -> bool:
    """Return whether a file or folder, links resolved, lies in one of the ``roots``."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        return False


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _has_prefix(url: str, prefix: str) -> bool:
    """Compare by parts: https://media.example must not allow https://media.example.evil."""
    parts, allowed = urlsplit(url), urlsplit(prefix)
    if (parts.scheme.lower(), parts.netloc.lower()) != (allowed.scheme.lower(), allowed.netloc.lower()):
        return False
    folder = allowed.path if allowed.path.endswith("/") else f"{allowed.path}/"
    return parts.path == allowed.path or f"{parts.path}/".startswith(folder)
