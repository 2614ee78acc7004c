"""Which collections in Milvus are copies of a catalogue's vectors: kept in the catalogue, in one row of meta.

A copy's name is its own, drawn at random: a catalogue that is restored, imported or embedded again never shares one
with another. A name is noted before the copy is made and until it is dropped, so that whoever is killed in between
leaves nothing that nobody knows of.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from index.vectors.faiss_kinds import FLAT, HNSW
from vitascope.errors import StorageError

COPIES_KEY = "milvus"


@dataclass(frozen=True, slots=True)
class Copy:
    """A collection in Milvus and the kind of its index, flat or hnsw."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Copies:
    """The copy that is searched, and the names of others that may be in Milvus and are to be dropped."""

    current: Copy | None
    left: tuple[str, ...]

    def names(self) -> list[str]:
        """All that may be in Milvus."""
        return [*self.left, *([self.current.name] if self.current else [])]


def new_copy(kind: str) -> Copy:
    """A copy that is still to be made."""
    return Copy(f"vitascope_{uuid.uuid4().hex}", kind)


def read_copies(connection: sqlite3.Connection) -> Copies:
    """The copies of the catalogue. Raises StorageError for a row that cannot be read."""
    return copies_in(dict(connection.execute("SELECT key, value FROM meta WHERE key = ?", (COPIES_KEY,))))


def copies_in(meta: Mapping[str, str]) -> Copies:
    """As ``read_copies``, of the catalogue's table meta."""
    if COPIES_KEY not in meta:
        return Copies(None, ())
    try:
        stated = json.loads(meta[COPIES_KEY])
        current = stated["current"] and Copy(**stated["current"])
        if current and current.kind not in (FLAT, HNSW):
            raise ValueError(f"kind {current.kind!r}")
        return Copies(current, tuple(stated["left"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"table meta: {COPIES_KEY}: {error!r}; the copies in Milvus were expected") from error


def write_copies(connection: sqlite3.Connection, copies: Copies) -> None:
    """Keep the copies, in an open write transaction."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (COPIES_KEY, json.dumps(asdict(copies))))


def forget_copies(connection: sqlite3.Connection) -> None:
    """Let the catalogue have none, in an open write transaction: those that it knows of are another one's."""
    connection.execute("DELETE FROM meta WHERE key = ?", (COPIES_KEY,))
