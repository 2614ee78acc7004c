"""Jobs over small folders, single files added to a collection, and file lists and shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from index.clips.rules import Segmentation
from index.collection import Collection
from index.jobs import pipeline, runner
from index.jobs.ingest import IngestResult, embed_file, hash_file, prepare_file, store_video
from index.jobs.jobs import create_job, create_upload_job, list_items
from index.jobs.pipeline import PipelineConfig
from index.jobs.records import Job, JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.fetcher import FetchInterrupted
from index.jobs.sources.source_types import FolderSource, ShardsSource
from index.records import Scalar, Video
from index.storage import job_transitions
from tests.media_files import solid, write_picture
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model

SEQUENTIAL = PipelineConfig(in_flight=1, decoders=1)
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
        job_transitions.claim(connection, job.id, "expired owner")
        connection.execute("UPDATE jobs SET lease_until = 0 WHERE id = ?", (job.id,))


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
        hashed,
        title=title,
        metadata=metadata,
        segmentation=rule,
        limits=limits,
        decoder=model.decoder,
        signals=collection.signals,
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


ENDINGS = ("csv", "tsv", "jsonl", "parquet")


def write_list(folder: Path, ending: str, columns: dict[str, list[Any]]) -> Path:
    """Write a list of these columns; Parquet is dictionary-encoded and compressed, as hostile lists are."""
    file = folder / f"list.{ending}"
    if ending == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({name: pa.array(cells).dictionary_encode() for name, cells in columns.items()})
        parquet.write_table(table, file, compression="zstd")
        return file
    rows = list(zip(*columns.values(), strict=True))
    if ending == "jsonl":
        file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
        return file
    delimiter = "," if ending == "csv" else "\t"
    file.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in (list(columns), *rows)))
    return file


def paths(count: int) -> list[str]:
    return [f"{number}.mp4" for number in range(count)]


def write_shard(file: Path, members: dict[str, bytes]) -> ShardsSource:
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return ShardsSource((str(file),))


@dataclass
class SteppedDecoding:
    """Decoding of videos: each batch waits for ``allowed``; waiting batches end when ``interrupted`` is set."""

    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    interrupted: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        while not self.allowed.acquire(timeout=0.01):
            if self.interrupted.is_set():
                raise FetchInterrupted


def step_decoding(monkeypatch: pytest.MonkeyPatch) -> SteppedDecoding:
    """Decode batches of videos only when allowed, and report all progress at once."""
    decoding = SteppedDecoding()
    decode = pipeline.decode_clips

    def decode_when_allowed(model: Model, prepared: Any, clips: Any, *rest: Any, **options: Any) -> Any:
        if prepared.description.path.suffix == ".mp4":
            decoding.wait()
        return decode(model, prepared, clips, *rest, **options)

    monkeypatch.setattr(pipeline, "decode_clips", decode_when_allowed)
    monkeypatch.setattr(runner, "_PROGRESS_SECONDS", 0.0)
    return decoding
