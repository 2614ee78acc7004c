"""Single files added to a collection, for tests of other things."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.ingest import IngestResult, embed_file, hash_file, prepare_file, store_video
from index.jobs.jobs import create_upload_job, list_items
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.records import Scalar, Video
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model


def ingest_file(
    collection: Collection,
    model: Model,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    metadata: Mapping[str, Scalar] | None = None,
    segmentation: Segmentation | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> IngestResult:
    """Run all stages for a file. A file whose content is indexed already is not decoded again."""
    collection.require_fingerprint(model.bundle.fingerprint)
    hashed = hash_file(Path(path), limits)
    if (known := collection.find_by_hash(hashed.content_sha256)) is not None:
        hashed.media.close()
        return IngestResult(known, created=False)
    rule = segmentation or Segmentation()
    prepared = prepare_file(
        hashed, title=title, metadata=metadata, segmentation=rule, limits=limits, decoder=model.decoder
    )
    return store_video(collection, prepared.description, embed_file(model, prepared, limits))


def ingest_upload(collection: Collection, model: Model, file: Path, title: str = "") -> Video:
    """Add a file by the job of an upload, so that the collection owns it."""
    job = create_upload_job(
        collection, file, file.suffix[1:], name=file.name, title=title or file.stem, options=JobOptions()
    )
    assert run_job(collection, model, job.id).counts.succeeded == 1
    video_id = list_items(collection, job.id)[0].video_id
    assert video_id is not None
    return collection.get_video(video_id)
