"""What a run of a job hands over, and to whom: the files of one run may be decoded here or on other machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Protocol, TypeVar

from index.collection import Collection
from index.jobs.ingest import Ingested, OpenedFile, open_unless_known, store
from index.jobs.item_result import file_name
from index.jobs.pipeline import Finished, Pace, Pipeline
from index.jobs.records import Job, JobItem, JobOptions
from index.jobs.sources.access_policy import Reach
from index.jobs.sources.fetcher import Fetcher
from index.jobs.stage_timer import StageClock
from index.records import NewClip, Video
from vitascope.media.limits import MediaLimits
from vitascope.model import Model
from vitascope.sandbox.decoder import Decoder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """All that concerns one run of a job."""

    collection: Collection
    model: Model
    job: Job
    fetcher: Fetcher
    reach: Reach
    limits: MediaLimits
    pace: Pace
    clock: StageClock


class Executor(Protocol):
    """Files on their way into the collection, from the start of the block to its end. One thread uses it."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def begin(self, item: JobItem) -> None:
        """Send an item on its way. Never waits: who begins items sees to it that they are not too many."""

    def finished(self, timeout: float) -> list[Finished[JobItem]]:
        """What is finished, and stored if it is a video; waits up to ``timeout`` seconds for the first."""

    def shares(self) -> list[tuple[JobItem, float]]:
        """How much of items at hand is done, 0 to 1, as far as that is known here."""

    def abandon(self) -> list[Finished[JobItem]]:
        """Stop as soon as possible; what was finished until then."""


class Workplace(Protocol):
    """Where files are decoded and embedded. ``decodes_here``: in this process, which a file may kill; the
    executor of another place says which file it was by ``WorkerDied``.
    """

    @property
    def decodes_here(self) -> bool: ...

    def executor(self, work: Work) -> Executor: ...


class WorkerDied(Exception):
    """The process that was at an item is gone, and the item may be why."""


class ThisProcess:
    """Decodes and embeds in threads of this process."""

    decodes_here = True

    def executor(self, work: Work) -> Executor:
        def opened(item: JobItem) -> OpenedFile | Ingested:
            find = work.collection.find_by_hash
            found = open_item(item, work.job.options, work.fetcher, work.limits, find, work.model.decoder)
            return Ingested(found, created=False) if isinstance(found, Video) else found

        def stored(item: JobItem, file: OpenedFile, clips: list[NewClip]) -> Ingested:
            return store(work.collection, file, clips)

        return Pipeline(work.model, opened, stored, work.limits, work.pace, work.clock)


def open_item(
    item: JobItem,
    options: JobOptions,
    fetcher: Fetcher,
    limits: MediaLimits,
    find: Callable[[str], T | None],
    decoder: Decoder,
) -> OpenedFile | T:
    """Fetch, hash, probe, cut; or what ``find`` knows of the content's SHA-256.

    Beside a copy lies nothing that belongs to it. Raises InvalidInput, media errors, StorageError, Interrupted.
    """
    return open_unless_known(
        fetcher.fetch(item.path, item.position),
        find,
        title=item.title or PurePosixPath(file_name(item.path)).stem,
        metadata={**options.metadata, **item.metadata},
        segmentation=options.segmentation,
        limits=limits,
        decoder=decoder,
        reach=fetcher.reach if fetcher.is_external(item.path) else None,
    )
