"""Where a collection's vectors are searched: in this process by FAISS, or in a Milvus server.

Either way SQLite has them, and what searches is derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from index.vectors.faiss_kinds import AUTO, FLAT, HNSW, SETTINGS
from vitascope.errors import InvalidInput

FAISS = "faiss"
PLACE_KEY = "vectors"
"""In a catalogue's table meta; a catalogue without it is searched by FAISS."""
LITE = ".db"
"""What the path of a Milvus Lite ends in."""
_SCHEMES = ("http", "https", "tcp")


def check_place(value: object) -> str:
    """``value`` if vectors can be searched there: ``faiss``, a Milvus server's URL, or a path ending in ``.db``.

    The path comes back absolute. Raises InvalidInput, also for a URL with credentials, which it does not repeat.
    """
    if value == FAISS:
        return FAISS
    if not isinstance(value, str) or not value or "\0" in value:
        raise _unusable(value)
    if "://" not in value:
        if not value.endswith(LITE):
            raise _unusable(value)
        return str(Path(value).absolute())
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"vectors: not a URL ({error}); one such as http://milvus:19530 was expected") from error
    if parts.username or parts.password or "@" in parts.netloc:
        raise InvalidInput(
            "vectors: a URL with credentials, which would be kept in the catalogue; they were expected in the "
            "environment, as VITASCOPE_MILVUS_TOKEN"
        )
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise _unusable(value)
    return value


def place_of(meta: Mapping[str, str]) -> str:
    """Where the vectors of a catalogue with this table meta are searched."""
    return meta.get(PLACE_KEY, FAISS)


def settings_at(place: str) -> tuple[str, ...]:
    """The kinds of index that can be asked for there.

    Milvus's lists of codes are not offered: it does not compare what they find with the vectors themselves.
    """
    return SETTINGS if place == FAISS else (AUTO, FLAT, HNSW)


def _unusable(value: object) -> InvalidInput:
    return InvalidInput(
        f"vectors: {value!r}; faiss, a URL such as http://milvus:19530, or a path ending in {LITE} was expected"
    )
