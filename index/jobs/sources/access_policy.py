"""How far a source may reach: which folders it may read, which URLs it may ask for."""

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
from vitascope.media.confined_open import FOLDER_FLAGS, LeadsOutside, open_folder_inside, open_inside
from vitascope.media.file import MediaFile, media_errors

MAX_URL_LENGTH = 4096
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)


@dataclass(frozen=True)
class Reach:
    """``roots``: files must lie in one of these folders, links followed; ``urls``: URLs must begin with one of
    these, whole path segments at a time. None is no limit. ``web``: other URLs of http and https may be named, too, and
    whoever runs the job gives it a ``FetchWeb`` for them.
    """

    roots: tuple[Path, ...] | None = None
    urls: tuple[str, ...] | None = None
    web: bool = False

    def refuses_path(self, path: Path) -> str | None:
        """Why this path may not be read; None if it may."""
        if self.roots is None or is_inside(path, self.roots):
            return None
        return self._outside(path)

    def open_file(self, path: Path) -> MediaFile:
        """Open the file that ``path`` leads to at this moment. Raises MediaError, also where that may not be read."""
        if self.roots is None:
            return MediaFile.open(path)
        with media_errors(path):
            try:
                return open_inside(path, self.roots)
            except LeadsOutside as error:
                raise MediaError(self._outside(path)) from error

    def open_folder(self, path: Path) -> int:
        """Open the folder that ``path`` leads to at this moment; the descriptor is the caller's to close.

        Raises OSError, also where the folder may not be read.
        """
        if self.roots is None:
            return os.open(path, FOLDER_FLAGS)
        try:
            return open_folder_inside(path, self.roots)
        except LeadsOutside as error:
            raise PermissionError(errno.EACCES, self._outside(path)) from error

    def _outside(self, path: Path) -> str:
        roots = ", ".join(map(str, self.roots or ()))
        return f"{str(path)!r} is outside the folders that jobs may name: {roots}"

    def refuses_url(self, url: str) -> str | None:
        """Why this URL may not be asked for; None if it may."""
        if self._trusts(url) or self.is_web(url):
            return None
        allowed = ", ".join(self.urls or ()) or "none (VITASCOPE_ALLOWED_URLS allows some)"
        hint = "; VITASCOPE_URL_FETCH=on would allow those of public hosts" if _is_http(url) else ""
        return f"{url!r} is outside the URLs that jobs may name: {allowed}{hint}"

    def is_web(self, url: str) -> bool:
        """Whether this URL is of a host that nobody vouched for, and may be named."""
        return self.web and _is_http(url) and not self._trusts(url)

    def _trusts(self, url: str) -> bool:
        return self.urls is None or any(_begins(url, allowed) for allowed in self.urls)


EVERYWHERE = Reach()


def is_url(text: str) -> bool:
    """Whether ``text`` begins as a URL does."""
    return _URL.fullmatch(text) is not None


def check_url(name: str, url: str) -> str:
    """``url`` if it is one that can be kept and fetched. Raises InvalidInput.

    Refused are chains of file systems (``::``), which lead anywhere; names and passwords, which would lie open
    in the catalogue; and ``..``, which leads out of what was allowed.
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
            f"{name}: the URL of {parts.hostname!r} holds a name or password, which would lie open in the catalogue; "
            "fsspec takes them from its configuration and the environment"
        )
    if any(part in (".", "..") for part in re.split(r"[/\\]", unquote(unquote(parts.path)))):
        raise InvalidInput(f"{name}: {url!r} has '.' or '..' in its path; a plain path was expected")
    return url


def is_inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether the file or folder that ``path`` really is lies in one of ``roots``."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        return False


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _begins(url: str, allowed: str) -> bool:
    """Compared by parts: https://media.example must not allow https://media.example.evil."""
    one, other = urlsplit(url), urlsplit(allowed)
    if (one.scheme.lower(), one.netloc.lower()) != (other.scheme.lower(), other.netloc.lower()):
        return False
    folder = other.path if other.path.endswith("/") else f"{other.path}/"
    return one.path == other.path or f"{one.path}/".startswith(folder)
