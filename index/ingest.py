"""One media file into a collection: hash, probe, cut into clips, embed, add."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index.collection import Collection
from index.cutting import Cut, cut_into_clips
from index.records import NewClip, NewVideo, Scalar, Video, check_metadata, check_text
from index.segment import Segmentation
from index.thumbnails import thumbnails_into
from vitascope.errors import MediaError, MediaTooLarge
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import probe
from vitascope.model import Model

CLIPS_AT_ONCE = 8
"""Clips whose frames are in memory together; more bring no speed on a CPU and cost memory."""
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ingested:
    """The video of the file, whether it was added now or had been there before, and remarks on how it was cut
    into clips (subtitles that could not be read, for one).
    """

    video: Video
    created: bool
    notes: tuple[str, ...] = ()


def ingest_file(
    collection: Collection,
    model: Model,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    metadata: Mapping[str, Scalar] | None = None,
    segmentation: Segmentation | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Ingested:
    """Add the file at ``path``; a file whose content is there already is not decoded again.

    ``title`` is the file's name without its ending by default. Memory does not grow with the duration, apart
    from the vectors and tokens themselves. Raises FingerprintMismatch, InvalidInput, media errors,
    TaskMissing, EngineError, StorageError; nothing has been added then.
    """
    collection.require(model.bundle.fingerprint)
    file = Path(path)
    check_text("path", str(file))
    checked = check_metadata(metadata or {})
    before = _state(file)
    digest = content_sha256(file, limits)
    known = collection.find_by_hash(digest)
    if known is not None:
        return Ingested(known, created=False)
    info = probe(file, limits)
    duration = 0.0 if info.kind == "picture" else info.duration
    cut = cut_into_clips(file, duration, segmentation or Segmentation(), limits)
    clips = _embed(model, file, cut, limits)
    if _state(file) != before:
        raise MediaError(f"{file.name}: changed while it was being read; an unchanging file was expected")
    video = NewVideo(
        content_sha256=digest,
        path=str(file.absolute()),
        title=file.stem if title is None else title,
        duration=duration,
        width=info.width,
        height=info.height,
        metadata=checked,
    )
    return Ingested(*collection.add_if_new(video, clips), cut.notes)


def content_sha256(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> str:
    """SHA-256 (hex) of a regular file's bytes. Raises MediaError and MediaTooLarge."""
    try:
        if not path.is_file():  # a pipe or device would be read without end
            raise MediaError(f"{path.name}: no such file; a readable file was expected")
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise MediaTooLarge(f"{path.name}: {size} bytes; at most {limits.max_bytes} bytes are read")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise MediaError(f"{path.name}: cannot be read: {error.strerror or error}") from error


def _embed(model: Model, file: Path, cut: Cut, limits: MediaLimits) -> list[NewClip]:
    clips = []
    for first in range(0, len(cut.spans), CLIPS_AT_ONCE):
        batch = cut.spans[first : first + CLIPS_AT_ONCE]
        pictures: dict[int, bytes] = {}
        embedded = model.embed_file(file, batch, limits, thumbnails_into(pictures))
        tokens = embedded.visual_tokens.astype("float16")
        clips += [
            NewClip(*span, embedded.vectors[i], tokens[i], cut.texts[first + i], pictures.get(i))
            for i, span in enumerate(batch)
        ]
    return clips


def _state(file: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None for a file that is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
