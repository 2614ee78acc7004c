"""Collections: videos and clips with their embeddings, by signal, and visual tokens, all of one bundle.

Shape letters: N clips, V visual tokens, W their width, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index.clip_rows import clip_row, decode_clip_tokens, token_shapes
from index.media_files import MediaFiles
from index.records import (
    Clip,
    Float32,
    Hit,
    IndexState,
    NewClip,
    NewVideo,
    Scalar,
    Signal,
    Stats,
    Video,
    check_embedding,
    check_video,
)
from index.storage import edits, queries
from index.storage.catalogue import CATALOGUE_NAME, Catalogue
from index.storage.facets import Facets, read_facets
from index.storage.filters import Filter, allowed_clips
from index.storage.fulltext import Stemming, read_stemming, set_stemming
from index.storage.removals import is_owned
from index.vectors.faiss_kinds import INDEX_KIND_KEY, check_index_kind, read_requested_kind
from index.vectors.interface import (
    FAISS,
    NO_AUDIO_IN_MILVUS,
    VectorIndex,
    VectorSnapshot,
    backend_of,
    index_kinds_of,
    open_vector_index,
    parse_signals,
)
from index.video_text import VideoText, check_speech, check_video_text
from vitascope.errors import Conflict, FingerprintMismatch, InvalidInput, NotFound, StorageError, VideoNotFound
from vitascope.speech.interface import SpeechSegment
from vitascope.visual_token_codec import check_encoding

__all__ = ["Clip", "Collection", "Hit", "NewClip", "NewVideo", "Stats", "Video"]

MAX_K = 10_000
MAX_PAGE = 10_000
SNAPSHOT_ATTEMPTS = 3
MODEL_DIM_KEY = "model_vector_width"
"""Key of the table meta for the bundle's embedding dim, in collections of truncated embeddings."""
COPY_OF_KEY = "reembed_of"
"""Key of the table meta in an unfinished copy by another model: the name of the collection that it will replace."""


