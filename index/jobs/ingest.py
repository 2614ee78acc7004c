"""One media file into a collection: hash, probe, cut into clips, decode, embed, add.

``ingest_file`` does the stages one after the other; a job's pipeline has several files in them at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.clips.cutting import Cut, cut_into_clips
from index.clips.segment import Segmentation
from index.collection import Collection
from index.records import NewClip, NewVideo, Scalar, Video, check_metadata, check_text
from vitascope.decoding.decoder import IN_PROCESS, Decoder
from vitascope.errors import MediaError, MediaTooLarge
from vitascope.media.decode import DECODING_THREADS
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import MediaInfo
from vitascope.model import Model

CLIPS_AT_ONCE = 8
"""Clips whose frames are in memory together; more bring no speed on a CPU and cost memory."""
_BLOCK = 1024 * 1024

Frames = Mapping[str, NDArray[np.uint8]]
T = TypeVar("T")
FileState = tuple[int, int, int] | None
"""What changes when a file does; None for one that is not there."""


class Planned(NamedTuple):
    """A clip that is about to be decoded: start and end in seconds, and what is said in it."""

    start: float
    end: float
    text: str


class Decoded(NamedTuple):
    """C clips: name of the stream -> (C, 1, F, H, W, 3) uint8, and a JPEG of each."""

    frames: Frames
    thumbnails: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Ingested:
    """The video of the file, whether it was added now or had been there before, and remarks on how it was cut
    into clips (subtitles that could not be read, for one).
    """

    video: Video
    created: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that is about to be decoded: all that is known of it before, and how it is cut into clips."""

    file: Path
    state: FileState
    content_sha256: str
    info: MediaInfo
    cut: Cut
    title: str
    metadata: dict[str, Scalar]


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
) -> Ingested:
    """Add the file at ``path``; a file whose content is there already is not decoded again.

    ``title`` is the file's name without its ending by default. ``move_to``: where the file is moved to when its video
    is added, a path as the catalogue names files that the collection owns. Memory does not grow with the length, apart
    from the vectors and tokens themselves. Raises FingerprintMismatch, InvalidInput, media errors, TaskMissing,
    EngineError, StorageError; nothing has been added then.
    """
    collection.require(model.bundle.fingerprint)
    opened = open_file(
        collection,
        path,
        title=title,
        metadata=metadata,
        segmentation=segmentation or Segmentation(),
        limits=limits,
        decoder=model.decoder,
    )
    if isinstance(opened, Ingested):
        return opened
    clips: list[NewClip] = []
    for batch in clip_batches(opened):
        clips += embed_clips(model, batch, decode_clips(model, opened, batch, limits))
    return store(collection, opened, clips, move_to)


def open_file(
    collection: Collection,
    path: str | os.PathLike[str],
    *,
    title: str | None,
    metadata: Mapping[str, Scalar] | None,
    segmentation: Segmentation,
    limits: MediaLimits,
    decoder: Decoder = IN_PROCESS,
) -> OpenedFile | Ingested:
    """First stage: hash, probe, cut; or the video that has the content already.

    Raises InvalidInput, media errors and StorageError.
    """
    opened = open_unless_known(
        path,
        collection.find_by_hash,
        title=title,
        metadata=metadata,
        segmentation=segmentation,
        limits=limits,
        decoder=decoder,
    )
    return Ingested(opened, created=False) if isinstance(opened, Video) else opened


def open_unless_known(
    path: str | os.PathLike[str],
    find: Callable[[str], T | None],
    *,
    title: str | None,
    metadata: Mapping[str, Scalar] | None,
    segmentation: Segmentation,
    limits: MediaLimits,
    decoder: Decoder = IN_PROCESS,
) -> OpenedFile | T:
    """Hash, probe, cut; or what ``find`` knows of the content's SHA-256. Raises InvalidInput and media errors."""
    file = Path(path)
    check_text("path", str(file))
    checked = check_metadata(metadata or {})
    before = file_state(file)
    digest = content_sha256(file, limits)
    known = find(digest)
    if known is not None:
        return known
    info = decoder.probe(file, limits)
    return OpenedFile(
        file=file,
        state=before,
        content_sha256=digest,
        info=info,
        cut=cut_into_clips(file, _duration(info), segmentation, limits, decoder),
        title=file.stem if title is None else title,
        metadata=checked,
    )


def clip_batches(opened: OpenedFile) -> Iterator[list[Planned]]:
    """The clips of a file, at most ``CLIPS_AT_ONCE`` together."""
    planned = [Planned(*span, text) for span, text in zip(opened.cut.spans, opened.cut.texts, strict=True)]
    for first in range(0, len(planned), CLIPS_AT_ONCE):
        yield planned[first : first + CLIPS_AT_ONCE]


def decode_clips(
    model: Model, opened: OpenedFile, clips: Sequence[Planned], limits: MediaLimits, *, threads: int = DECODING_THREADS
) -> Decoded:
    """Second stage: the frames and pictures of C clips. Raises media errors."""
    spans = [(clip.start, clip.end) for clip in clips]
    sampled = model.decoder.sample(opened.file, model.streams, spans, limits, threads=threads, thumbnails=True)
    return Decoded({name: array[:, None] for name, array in sampled.frames.items()}, sampled.thumbnails)


def embed_clips(model: Model, clips: Sequence[Planned], decoded: Decoded) -> list[NewClip]:
    """Third stage: the clips with vectors and tokens. Raises TaskMissing, BundleError, EngineError."""
    embedded = model.embed_video(decoded.frames)
    tokens = embedded.visual_tokens.astype("float16")
    return [
        NewClip(clip.start, clip.end, embedded.vectors[i], tokens[i], clip.text, decoded.thumbnails[i])
        for i, clip in enumerate(clips)
    ]


def store(collection: Collection, opened: OpenedFile, clips: list[NewClip], move_to: str | None = None) -> Ingested:
    """Last stage: the video durable and searchable. Raises MediaError when the file has changed meanwhile,
    InvalidInput, StorageError, CollectionNotFound.
    """
    check_unchanged(opened)
    return add(collection, opened, clips, move_to)


def add(collection: Collection, opened: OpenedFile, clips: list[NewClip], move_to: str | None = None) -> Ingested:
    """``store`` for a file that was checked where it was read, which may be another machine."""
    video = NewVideo(
        content_sha256=opened.content_sha256,
        path=collection.media.path_of(opened.file) if move_to is None else move_to,
        title=opened.title,
        duration=_duration(opened.info),
        width=opened.info.width,
        height=opened.info.height,
        metadata=opened.metadata,
    )
    file = None if move_to is None else opened.file
    return Ingested(*collection.add_if_new(video, clips, file), opened.cut.notes)


def check_unchanged(opened: OpenedFile) -> None:
    """Raise MediaError where the file has changed since it was opened: what was read of it may be of two states."""
    if file_state(opened.file) != opened.state:
        raise MediaError(f"{opened.file.name}: changed while it was being read; an unchanging file was expected")


def _duration(info: MediaInfo) -> float:
    """Seconds; 0 of a picture."""
    return 0.0 if info.kind == "picture" else info.duration


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


def file_state(file: Path) -> FileState:
    """What changes when the file does; None for a file that is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
