"""What happens with a file that came in to stay: probed, kept, and indexed at once or by a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from index.collection import Collection
from index.jobs.ingest import Ingested, ingest_file
from index.jobs.jobs import Job, JobOptions, create_upload_job
from index.records import Video
from index.storage.removals import MEDIA
from service.app_state import Service
from service.errors import DeadlineExceeded
from service.http.multipart import Upload
from service.inference.request_context import Turn
from service.media_store import EXTENSION_OF
from service.schemas.library import UploadFields
from service.schemas.segmentation import asked_segmentation
from vitascope.errors import MediaError


def add_upload(
    service: Service, mine: Turn, name: str, upload: Upload, fields: UploadFields, patience: float | None = None
) -> Ingested | Job:
    """Keep an uploaded file and index it by the model of the collection, or find the video of the same content.

    What takes more than ``patience`` seconds is broken off, and a job begins anew with it, which is what is returned
    then; of 0, it is left to the job altogether. None: the request's deadline ends it.

    Raises CollectionNotFound, FingerprintMismatch, NotReady, InvalidInput, media errors, EngineError, StorageError and
    DeadlineExceeded; nothing is left behind then.
    """
    collection, model = mine.collection(name)
    limits = service.settings.media_limits()
    segmentation = asked_segmentation(fields.segmentation)
    title = Path(upload.name).stem if fields.title is None else fields.title
    with called(upload.path, upload.name):
        if (known := _known(collection, upload)) is not None:
            return Ingested(known, created=False)
        # Before there is a job, too: what is no video is refused while somebody is there to hear it.
        info = model.decoder.probe(upload.path, limits)
        ending = EXTENSION_OF[info.container]
        options = JobOptions(segmentation, fields.metadata, confined=True)
        begin = partial(_begin, service, collection, ending=ending, name=upload.name, title=title, options=options)
        if patience == 0:
            return begin(upload.path)
        try:
            added = ingest_file(
                collection,
                model if patience is None else mine.within(patience).collection(name)[1],
                upload.path,
                title=title,
                metadata=fields.metadata,
                segmentation=segmentation,
                limits=limits,
                move_to=f"{MEDIA}/{upload.sha256}.{ending}",
            )
        except DeadlineExceeded:
            if patience is None:
                raise
            return begin(upload.path)
        return replace(added, notes=tuple(note.replace(upload.path.name, upload.name) for note in added.notes))


def _known(collection: Collection, upload: Upload) -> Video | None:
    """The video of the same content; where its file is missing, the upload takes its place."""
    known = collection.find_by_hash(upload.sha256)
    if known is None or not collection.owns(known) or collection.media_path(known).exists():
        return known
    return known if collection.media.put_back(upload.sha256, known.path, upload.path) else None


def _begin(
    service: Service, collection: Collection, file: Path, *, ending: str, name: str, title: str, options: JobOptions
) -> Job:
    job = create_upload_job(collection, file, ending, name=name, title=title, options=options)
    service.worker.submit(collection.name, job)
    return job


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Media errors about ``path`` speak of ``name``, which is what the client knows the file by."""
    try:
        yield
    except MediaError as error:
        raise type(error)(str(error).replace(str(path), name).replace(path.name, name)) from error
