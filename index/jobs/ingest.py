"""Stages that add one media file to a collection: prepare (hash, probe, segment), decode, embed, store."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.clips.rules import Segmentation
from index.clips.segmentation import Segments, segment_file
from index.collection import Collection
from index.jobs.records import JobItem, JobOptions
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.fetcher import Fetcher, file_name
from index.records import Float32, NewClip, NewVideo, Scalar, Signal, Video, check_metadata, check_text
from index.storage.queries import find_videos_at
from index.video_text import VideoText, speech_segments
from vitascope.errors import MediaError, MediaUnsupported
from vitascope.media.decode import DECODING_THREADS, MediaInfo
from vitascope.media.file import MediaFile, MediaSource, map_os_errors, open_source
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model
from vitascope.sandbox.decoder import IN_PROCESS, Decoder

_log = logging.getLogger(__name__)

DECODE_BATCH_CLIPS = 8
"""Clips whose frames are in memory at the same time; more would take memory and not be faster on a CPU."""

FileStat = tuple[int, int, int, int]
"""Device, inode, size and modification time: they change when a file is changed or replaced."""


class ClipSpec(NamedTuple):
    """A clip to be decoded: start and end in seconds, and the text spoken in it."""

    start: float
    end: float
    text: str


class ClipSound(NamedTuple):
    """Embedding (D,) of the sound of a clip, and its audio tokens (T, A) if the model fuses sound."""

    embedding: Float32
    tokens: NDArray[np.float16] | None


class DecodedClips(NamedTuple):
    """Frames of C clips by stream, (C, 1, F, H, W, 3) uint8 each, and a JPEG thumbnail and the sound of each clip.

    ``frames``: empty for a file without pictures. ``sounds``: None for a clip without sound.
    """

    frames: Mapping[str, NDArray[np.uint8]]
    thumbnails: list[bytes | None]
    sounds: list[ClipSound | None]


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The result of ingesting a file: its video.

    Attributes:
        created: whether the video was added now; False if it existed.
        notes: notes on its segmentation, such as unreadable subtitles.
        changes: for a video that existed: descriptions of the refreshed fields.
    """

    video: Video
    created: bool
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileDescription:
    """A file's properties and clips, before it is decoded."""

    path: Path
    content_sha256: str
    info: MediaInfo
    segments: Segments
    title: str
    metadata: dict[str, Scalar]
    source_uri: str | None = None
    signals: tuple[Signal, ...] = ("visual",)
    """Signals that are embedded."""
    transcription: VideoText = field(default_factory=VideoText)
    """The transcript by which the file is segmented, if any, with the record of its recognition."""
    file_size: int | None = None
    """Bytes."""

    @property
    def duration(self) -> float:
        """Duration in seconds; 0 for an image."""
        return 0.0 if self.info.kind == "picture" else self.info.duration

    def clip_batches(self) -> Iterator[list[ClipSpec]]:
        """Yield the clips, at most ``DECODE_BATCH_CLIPS`` at a time."""
        clips = [ClipSpec(*span, text) for span, text in zip(self.segments.spans, self.segments.texts, strict=True)]
        for first in range(0, len(clips), DECODE_BATCH_CLIPS):
            yield clips[first : first + DECODE_BATCH_CLIPS]


