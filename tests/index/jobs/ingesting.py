"""One file added to a collection without a job, for tests of other things."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.ingest import IngestResult, embed_file, hash_file, prepare_file, store_video
from index.records import Scalar
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
    move_to: str | None = None,
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
    return store_video(collection, prepared.description, embed_file(model, prepared, limits), move_to)
