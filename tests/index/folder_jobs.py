"""Jobs over folders of small pictures: what tests of jobs share."""

from __future__ import annotations

from pathlib import Path

from index.collection import Collection
from index.jobs import state as job_state
from index.jobs.jobs import Job, Pace, items
from tests.media_files import solid, write_picture

ONE = Pace(in_flight=1, decoders=1)
"""One file after the other."""


def make_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        write_picture(folder / f"{number:03}.png", solid((number % 250, number // 250, 200), 16, 16))
    return folder


def outcomes(collection: Collection, job_id: int) -> dict[str, tuple[str, str | None]]:
    return {Path(i.path).name: (i.state, i.reason) for i in items(collection, job_id)}


def abandon(collection: Collection, made: Job) -> None:
    """As if the process that runs the job had been killed and its lease had run out."""
    with collection.catalogue.write() as connection:
        job_state.take(connection, made.id, "nobody")
        connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (made.id,))