@dataclass(frozen=True, slots=True)
class HashedFile:
    """An open file and the SHA-256 of its content."""

    media: MediaFile
    stat: FileStat
    content_sha256: str


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A segmented file that is ready to be decoded; it stays open until its clips are stored."""

    media: MediaFile
    stat: FileStat
    description: FileDescription


def embedded_signals(info: MediaInfo, name: str, collection_signals: Sequence[Signal]) -> tuple[Signal, ...]:
    """Return the signals of a collection for which a file has content.

    Raises MediaUnsupported, with the file's ``name``, if there are none.
    """
    if "audio" not in collection_signals:
        info.require_pictures(name)
    if "visual" not in collection_signals and info.audio is None:
        raise MediaUnsupported(f"{name}: no sound; a file with sound was expected, as the collection has sounds alone")
    has_signal = {"visual": info.kind != "audio", "audio": info.audio is not None}
    return tuple(signal for signal in collection_signals if has_signal[signal])


def hash_file(source: MediaSource, limits: MediaLimits) -> HashedFile:
    """Open and hash a file. If ``source`` is an open file, the result owns it; it is closed on an error.

    Raises InvalidInput and media errors.
    """
    media = source if isinstance(source, MediaFile) else MediaFile.open(Path(source))
    with ExitStack() as close_on_error:
        close_on_error.enter_context(media)
        check_text("path", str(media.path))
        stat = file_stat(media.status())
        hashed = HashedFile(media, stat, content_sha256(media, limits))
        close_on_error.pop_all()
        return hashed


def prepare_file(
    hashed: HashedFile,
    *,
    title: str | None,
    metadata: Mapping[str, Scalar] | None,
    segmentation: Segmentation,
    limits: MediaLimits,
    decoder: Decoder = IN_PROCESS,
    policy: AccessPolicy | None = UNRESTRICTED,
    source_uri: str | None = None,
    signals: Sequence[Signal] = ("visual",),
) -> PreparedFile:
    """Probe and segment a file, which is closed on an error.

    Args:
        hashed: the open file and its hash.
        title: title of the video; None: the file's name without its suffix.
        metadata: metadata of the video.
        segmentation: the rule by which the file is cut into clips.
        limits: limits of decoding.
        decoder: probes the file, finds shots and reads subtitle streams.
        policy: which subtitle files beside the file may be read; None: they are not looked for.
        source_uri: URL or archive member from which the file was copied.
        signals: signals of the collection.

    Raises:
        InvalidInput and media errors.
    """
    media = hashed.media
    with ExitStack() as close_on_error:
        close_on_error.enter_context(media)
        checked_metadata = check_metadata(metadata or {})
        info = decoder.probe(media, limits)
        own_signals = embedded_signals(info, media.name, signals)
        duration = 0.0 if info.kind == "picture" else info.duration
        if "visual" not in own_signals and segmentation.rule in ("auto", "shots"):
            segmentation = segmentation.with_rule("windows")  # sound has no shots
        segments = segment_file(media, duration, segmentation, limits, decoder, policy)
        description = FileDescription(
            media.path,
            hashed.content_sha256,
            info,
            segments,
            media.path.stem if title is None else title,
            checked_metadata,
            source_uri,
            own_signals,
            file_size=media.status().st_size,
        )
        close_on_error.pop_all()
        return PreparedFile(media, hashed.stat, description)


def prepare_item(
    hashed: HashedFile,
    item: JobItem,
    options: JobOptions,
    fetcher: Fetcher,
    limits: MediaLimits,
    decoder: Decoder,
    signals: Sequence[Signal],
) -> PreparedFile:
    """Probe and segment an item's file, for a collection with these signals.

    Subtitle files are looked for only beside files that are read in place.

    Raises InvalidInput and media errors.
    """
    return prepare_file(
        hashed,
        title=item.title or PurePosixPath(file_name(item.path)).stem,
        metadata={**options.metadata, **item.metadata},
        segmentation=options.segmentation,
        limits=limits,
        decoder=decoder,
        policy=fetcher.policy if fetcher.is_external(item.path) else None,
        source_uri=fetcher.source_uri(item.path),
        signals=signals,
    )


def decode_clips(
    model: Model,
    prepared: PreparedFile,
    clips: Sequence[ClipSpec],
    limits: MediaLimits,
    *,
    threads: int = DECODING_THREADS,
) -> DecodedClips:
    """Decode the frames and thumbnails of C clips; decode and embed their sound, part by part.

    If the sound of a file with pictures cannot be decoded, the sound is left out.

    Raises media errors, TaskMissing, BundleError, EngineError.
    """
    signals = prepared.description.signals
    spans = [(clip.start, clip.end) for clip in clips]
    frames: dict[str, NDArray[np.uint8]] = {}
    thumbnails: list[bytes | None] = [None] * len(clips)
    sounds: list[ClipSound | None] = [None] * len(clips)
    if "visual" in signals:
        sampled = model.decoder.sample(prepared.media, model.streams, spans, limits, threads=threads, thumbnails=True)
        frames, thumbnails = {name: array[:, None] for name, array in sampled.frames.items()}, sampled.thumbnails
    if "audio" in signals:
        try:
            embedded, positions = model.embed_audio_file(prepared.media, spans, limits)
        except MediaError as error:
            if "visual" not in signals:
                raise
            _log.warning("%s: its sound is left out: %s", prepared.media.name, error)
        else:
            tokens = embedded.tokens if model.fuses_audio else None
            for row, position in enumerate(positions.tolist()):
                own = None if tokens is None else tokens[row].astype(np.float16)
                sounds[position] = ClipSound(embedded.vectors[row], own)
    return DecodedClips(frames, thumbnails, sounds)


def embed_clips(model: Model, clips: Sequence[ClipSpec], decoded: DecodedClips) -> list[NewClip]:
    """Embed decoded clips; return them with embeddings and tokens. Raises TaskMissing, BundleError, EngineError."""
    vectors: Sequence[Float32 | None] = [None] * len(clips)
    tokens: Sequence[NDArray[np.float16] | None] = [None] * len(clips)
    if decoded.frames:
        embedded = model.embed_video(decoded.frames)
        vectors, tokens = list(embedded.vectors), list(embedded.visual_tokens.astype("float16"))
    rows = zip(clips, vectors, tokens, decoded.thumbnails, decoded.sounds, strict=True)
    return [
        NewClip(clip.start, clip.end, vector, visual_tokens, clip.text, thumbnail, *(sound or (None, None)))
        for clip, vector, visual_tokens, thumbnail, sound in rows
    ]


def embed_file(
    model: Model, prepared: PreparedFile, limits: MediaLimits, *, threads: int = DECODING_THREADS
) -> list[NewClip]:
    """Decode and embed all clips of a file, batch by batch, and close it.

    Raises media errors (also if the file has changed meanwhile), TaskMissing, BundleError, EngineError.
    """
    clips: list[NewClip] = []
    with prepared.media:
        for batch in prepared.description.clip_batches():
            clips += embed_clips(model, batch, decode_clips(model, prepared, batch, limits, threads=threads))
        check_unchanged(prepared)
    return clips


def check_unchanged(prepared: PreparedFile) -> None:
    """Raise MediaError if the open file has changed since it was hashed, or its path now leads to another file."""
    media = prepared.media
    try:
        stats = {prepared.stat, file_stat(media.status()), file_stat(media.path.stat())}
    except OSError:
        stats = set()
    if len(stats) != 1:
        raise MediaError(f"{media.name}: changed while it was being read; an unchanging file was expected")


def store_video(collection: Collection, description: FileDescription, clips: list[NewClip]) -> IngestResult:
    """Add a video with its clips durably, unless the collection has a video with the same content.

    Raises InvalidInput, StorageError, CollectionNotFound, and MediaError for a sound file that is silent throughout.
    """
    if "visual" not in description.signals and all(clip.audio_embedding is None for clip in clips):
        raise MediaError(f"{description.path.name}: silent from start to end; sound was expected")
    video = NewVideo(
        content_sha256=description.content_sha256,
        path=collection.media.path_of(description.path),
        title=description.title,
        duration=description.duration,
        width=description.info.width,
        height=description.info.height,
        metadata=description.metadata,
        source_uri=description.source_uri,
        file_size=description.file_size,
    )
    text = replace(description.transcription, subtitles=speech_segments(description.segments.cues))
    added, created = collection.add_if_new(video, clips, text)
    with collection.catalogue.read() as connection:
        at_path = find_videos_at(connection, added.path)
    replaced = [f"replaced the file of video {id_}" for id_ in at_path if created and id_ != added.id]
    return IngestResult(added, created, (*description.segments.notes, *replaced))


def content_sha256(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> str:
    """Return the SHA-256 (hex) of a regular file's bytes. Raises MediaError and MediaTooLarge."""
    with open_source(source) as file, map_os_errors(file.path):
        limits.check_bytes(file.name, file.status().st_size)
        return hashlib.file_digest(file.reader(), "sha256").hexdigest()


def file_stat(status: os.stat_result) -> FileStat:
    """Return the fields of a file's status that change when the file does."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
