"""Jobs over folders of small pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.jobs import create_job, list_items
from index.jobs.pipeline import PipelineConfig
from index.jobs.records import Job, JobOptions
from index.jobs.sources.source_types import FolderSource
from index.records import Scalar
from index.storage import job_transitions
from tests.media_files import solid, write_picture

ONE = PipelineConfig(in_flight=1, decoders=1)
"""One file after the other."""


def create_folder_job(
    collection: Collection,
    folder: str | os.PathLike[str],
    *,
    recursive: bool = True,
    segmentation: Segmentation | None = None,
    metadata: Mapping[str, Scalar] | None = None,
) -> Job:
    """``create_job`` for the files of a folder."""
    options = JobOptions(segmentation or Segmentation(), metadata or {})
    return create_job(collection, FolderSource(str(folder), recursive), options)


def make_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        write_picture(folder / f"{number:03}.png", solid((number % 250, number // 250, 200), 16, 16))
    return folder


def outcomes(collection: Collection, job_id: int) -> dict[str, tuple[str, str | None]]:
    return {Path(i.path).name: (i.state, i.reason) for i in list_items(collection, job_id)}


def abandon(collection: Collection, job: Job) -> None:
    """Claim the job for an owner whose lease has expired."""
    with collection.catalogue.write() as connection:
        job_transitions.claim(connection, job.id, "nobody")
        connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (job.id,))
