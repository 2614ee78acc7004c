"""Re-embedding of a collection by another bundle, from the original files, while the old collection serves searches.

The new collection is built as NAME-next, with the same videos, clips, ids and texts. When it is complete, it replaces
the old collection in one write transaction of the latter, so that no video can be added or deleted in between. If the
process is killed before the replacement, the same call continues the work; if it is killed during the replacement, the
library completes the replacement when it is next opened.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from index.clips.segmentation import Segments
from index.collection import COPY_OF_KEY, Collection
from index.collection_store import CollectionStore
from index.jobs.ingest import (
    FileDescription,
    IngestResult,
    PreparedFile,
    check_unchanged,
    embedded_signals,
    hash_file,
)
from index.jobs.pipeline import Pipeline, PipelineConfig
from index.jobs.pipeline_stages import StageTimer
from index.jobs.recognition_settings import copy_recognition_meta
from index.recognitions import load_video_text
from index.records import NewClip, Video
from index.storage.edits import copy_edits
from index.storage.fulltext import read_stemming, set_stemming
from index.storage.queries import lacks_audio_tokens, last_change, read_meta, write_meta
from index.storage.transfer import copy_jobs, set_sequences, video_hashes
from index.vectors.faiss_kinds import INDEX_KIND_KEY, read_requested_kind
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import (
    CollectionExists,
    Conflict,
    FingerprintMismatch,
    InvalidInput,
    MediaError,
    StorageError,
    VideoNotFound,
)
from vitascope.media.file import map_os_errors
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model

PAGE = 500
"""Number of videos of the old collection that are loaded at a time."""
_POLL_SECONDS = 1.0
_MAX_PREFIX = 58
"""Maximum length of a collection name to which "-next" can be appended."""
_BEGAN_AT = "reembed_began_at"
"""Key in the table meta of the new collection: the old collection's last change when the new one was created."""
_COPY_OF_ID = "reembed_of_id"
"""Key in addition to ``COPY_OF_KEY``: id of the old collection, as a later collection may have the same name."""

OnVideo = Callable[[int, int, str], None]
"""Callback with the number of embedded videos, the number of all videos, and the title of the last one."""


@dataclass(frozen=True, slots=True)
class FailedVideo:
    """A video that cannot be embedded again, and why."""

    video: Video
    reason: str


@dataclass(frozen=True, slots=True)
class ReembedResult:
    """The result of ``reembed``.

    Attributes:
        replaced: whether the new collection has replaced the old one.
        embedded: number of videos that this call embedded.
        failed: videos that could not be embedded.
    """

    replaced: bool
    embedded: int
    failed: list[FailedVideo]


def reembed(
    library: CollectionStore,
    name: str,
    model: Model,
    *,
    skip_missing: bool = False,
    limits: MediaLimits = DEFAULT_LIMITS,
    config: PipelineConfig | None = None,
    on_video: OnVideo = lambda *_: None,
) -> ReembedResult:
    """Embed all videos of collection ``name`` with ``model`` and replace the collection by the result.

    Truncated embeddings keep their number of dimensions if ``model`` supports it; otherwise they are not truncated.

    Args:
        library: store of the collection.
        name: name of the collection.
        model: model of the new bundle.
        skip_missing: leave out videos whose file is missing, has changed or cannot be read. Otherwise such videos
            prevent the replacement.
        limits: limits on media files.
        config: concurrency; ``config.in_flight`` videos are processed at a time.
        on_video: called after each video.

    Raises:
        InvalidInput: the collection's bundle is already that of ``model``, and no clip with sound lacks audio tokens.
        FingerprintMismatch: NAME-next was begun with a third bundle.
        Conflict: NAME-next is not an unfinished copy of the collection.
        CollectionNotFound, TaskMissing, EngineError, StorageError.
    """
    old = library.open(name)
    if not can_reembed(old, model):
        raise InvalidInput(f"bundle: {old.bundle_name} filled collection {name} already; another one was expected")
    new = _open_target(library, old, f"{name[:_MAX_PREFIX]}-next", model)
    run = _Reembedding(old, new, model, limits)
    embedded = 0
    while True:
        failed = []
        done, total = new.stats().videos, old.stats().videos  # reads all rows: once, not for every video
        with closing(run.embed_all(_pending_videos(old, new), config or PipelineConfig())) as results:
            for video, problem in results:
                if problem is not None:
                    failed.append(FailedVideo(video, problem))
                    continue
                embedded += 1
                done += 1
                on_video(done, max(done, total), video.title)
        if failed and not skip_missing:
            return ReembedResult(False, embedded, failed)
        if _replace(library, old, new, {failure.video.id for failure in failed}):
            with library.open(name).catalogue.write() as connection:
                for key in (COPY_OF_KEY, _COPY_OF_ID, _BEGAN_AT):
                    write_meta(connection, key, None)
            return ReembedResult(True, embedded, failed)


