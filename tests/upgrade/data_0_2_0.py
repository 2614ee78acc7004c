"""A data folder of version 0.2.0 at a place of the test's own, as it was before any other version opened it."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

PLACE = "/srv/vitascope-0.2.0"
ARCHIVE = Path(__file__).with_name("data_0_2_0.tar.xz")
RED = "b94fac08dea5d10843c118de9d53bb051a538c112943a6da980e56efc3b8d1fc"
"""SHA-256 of the upload that `videos` and `another` have; `again` was restored from a backup of `videos`."""


def unpacked(place: Path, former: Path | None = None) -> Path:
    """The data folder in ``place``, with ``place / "films"`` beside it.

    ``former``: where it was while it was written; ``place`` by default.
    """
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    settle_at(place / "data", str(former or place))
    return place / "data"


def paths(data: Path, name: str) -> list[str]:
    """The paths of a collection's videos, as the catalogue says."""
    with closing(sqlite3.connect(data / "collections" / name / "catalogue.sqlite3")) as connection:
        return [path for (path,) in connection.execute("SELECT path FROM videos ORDER BY id")]


def settle_at(data: Path, place: str, former: str = PLACE) -> None:
    """Let every path in the folder that begins with ``former`` begin with ``place``; leave what is derived out."""
    for catalogue in data.glob("collections/*/catalogue.sqlite3"):
        with closing(sqlite3.connect(catalogue, isolation_level=None)) as connection:
            for table, column in (
                ("videos", "path"),
                ("jobs", "source"),
                ("job_items", "path"),
                ("job_items", "reason"),
                ("job_states", "job"),
            ):
                connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (former, place))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
        for entry in catalogue.parent.iterdir():
            if entry.is_file() and entry != catalogue:
                entry.unlink()
    for note in data.glob("intents/*.json"):
        note.write_text(note.read_text().replace(former, place))