class Collection:
    """One collection on disk; thread-safe, and open in several processes at once.

    Every method raises CollectionNotFound once the collection is dropped and StorageError when durable storage fails; a
    write that raises has changed nothing. Closing it (or ``with``) saves time at the next opening.
    """

    def __init__(self, folder: Path) -> None:
        """Open the collection in ``folder``. Raises CollectionNotFound and StorageError."""
        self.folder = folder
        self.name = folder.name
        self.catalogue = Catalogue(folder / CATALOGUE_NAME)
        self.media = MediaFiles(folder, self.catalogue)
        meta = self.catalogue.meta
        try:
            self.fingerprint = meta["fingerprint"]
            self.bundle_name = meta["bundle"]
            self.embed_dim = int(meta["vector_width"])
            self._model_dim = int(meta.get(MODEL_DIM_KEY, self.embed_dim))
            self.token_shapes = token_shapes(meta)
            self.token_encoding = check_encoding(meta.get("token_encoding", "float16"))
            self.created_at = float(meta["created_at"])
            self.vector_backend = backend_of(meta)
            self.signals = parse_signals(meta)
        except (KeyError, ValueError, InvalidInput) as error:
            self.catalogue.close()
            raise StorageError(f"{self.catalogue.path}: table meta: {error}") from error
        self.vector_indexes: Mapping[Signal, VectorIndex] = {
            signal: open_vector_index(self.catalogue, folder, self.embed_dim, signal) for signal in self.signals
        }
        self.media.remove_listed()  # what a killed process has not removed

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write snapshots of the vector indexes that are due, and close the files; does nothing if already closed."""
        try:
            if not self.catalogue.closed:
                for vector_index in self.vector_indexes.values():
                    vector_index.close()
        finally:
            self.catalogue.close()

    def is_current(self) -> bool:
        """Return whether this object is open and its folder still holds the same collection."""
        if self.catalogue.closed:
            return False
        try:
            with self.catalogue.read():
                return self.catalogue.is_file_in_place()
        except NotFound:
            return False
        except StorageError:
            return True  # the next use reports the fault

    @property
    def vector_index(self) -> VectorIndex:
        """The vector index of the visual signal; in a collection of sounds alone, that of the audio signal."""
        return self.vector_indexes[self.signals[0]]

    def modalities(self, video: Video, clip: Clip | Hit) -> list[Signal]:
        """Return the signals for which a clip of ``video`` has an embedding: visual, audio or both."""
        return [signal for signal in self.signals if (clip.has_sound if signal == "audio" else video.width > 0)]

    def require_signals(self, signals: Iterable[str]) -> None:
        """Raise InvalidInput unless the collection has all these signals."""
        for signal in signals:
            if signal not in self.signals:
                reason = f"bundle {self.bundle_name} embeds no {'sound' if signal == 'audio' else 'pictures'}"
                if signal == "audio" and self.vector_backend != FAISS:
                    reason = NO_AUDIO_IN_MILVUS
                expected = ", ".join(self.signals)
                raise InvalidInput(f"signals: {signal!r}; {expected} was expected in {self.name}, as {reason}")

    @contextmanager
    def snapshots(
        self, signals: Sequence[Signal]
    ) -> Iterator[tuple[sqlite3.Connection, Mapping[Signal, VectorSnapshot]]]:
        """Open a read transaction and a vector snapshot per signal, all of the same state of the collection.

        While other writers keep changing the collection, later signals may have a later state than the
        transaction. Raises InvalidInput for a missing signal, CollectionNotFound and StorageError.
        """
        self.require_signals(signals)
        for attempts_left in reversed(range(SNAPSHOT_ATTEMPTS)):
            with ExitStack() as stack:
                opened = [stack.enter_context(self.vector_indexes[signal].snapshot()) for signal in signals]
                connections = [connection for connection, _ in opened]
                if not attempts_left or len({queries.last_change(connection) for connection in connections}) == 1:
                    yield connections[0], dict(zip(signals, (vectors for _, vectors in opened), strict=True))
                    return

    def require_fingerprint(self, fingerprint: str) -> None:
        """Raise FingerprintMismatch unless the collection was created for the bundle with this fingerprint."""
        if fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"collection {self.name}: filled by bundle {self.bundle_name}, "
                f"fingerprint {self.fingerprint[:12]}; "
                f"the bundle in use has {fingerprint[:12]}. Use that bundle, or index into a new collection"
            )

    @property
    def is_truncated(self) -> bool:
        """Return whether embeddings have fewer dimensions than those of the bundle."""
        return self.embed_dim < self._model_dim

    def truncate(self, embedding: npt.ArrayLike) -> Float32:
        """Truncate an embedding of the bundle to the dimensions of the collection; return (D,) float32 of length 1.

        Raises InvalidInput if the embedding is not finite or does not have the bundle's number of dimensions.
        """
        checked = check_embedding(embedding, self._model_dim)
        return check_embedding(checked[: self.embed_dim], self.embed_dim) if self.is_truncated else checked

    def stats(self) -> Stats:
        """Return the number of videos and clips."""
        with self.catalogue.read() as connection:
            return queries.read_stats(connection)

    def size(self) -> int:
        """Return the bytes on disk of the catalogue and the files derived from it. Raises CollectionNotFound."""
        return self.catalogue.folder_size()

    def facets(self) -> Facets:
        """Return folders, days, durations and metadata of the videos, with the number of videos of each."""
        with self.catalogue.read() as connection:
            return read_facets(connection)

    def index_state(self) -> IndexState:
        """Return the requested kind of index, the kind of the visual index, and the clips changed since it was built.

        Loads no index: before the first search, the returned kind is the one that the search will load.
        """
        with self.catalogue.read() as connection:
            return IndexState(read_requested_kind(connection), *self.vector_index.status(connection))

    def set_index_kind(self, kind: str) -> None:
        """Request a kind of index, durably: auto, flat, hnsw or ivfpq (docs/nearest.md).

        It is built in the background, while the old one serves searches; other processes load it after their next
        search. Raises InvalidInput, also for ivfpq with the Milvus backend.
        """
        check_index_kind(kind, index_kinds_of(self.vector_backend))
        with self.catalogue.write() as connection:
            queries.write_meta(connection, INDEX_KIND_KEY, kind)
        for vector_index in self.vector_indexes.values():
            vector_index.request_rebuild()

    def stemming(self) -> Stemming:
        """Return the stemming of words in searches."""
        with self.catalogue.read() as connection:
            return read_stemming(connection)

    def set_stemming(self, stemming: str) -> None:
        """Rebuild the full-text indexes with another stemming, durably and at once. Raises InvalidInput."""
        with self.catalogue.write() as connection:
            set_stemming(connection, stemming)

    def wait_for_index(self) -> None:
        """Wait until this process builds or loads no index in the background."""
        for vector_index in self.vector_indexes.values():
            vector_index.wait_for_rebuild()

    # Writing

    def add_video(self, video: NewVideo, clips: Sequence[NewClip]) -> Video:
        """Add a video with its clips, or return the existing video with the same content.

        The video is durable and searchable when this method returns. Raises InvalidInput that names the field.
        """
        return self.add_if_new(video, clips)[0]

    def add_if_new(
        self, video: NewVideo, clips: Sequence[NewClip], text: VideoText | None = None
    ) -> tuple[Video, bool]:
        """Add a video with its clips unless one of the same content exists; also return whether it was added.

        ``text``: subtitles, transcript and other texts of the video, stored with it. Raises InvalidInput that names the
        field, and Conflict if the collection is an unfinished copy made by another model, which will replace its
        original and would lose the video.
        """
        check_video(video)
        text = check_video_text(text or VideoText())
        if not clips:
            raise InvalidInput(f"clips: none for {video.path!r}; at least one was expected")
        rows = [clip_row(self, clip, has_pictures=video.width > 0) for clip in clips]
        with self.catalogue.write() as connection:
            self.require_original(connection)
            existing = queries.find_video(connection, video.content_sha256)
            if existing is not None:
                return existing, False
            video_id = queries.insert_video(connection, video, queries.newest_clip(connection) + 1, rows, text=text)
            added = self.require_video(connection, video_id)
        self._on_write(len(clips))
        return added, True

    def require_original(self, connection: sqlite3.Connection) -> None:
        """Raise Conflict if the collection is an unfinished copy made by another model."""
        copied = queries.read_meta(connection, COPY_OF_KEY)
        if copied not in (None, self.name):
            raise Conflict(
                f"collection {self.name}: an unfinished copy of {copied} by another model; add videos to {copied}"
            )

    def add_with_ids(
        self,
        video: Video,
        clips: Sequence[NewClip],
        first_clip: int,
        file: Path | None = None,
        text: VideoText | None = None,
    ) -> None:
        """Copy a video from another collection and keep its ids; replaces a video with the same content.

        Args:
            video: the video to copy, with its id.
            clips: its clips, in order; their ids are consecutive.
            first_clip: id of the first clip.
            file: the video's file if the other collection owns it; it is linked into this collection.
            text: subtitles, transcript, text on screen and captions of the video.

        Raises:
            InvalidInput, StorageError.
        """
        rows = [clip_row(self, clip, has_pictures=video.width > 0) for clip in clips]
        deleted = 0
        with self.catalogue.write() if file is None else self.media.writing(video.path) as connection:
            if file is not None:
                self.media.link_in(file, video.path)
            replaced = queries.find_video(connection, video.content_sha256)
            if replaced is not None:
                deleted = queries.delete_video(connection, replaced.id) or 0
            new, video_id, added_at = video.as_new(), video.id, video.added_at
            queries.insert_video(connection, new, first_clip, rows, video_id=video_id, added_at=added_at, text=text)
        self._on_write(deleted + len(clips))
        if replaced is not None:
            self.media.remove_listed(replaced.path)

    def edit_video(
        self,
        video_id: int,
        *,
        title: str | None = None,
        metadata: Mapping[str, Scalar | None] | None = None,
        texts: Sequence[str] | None = None,
        subtitles: Sequence[SpeechSegment] = (),
    ) -> tuple[Video, tuple[str, ...]]:
        """Change a video durably; return it and the names of the changed fields.

        Args:
            video_id: id of the video.
            title: the new title; None keeps the title.
            metadata: merged into the metadata of the video; a value None deletes its key.
            texts: the words of the subtitles in each clip, in order; None keeps the words.
            subtitles: with ``texts``, the cues from which the texts were made.

        Raises:
            VideoNotFound, and InvalidInput that names the field.
        """
        with self.catalogue.write() as connection:
            video = self.require_video(connection, video_id)
            changes = edits.edit_video(connection, video, title, metadata or {}, texts, check_speech(subtitles))
            return self.require_video(connection, video_id), changes

    def refresh_video(self, video: Video, statement: edits.SourceStatement) -> tuple[Video, tuple[str, ...]]:
        """Store the values that are new in the video's source; return the video and the names of the changed fields.

        ``video``: the video as it was read; if another process has changed its path since, that path stays. Raises
        VideoNotFound, and InvalidInput that names the field.
        """
        with self.catalogue.write() as connection:
            current = self.require_video(connection, video.id)
            if current.path != video.path:
                statement = replace(statement, path=None)
            changes = edits.refresh_video(connection, current, statement)
            refreshed = self.require_video(connection, video.id)
        if "path" in changes and self.owns(video):
            self.media.remove_listed(video.path)
        return refreshed, changes

    def delete_video(self, video_id: int) -> None:
        """Delete a video with all its clips, durably, and its file if the collection owns it. Raises VideoNotFound."""
        with self.catalogue.write() as connection:
            video = self.require_video(connection, video_id)
            deleted = queries.delete_video(connection, video_id) or 0
        self._on_write(deleted)
        if self.owns(video):
            self.media.remove_listed(video.path)

    # Reading

    def videos(self, limit: int = 100, after_id: int | None = None, where: Filter | None = None) -> list[Video]:
        """Return at most ``limit`` videos that pass the filter, by id, after ``after_id``. Raises InvalidInput.

        If the filter names fields of clips, a video passes with at least one of its clips.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput(f"limit: {limit}; 1 to {MAX_PAGE} was expected")
        with self.catalogue.read() as connection:
            return queries.list_videos(connection, limit, _to_int64(after_id or 0), where)

    def get_video(self, video_id: int) -> Video:
        """Return the video with this id. Raises VideoNotFound."""
        with self.catalogue.read() as connection:
            return self.require_video(connection, video_id)

    def find_by_hash(self, content_sha256: str) -> Video | None:
        """Return the video whose file has this SHA-256 (hex), or None."""
        with self.catalogue.read() as connection:
            return queries.find_video(connection, content_sha256)

    def owns(self, video: Video) -> bool:
        """Return whether the collection owns the video's file; an external file is read in place and never removed."""
        return is_owned(video.path)

    def location(self, video: Video) -> str | None:
        """Return the path of a file that is read in place, or the URL or archive member that was copied; else None."""
        return video.source_uri if self.owns(video) else video.path

    def media_path(self, video: Video) -> Path:
        """Return the path of the video's file. Raises StorageError for a path that is neither absolute nor owned."""
        return self.media.file(video.path)

    def clips(self, video_id: int) -> list[Clip]:
        """Return the clips of a video in order. Raises VideoNotFound."""
        with self.catalogue.read() as connection:
            return queries.load_clips_of_video(connection, self.require_video(connection, video_id).id)

    def clips_by_id(self, clip_ids: Sequence[int]) -> list[Clip]:
        """Return clips in the order of their ids. Raises NotFound that names the first missing one."""
        with self.catalogue.read() as connection:
            clips = queries.load_clips(connection, [_to_int64(clip_id) for clip_id in clip_ids])
        for clip_id in clip_ids:
            if clip_id not in clips:
                raise NotFound(f"collection {self.name}: no clip {clip_id}")
        return [clips[clip_id] for clip_id in clip_ids]

    def thumbnail(self, clip_id: int) -> bytes | None:
        """Return the JPEG thumbnail of a clip, or None. Raises NotFound if the clip does not exist."""
        with self.catalogue.read() as connection:
            row = queries.load_thumbnail(connection, _to_int64(clip_id))
        if row is None:
            raise NotFound(f"collection {self.name}: no clip {clip_id}")
        return row[0]

    def thumbnail_at(self, video_id: int, second: float) -> bytes | None:
        """Return the JPEG thumbnail of the clip whose middle is at ``second`` (rounded to 6 decimals), or None."""
        with self.catalogue.read() as connection:
            return queries.load_thumbnail_at(connection, _to_int64(video_id), second)

    def visual_tokens(self, clip_ids: Sequence[int]) -> Float32:
        """Return the visual tokens of clips in the order of the ids, (N, V, W) float32.

        Raises NotFound that names the clips without visual tokens.
        """
        by_id = self.stored_tokens(clip_ids)
        if missing := [str(clip_id) for clip_id in clip_ids if by_id.get(clip_id) is None]:
            raise NotFound(f"collection {self.name}: no visual tokens of clip {', '.join(missing[:10])}")
        return np.array([by_id[i] for i in clip_ids], np.float32).reshape(len(clip_ids), *self.token_shapes["visual"])

    def stored_tokens(self, clip_ids: Iterable[int], signal: Signal = "visual") -> dict[int, Float32 | None]:
        """Return visual or audio tokens by clip id; None for a clip without tokens, no entry for a missing clip."""
        with self.catalogue.read() as connection:
            blobs = queries.load_token_blobs(connection, [_to_int64(clip_id) for clip_id in clip_ids], signal)
        return {clip_id: decode_clip_tokens(self, clip_id, blob, signal) for clip_id, blob in blobs.items()}

    def search(
        self, embedding: npt.ArrayLike, k: int, where: Filter | None = None, signal: Signal = "visual"
    ) -> list[Hit]:
        """Return at most ``k`` clips that pass the filter, most similar to ``embedding`` (D,) first.

        ``signal``: which embeddings of the clips are compared; clips without this signal are left out. All hits come
        from the same state of the collection, which includes every write acknowledged before the call.

        Raises InvalidInput for k outside 1 to ``MAX_K``, for a signal that the collection lacks, and for an embedding
        that ``truncate`` rejects.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
            raise InvalidInput(f"k: {k!r}; a whole number from 1 to {MAX_K} was expected")
        query = self.truncate(embedding)
        with self.snapshots([signal]) as (connection, vectors):
            allowed = None if where is None else allowed_clips(connection, where)
            cosines, ids = vectors[signal].search(query[None, :], k, allowed)
            similarities = np.clip(cosines[0], -1, 1).tolist()  # rounding can exceed 1 in the seventh digit
            return queries.load_hits(connection, list(zip(ids[0].tolist(), similarities, strict=True)))

    def _on_write(self, clips: int) -> None:
        for vector_index in self.vector_indexes.values():
            vector_index.on_write(clips)

    def require_video(self, connection: sqlite3.Connection, video_id: int) -> Video:
        """Return a video in an open transaction. Raises VideoNotFound."""
        video = queries.find_video(connection, _to_int64(video_id))
        if video is None:
            raise VideoNotFound(f"collection {self.name}: no video {video_id}")
        return video


def _to_int64(value: int) -> int:
    """Return ``value`` if SQLite can store it as an integer, else -1, which is the id of no record."""
    return value if -(2**63) <= value < 2**63 else -1
