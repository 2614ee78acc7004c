"""What became of the files of a job, as commands tell it: the same of one here and of one at a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from index.collection import Collection
    from vitascope.client import Client
    from vitascope.client.request_types import ItemState

Files = Callable[["ItemState"], Iterator[tuple[str, str | None]]]
"""All files in a state, in order: path, and why it is in that state or what was remarked."""


def files_here(collection: Collection, job_id: int) -> Files:
    """Those of a job in a data folder."""
    from index.jobs.jobs import iter_items

    return lambda state: ((item.path, item.reason) for item in iter_items(collection, job_id, state))


def files_there(client: Client, collection: str, job_id: str) -> Files:
    """Those of a job at a service."""
    return lambda state: (
        (item["path"], item["reason"]) for item in client.iter_job_items(collection, job_id, state=state)
    )


def failures(files: Files) -> list[dict[str, str | None]]:
    """Every file that failed or was put aside, with the reason."""
    found = [*files("failed"), *files("quarantined")]
    return [{"file": path, "reason": reason} for path, reason in found]


def notes(files: Files) -> list[dict[str, str]]:
    """What was remarked about files that were added, at most ``MAX_NOTES``."""
    from index.jobs.records import MAX_NOTES

    noted = ({"file": path, "note": reason} for path, reason in files("succeeded") if reason)
    return list(islice(noted, MAX_NOTES))
