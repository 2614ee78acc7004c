"""What happens with a file that came in: probed, kept, indexed; or looked at once and forgotten."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from index.jobs.ingest import Ingested, ingest_file
from service.asking import Turn
from service.forms import Upload
from service.schemas.library import UploadFields
from service.schemas.segmentation import asked_segmentation
from service.state import Service
from vitascope.errors import MediaError, StorageError


def add_upload(service: Service, mine: Turn, name: str, upload: Upload, fields: UploadFields) -> Ingested:
    """Keep an uploaded file and index it by the model of the collection, or find the video of the same content.

    Raises CollectionNotFound, FingerprintMismatch, NotReady, InvalidInput, media errors, EngineError and StorageError;
    nothing is left behind then.
    """
    collection, model = mine.collection(name)
    limits = service.settings.media_limits()
    segmentation = asked_segmentation(fields.segmentation)
    title = Path(upload.name).stem if fields.title is None else fields.title
    with service.media.turn(name, upload.sha256), called(upload.path, upload.name):
        known = collection.find_by_hash(upload.sha256)
        if known is not None:
            place = Path(known.path)
            if service.media.owns(place) and not place.exists():
                _move(upload.path, place)  # somebody removed the file of the video; here it is again
            return Ingested(known, created=False)
        info = model.decoder.probe(upload.path, limits)
        path = service.media.path_of(name, upload.sha256, info.container)
        with service.media.intent(service.library, name, path, upload.sha256), called(path, upload.name):
            _move(upload.path, path)
            added = ingest_file(
                collection,
                model,
                path,
                title=title,
                metadata=fields.metadata,
                segmentation=segmentation,
                limits=limits,
            )
            return replace(added, notes=tuple(note.replace(path.name, upload.name) for note in added.notes))


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Media errors about ``path`` speak of ``name``, which is what the client knows the file by."""
    try:
        yield
    except MediaError as error:
        raise type(error)(str(error).replace(str(path), name).replace(path.name, name)) from error


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        _sync(target)
        _sync(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: cannot be kept: {error}") from error


def _sync(path: Path) -> None:
    """The catalogue will promise this file: it must survive what the catalogue survives."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