def can_reembed(collection: Collection, model: Model) -> bool:
    """Return whether re-embedding is useful: the collection has another bundle, or clips lack audio tokens.

    Clips that earlier versions stored have no audio tokens. Raises CollectionNotFound and StorageError.
    """
    if collection.fingerprint != model.bundle.fingerprint:
        return True
    with collection.catalogue.read() as connection:
        return model.fuses_audio and lacks_audio_tokens(connection)


def _open_target(library: CollectionStore, old: Collection, name: str, model: Model) -> Collection:
    """Create the new collection, or open the one that an earlier call began."""
    with old.catalogue.read() as connection:
        began_at, _ = last_change(connection)
    try:
        keeps_dimensions = old.embed_dim in model.bundle.manifest.matryoshka_dimensions and old.is_truncated
        new = library.create(
            name,
            model,
            token_encoding=old.token_encoding,
            index_kind=old.index_state().requested,
            vectors=old.vector_backend,
            dimensions=old.embed_dim if keeps_dimensions else None,
        )
    except CollectionExists:
        new = library.open(name)
    with new.catalogue.write() as connection:
        is_begun = read_meta(connection, _BEGAN_AT) is not None
        copied, copied_id = read_meta(connection, COPY_OF_KEY), read_meta(connection, _COPY_OF_ID)
        is_other = copied not in (None, old.name) or copied_id not in (None, old.catalogue.meta["collection_id"])
        if is_other or (not is_begun and video_hashes(connection)):
            raise Conflict(
                f"collection {name}: exists, and is no unfinished copy of {old.name}; drop it (a backup can be "
                "restored under another name)"
            )
        if new.fingerprint != model.bundle.fingerprint:
            raise FingerprintMismatch(
                f"collection {name}: begun by bundle {new.bundle_name}; drop it, or go on with that bundle"
            )
        if not is_begun:
            write_meta(connection, _BEGAN_AT, str(began_at))
        write_meta(connection, COPY_OF_KEY, old.name)
        write_meta(connection, _COPY_OF_ID, old.catalogue.meta["collection_id"])
    return new


def _pending_videos(old: Collection, new: Collection) -> Iterator[Video]:
    """Yield the videos of the old collection that the new one lacks, by id."""
    after = 0
    while page := old.videos(PAGE, after):
        with new.catalogue.read() as connection:
            existing = video_hashes(connection, page[0].id, page[-1].id)
        for video in page:
            if existing.get(video.id, video.content_sha256) != video.content_sha256:
                raise Conflict(
                    f"collection {new.name}: video {video.id} has other content than in {old.name}; drop {new.name}, "
                    "and repeat the command"
                )
            if video.id not in existing:
                yield video
        after = page[-1].id


