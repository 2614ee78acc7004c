"""The settings of a watch, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from index.jobs.records import JobItem, JobOptions
from index.jobs.sources.source_types import FolderSource
from index.jobs.watch_losses import MAX_DELETE

Say = Callable[[dict[str, Any]], None]
"""Receives events: ``event``, ``path``, and where they apply ``video`` (its id) and ``reason``."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A folder to follow, and how.

    Attributes:
        source: the folder.
        options: of the jobs.
        interval: seconds between two looks.
        settle: seconds for which a file must stay the same, or be lost.
        delete: whether videos whose file is gone or replaced are deleted from the collection.
        max_delete: the share of the folder's videos that may be deleted at once, 0 to 1.
    """

    source: FolderSource
    options: JobOptions
    interval: float = 5.0
    settle: float = 5.0
    delete: bool = False
    max_delete: float = MAX_DELETE


@dataclass
class Totals:
    """What happened while a folder was watched.

    Attributes:
        notes: remarks on files that were added, at most as many as a job's.
        held: videos that stay now although their file is lost.
        held_reason: why, where they are too many.
        away: folders that cannot be looked at now, with the reason.
    """

    added: int = 0
    skipped: int = 0
    failures: list[JobItem] = field(default_factory=list)
    notes: list[JobItem] = field(default_factory=list)
    gone: int = 0
    removed: int = 0
    held: int = 0
    held_reason: str | None = None
    away: dict[str, str] = field(default_factory=dict)
