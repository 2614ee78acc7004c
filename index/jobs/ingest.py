"""One media file into a collection: hash, probe, cut into clips, decode, embed, add.

``ingest_file`` does the stages one after the other; a job's pipeline has several files in them at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.clips.clip_planning import Cut, cut_into_clips
from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs.sources.access_policy import EVERYWHERE, Reach
from index.records import NewClip, NewVideo, Scalar, Video, check_metadata, check_text
from vitascope.errors import MediaError, MediaTooLarge
from vitascope.media.decode import DECODING_THREADS
from vitascope.media.file import MediaFile, MediaSource, held_open, media_errors
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import MediaInfo
from vitascope.model import Model
from vitascope.sandbox.decoder import IN_PROCESS, Decoder

CLIPS_AT_ONCE = 8
"""Clips whose frames are in memory together; more bring no speed on a CPU and cost memory."""

Frames = Mapping[str, NDArray[np.uint8]]
T = TypeVar("T")
FileState = tuple[int, int, int, int]
"""What changes when a file does, or when another one takes its place."""


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
class FileDescription:
    """All that is known of a file before it is decoded, and how it is cut into clips."""

    path: Path
    content_sha256: str
    info: MediaInfo
    cut: Cut
    title: str
    metadata: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that is about to be decoded: the one that was hashed, open until its clips are stored."""

    media: MediaFile
    state: FileState
    description: FileDescription


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
    collection.require_fingerprint(model.bundle.fingerprint)
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
    with opened.media:
        clips: list[NewClip] = []
        for batch in clip_batches(opened.description):
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
    source: MediaSource,
    find: Callable[[str], T | None],
    *,
    title: str | None,
    metadata: Mapping[str, Scalar] | None,
    segmentation: Segmentation,
    limits: MediaLimits,
    decoder: Decoder = IN_PROCESS,
    reach: Reach | None = EVERYWHERE,
) -> OpenedFile | T:
    """Hash, probe, cut; or what ``find`` knows of the content's SHA-256.

    ``source``: one that is open is taken over, and closed unless it is in the result. ``reach``: what may be read of
    the subtitles beside the file; None: they are not looked for. Raises InvalidInput and media errors.
    """
    with ExitStack() as unless_returned:
        path = source.path if isinstance(source, MediaFile) else Path(source)
        if isinstance(source, MediaFile):
            unless_returned.enter_context(source)
        check_text("path", str(path))
        checked = check_metadata(metadata or {})
        media = source if isinstance(source, MediaFile) else unless_returned.enter_context(MediaFile.open(path))
        before = file_state(media.status())
        digest = content_sha256(media, limits)
        known = find(digest)
        if known is not None:
            return known
        info = decoder.probe(media, limits)
        cut = cut_into_clips(media, _duration(info), segmentation, limits, decoder, reach)
        description = FileDescription(path, digest, info, cut, path.stem if title is None else title, checked)
        unless_returned.pop_all()
        return OpenedFile(media, before, description)


def clip_batches(description: FileDescription) -> Iterator[list[Planned]]:
    """The clips of a file, at most ``CLIPS_AT_ONCE`` together."""
    planned = [Planned(*span, text) for span, text in zip(description.cut.spans, description.cut.texts, strict=True)]
    for first in range(0, len(planned), CLIPS_AT_ONCE):
        yield planned[first : first + CLIPS_AT_ONCE]


def decode_clips(
    model: Model, opened: OpenedFile, clips: Sequence[Planned], limits: MediaLimits, *, threads: int = DECODING_THREADS
) -> Decoded:
    """Second stage: the frames and pictures of C clips. Raises media errors."""
    spans = [(clip.start, clip.end) for clip in clips]
    sampled = model.decoder.sample(opened.media, model.streams, spans, limits, threads=threads, thumbnails=True)
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
    return add(collection, opened.description, clips, move_to)


def add(
    collection: Collection, description: FileDescription, clips: list[NewClip], move_to: str | None = None
) -> Ingested:
    """``store`` for a file that was checked where it was read, which may be another machine."""
    video = NewVideo(
        content_sha256=description.content_sha256,
        path=collection.media.path_of(description.path) if move_to is None else move_to,
        title=description.title,
        duration=_duration(description.info),
        width=description.info.width,
        height=description.info.height,
        metadata=description.metadata,
    )
    file = None if move_to is None else description.path
    return Ingested(*collection.add_if_new(video, clips, file), description.cut.notes)


def check_unchanged(opened: OpenedFile) -> None:
    """Raise MediaError where the open file has changed, so that what was read of it may be of two states, or where its
    path leads to another one by now.
    """
    media = opened.media
    try:
        states = {opened.state, file_state(media.status()), file_state(media.path.stat())}
    except OSError:
        states = set()
    if len(states) != 1:
        raise MediaError(f"{media.name}: changed while it was being read; an unchanging file was expected")


def _duration(info: MediaInfo) -> float:
    """Seconds; 0 of a picture."""
    return 0.0 if info.kind == "picture" else info.duration


def content_sha256(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> str:
    """SHA-256 (hex) of a regular file's bytes. Raises MediaError and MediaTooLarge."""
    with held_open(source) as file, media_errors(file.path):
        size = file.status().st_size
        if size > limits.max_bytes:
            raise MediaTooLarge(f"{file.name}: {size} bytes; at most {limits.max_bytes} bytes are read")
        return hashlib.file_digest(file.reader(), "sha256").hexdigest()


def file_state(status: os.stat_result) -> FileState:
    """What changes of a file's status when the file does."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