@dataclass(slots=True)
class _Reembedding:
    """Adds videos of the old collection to the new one."""

    old: Collection
    new: Collection
    model: Model
    limits: MediaLimits
    clips: dict[int, list[NewClip]] = field(default_factory=dict)
    """Embedded clips by video, until it is added."""

    def embed_all(
        self, videos: Iterator[Video], config: PipelineConfig
    ) -> Generator[tuple[Video, str | None], None, None]:
        """Yield every video with None once it is added, or with the reason why it cannot be added.

        A video that is deleted, or whose file is moved, while it is embedded is left out.
        Videos are embedded concurrently and added in their order, so that clip ids increase in the change log.
        """
        in_flight: deque[Video] = deque()
        errors: dict[int, BaseException | None] = {}
        with Pipeline(self.model, self._prepare, self._store, self.limits, config, StageTimer()) as pipeline:
            while True:
                while len(in_flight) < config.in_flight and (video := next(videos, None)) is not None:
                    in_flight.append(video)
                    pipeline.submit(video)
                if not in_flight:
                    return
                while in_flight[0].id not in errors:
                    errors.update((result.item.id, result.error) for result in pipeline.results(_POLL_SECONDS))
                video = in_flight.popleft()
                try:
                    self._add(video, errors.pop(video.id))
                except VideoNotFound:
                    continue  # deleted meanwhile
                except (MediaError, InvalidInput, StorageError) as error:
                    if self._is_deleted_or_moved(video):
                        continue  # a moved one is embedded by the next call, as the new collection lacks it
                    if isinstance(error, StorageError):
                        raise
                    yield video, str(error)
                else:
                    yield video, None

    def _prepare(self, video: Video) -> PreparedFile:
        """Open the file of a video; its clips have the spans of the old collection."""
        with map_os_errors(self.old.media_path(video)):
            media = self.old.media.open(video)
        hashed = hash_file(media, self.limits)
        try:
            if hashed.content_sha256 != video.content_sha256:
                raise MediaError(f"{media.name}: has other content than when it was indexed; the same was expected")
            info, clips = self.model.decoder.probe(media, self.limits), self.old.clips(video.id)
            signals = embedded_signals(info, media.name, self.new.signals)
        except BaseException:
            media.close()
            raise
        segments = Segments([(clip.start, clip.end) for clip in clips], [clip.text for clip in clips])
        description = FileDescription(
            media.path, video.content_sha256, info, segments, video.title, video.metadata, signals=signals
        )
        return PreparedFile(media, hashed.stat, description)

    def _store(self, video: Video, prepared: PreparedFile, clips: list[NewClip]) -> IngestResult:
        check_unchanged(prepared)
        self.clips[video.id] = clips
        return IngestResult(video, created=True)

    def _add(self, video: Video, error: BaseException | None) -> None:
        """Add a video whose processing has ended, or raise its ``error``."""
        clips = self.clips.pop(video.id, [])
        if error is not None:
            raise error
        file = self.old.media_path(video) if self.old.owns(video) else None
        # Texts may have been edited meanwhile; those of clips are read last, as `copy_edits` does not compare them.
        text = load_video_text(self.old, video.id)
        stored = self.old.clips(video.id)
        clips = [replace(clip, text=own.text) for clip, own in zip(clips, stored, strict=True)]
        self.new.add_with_ids(video, clips, stored[0].id, file, text)

    def _is_deleted_or_moved(self, video: Video) -> bool:
        try:
            return self.old.get_video(video.id).path != video.path
        except VideoNotFound:
            return True


def _replace(library: CollectionStore, old: Collection, new: Collection, skipped: set[int]) -> bool:
    """Replace the old collection by the new one; return False if videos were added to the old one meanwhile."""

    def is_complete(connection: sqlite3.Connection) -> bool:
        old_ids = video_hashes(connection).keys()
        with new.catalogue.read() as new_connection:
            new_ids = video_hashes(new_connection).keys()
        if not old_ids - skipped <= new_ids:
            return False
        for video_id in new_ids - old_ids:
            new.delete_video(video_id)
        with new.catalogue.write() as new_connection:
            copy_jobs(connection, new_connection)  # also after a failed attempt, since jobs may have changed since then
            began_at = read_meta(new_connection, _BEGAN_AT)
            copy_recognition_meta(connection, new_connection)
            last_ids = connection.execute("SELECT name, seq FROM sqlite_sequence WHERE name IN ('videos', 'clips')")
            set_sequences(new_connection, dict(last_ids))  # ids of deleted videos are not used again
            set_stemming(new_connection, read_stemming(connection))
            write_meta(new_connection, INDEX_KIND_KEY, read_requested_kind(connection))
            copy_edits(connection, new_connection, None if began_at is None else int(began_at))
        _link_files(old.media.folder, new.media.folder)
        return True

    return library.replace(old.name, new.name, is_complete)


def _link_files(folder: Path, new_folder: Path) -> None:
    """Link or copy every file of ``folder`` that ``new_folder`` lacks, such as files of jobs. Raises StorageError."""
    try:
        for parent, _, names in os.walk(folder):
            target = new_folder / Path(parent).relative_to(folder)
            make_folders(target)
            for name in names:
                if not (target / name).exists():
                    link_or_copy(Path(parent) / name, target / name)
            sync(target)
    except OSError as error:
        raise StorageError(f"{folder}: its files cannot be linked: {error}") from error
