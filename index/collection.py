"""A collection: videos, clips, vectors and fused tokens of one bundle, searched by vectors of the same.

Shape letters: N clips asked for, V visual tokens, W their width, D vector width.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from index.media_files import MediaFiles
from index.records import (
    Clip,
    Float32,
    Hit,
    IndexState,
    NewClip,
    NewVideo,
    Stats,
    Video,
    check_span,
    check_text,
    check_thumbnail,
    check_tokens,
    check_vector,
    check_video,
)
from index.storage.catalogue import CATALOGUE_NAME, Catalogue
from index.storage.filter_sql import where_clause
from index.storage.filters import Filter
from index.storage.queries import (
    VIDEO_COLUMNS,
    ClipRow,
    allowed_clips,
    delete_video_rows,
    find_video,
    insert_video,
    load_clips,
    load_hits,
    next_clip,
    read_video,
)
from index.storage.removals import is_owned
from index.vectors.backend import place_of, settings_at
from index.vectors.factory import open_vector_index
from index.vectors.faiss_index import setting_of, write_setting
from index.vectors.faiss_kinds import check_setting
from index.vectors.interface import VectorSnapshot, search
from vitascope.errors import (
    CollectionNotFound,
    FilterError,
    FingerprintMismatch,
    InvalidInput,
    NotFound,
    StorageError,
    VideoNotFound,
)
from vitascope.visual_token_codec import check_encoding, decode_tokens, encode_tokens

__all__ = ["Clip", "Collection", "Hit", "NewClip", "NewVideo", "Stats", "Video"]

MAX_K = 10_000
MAX_PAGE = 10_000


class Collection:
    """One collection on disk; safe to use from many threads, and open in several processes at once.

    Every method raises CollectionNotFound once the collection is dropped and StorageError when durable
    storage fails; a write that raises has changed nothing. Close it (or use ``with``): that saves time at the
    next opening.
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
            self.width = int(meta["vector_width"])
            self.tokens_shape = (int(meta["visual_tokens"]), int(meta["visual_width"]))
            self.token_encoding = check_encoding(meta.get("token_encoding", "float16"))
            self.created_at = float(meta["created_at"])
            self.vector_backend = place_of(meta)
        except (KeyError, ValueError, InvalidInput) as error:
            self.catalogue.close()
            raise StorageError(f"{self.catalogue.path}: table meta: {error}") from error
        self._live = open_vector_index(self.catalogue, folder, self.width)
        self.media.remove_listed()  # what a process that was killed has left on the list

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Snapshot the vectors if worth it and close the files; harmless done twice or after a drop."""
        try:
            if not self.catalogue.closed:
                self._live.close()
        finally:
            self.catalogue.close()

    def is_current(self) -> bool:
        """Whether this object is open and still the collection that its folder holds."""
        if self.catalogue.closed:
            return False
        try:
            with self.catalogue.read():
                return self.catalogue.is_file_in_place()
        except NotFound:
            return False
        except StorageError:
            return True  # a fault, to be met and named by whoever works with it

    def require_fingerprint(self, fingerprint: str) -> None:
        """Raise FingerprintMismatch unless a bundle of this fingerprint filled the collection."""
        if fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"collection {self.name}: filled by bundle {self.bundle_name}, "
                f"fingerprint {self.fingerprint[:12]}; "
                f"the bundle in use has {fingerprint[:12]}. Use that bundle, or index into a new collection"
            )

    def stats(self) -> Stats:
        """How many videos and clips there are."""
        with self.catalogue.read() as connection:
            row = connection.execute("SELECT count(*), coalesce(sum(clip_count), 0) FROM videos").fetchone()
            return Stats(videos=row[0], clips=row[1])

    def size(self) -> int:
        """Bytes on disk, of the catalogue and of what is derived from it. Raises CollectionNotFound."""
        total = 0
        try:
            entries = list(self.folder.iterdir())
        except FileNotFoundError as error:
            raise CollectionNotFound(f"collection {self.name}: there is no collection of this name") from error
        for entry in entries:
            with suppress(FileNotFoundError):  # an index that is being replaced
                total += entry.stat().st_size if entry.is_file() else 0
        return total

    def index_state(self) -> IndexState:
        """Which kind of index is asked for, which one serves, and how much has changed since it was built.

        Loads no index: of a collection that was not searched yet it says what the first search will find.
        """
        with self.catalogue.read() as connection:
            return IndexState(setting_of(connection), *self._live.outlook(connection))

    def set_index_kind(self, setting: str) -> None:
        """Ask for this kind of index from now on: auto, flat, hnsw or ivfpq (docs/nearest.md). Durable.

        It is built beside the searches, which go on in the old one until then; other processes take it up after their
        next search. Raises InvalidInput, also for ivfpq where the vectors are in Milvus.
        """
        check_setting(setting, settings_at(self.vector_backend))
        with self.catalogue.write() as connection:
            write_setting(connection, setting)
        self._live.renew()

    def wait_for_index(self) -> None:
        """Wait until no index is being built or taken up by this process."""
        self._live.wait()

    # Writing

    def add_video(self, video: NewVideo, clips: Sequence[NewClip]) -> Video:
        """Add a video with its clips, or return the one of the same content that is there already.

        Durable and searchable when this returns. Raises InvalidInput naming the field.
        """
        return self.add_if_new(video, clips)[0]

    def add_if_new(self, video: NewVideo, clips: Sequence[NewClip], file: Path | None = None) -> tuple[Video, bool]:
        """As ``add_video``; also says whether the video was added by this call.

        ``file``: is moved to ``video.path``, that of a file of the collection's own, in the same step. It stays where
        it is if the video is not added.
        """
        check_video(video)
        if not clips:
            raise InvalidInput(f"clips: none for {video.path!r}; at least one was expected")
        rows = [self._row(clip) for clip in clips]
        with self.catalogue.write() if file is None else self.media.writing(video.path, file) as connection:
            known = find_video(connection, "content_sha256 = ?", video.content_sha256)
            if known is not None:
                return known, False
            if file is not None:
                self.media.move_in(file, video.path)
            video_id = insert_video(connection, video, next_clip(connection), rows)
            added = find_video(connection, "id = ?", video_id)
        assert added is not None
        self._live.note_written(len(clips))
        return added, True

    def add_with_ids(self, video: Video, clips: Sequence[NewClip], first_clip: int, file: Path | None = None) -> None:
        """Add a video of another collection under its ids: its own and, from ``first_clip`` on, those of its clips.

        Another one of the same content makes room for it in the same step. ``file``: that of a video whose collection
        owns it; this collection gets it, too. Raises InvalidInput, StorageError.
        """
        again = NewVideo(
            content_sha256=video.content_sha256,
            path=video.path,
            title=video.title,
            duration=video.duration,
            width=video.width,
            height=video.height,
            metadata=video.metadata,
        )
        rows = [self._row(clip) for clip in clips]
        deleted = 0
        with self.catalogue.write() if file is None else self.media.writing(video.path) as connection:
            if file is not None:
                self.media.link_in(file, video.path)
            replaced = find_video(connection, "content_sha256 = ?", video.content_sha256)
            if replaced is not None:
                deleted = delete_video_rows(connection, replaced.id) or 0
            insert_video(connection, again, first_clip, rows, video_id=video.id, added_at=video.added_at)
        self._live.note_written(deleted + len(clips))
        if replaced is not None:
            self.media.remove_listed(replaced.path)

    def delete_video(self, video_id: int) -> None:
        """Remove a video with all its clips, at once and durably, and its file if the collection owns it.

        Raises VideoNotFound.
        """
        with self.catalogue.write() as connection:
            video = find_video(connection, "id = ?", _checked_id(video_id))
            if video is None:
                raise self._no_video(video_id)
            deleted = delete_video_rows(connection, video_id) or 0
        self._live.note_written(deleted)
        if self.owns(video):
            self.media.remove_listed(video.path)

    # Reading

    def videos(self, limit: int = 100, after_id: int | None = None, where: Filter | None = None) -> list[Video]:
        """At most ``limit`` videos that pass the filter, by id, from after ``after_id`` on.

        Raises InvalidInput, and FilterError for a filter that names a clip's field.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput(f"limit: {limit}; 1 to {MAX_PAGE} was expected")
        if where is not None and where.clip_field is not None:
            raise FilterError(
                f"filter: {where.clip_field}; videos are listed by their own fields and metadata, only a search takes "
                "fields of clips"
            )
        clause, parameters = where_clause(where)
        query = f"SELECT {VIDEO_COLUMNS} FROM videos WHERE id > ? AND ({clause}) ORDER BY id LIMIT ?"
        with self.catalogue.read() as connection:
            rows = connection.execute(query, (_checked_id(after_id or 0), *parameters, limit))
            return [read_video(row) for row in rows]

    def get_video(self, video_id: int) -> Video:
        """The video of this id. Raises VideoNotFound."""
        with self.catalogue.read() as connection:
            video = find_video(connection, "id = ?", _checked_id(video_id))
        if video is None:
            raise self._no_video(video_id)
        return video

    def find_by_hash(self, content_sha256: str) -> Video | None:
        """The video whose file has this SHA-256 (hex), or None."""
        with self.catalogue.read() as connection:
            return find_video(connection, "content_sha256 = ?", content_sha256)

    def owns(self, video: Video) -> bool:
        """Whether the file of a video is the collection's own; an external one is read where it is, and stays."""
        return is_owned(video.path)

    def media_path(self, video: Video) -> Path:
        """Where the file of a video is. Raises StorageError for a path that is neither absolute nor owned."""
        return self.media.file(video.path)

    def clips(self, video_id: int) -> list[Clip]:
        """The clips of a video in order. Raises VideoNotFound."""
        with self.catalogue.read() as connection:
            if find_video(connection, "id = ?", _checked_id(video_id)) is None:
                raise self._no_video(video_id)
            rows = connection.execute(
                "SELECT id, video_id, start, end, text FROM clips WHERE video_id = ? ORDER BY id", (video_id,)
            )
            return [Clip(*row) for row in rows]

    def clips_by_id(self, clip_ids: Sequence[int]) -> list[Clip]:
        """Return clips in the order of their ids. Raises NotFound that names the first missing one."""
        with self.catalogue.read() as connection:
            clips = load_clips(connection, [_checked_id(clip_id) for clip_id in clip_ids])
        for clip_id in clip_ids:
            if clip_id not in clips:
                raise NotFound(f"collection {self.name}: no clip {clip_id}")
        return [clips[clip_id] for clip_id in clip_ids]

    def thumbnail(self, clip_id: int) -> bytes | None:
        """The JPEG picture of a clip, None where none was made. Raises NotFound."""
        with self.catalogue.read() as connection:
            row = connection.execute(
                "SELECT jpeg FROM clips LEFT JOIN thumbnails ON clip_id = id WHERE id = ?", (_checked_id(clip_id),)
            ).fetchone()
        if row is None:
            raise NotFound(f"collection {self.name}: no clip {clip_id}")
        return None if row[0] is None else bytes(row[0])

    def thumbnail_at(self, video_id: int, second: float) -> bytes | None:
        """The JPEG picture of the clip whose middle is at ``second`` to six digits; None where there is none."""
        with self.catalogue.read() as connection:
            row = connection.execute(
                "SELECT jpeg FROM clips JOIN thumbnails ON clip_id = id"
                " WHERE video_id = ? AND abs((start + end) / 2 - ?) <= ? ORDER BY abs((start + end) / 2 - ?) LIMIT 1",
                (_checked_id(video_id), second, 1e-5 * max(1.0, second), second),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def visual_tokens(self, clip_ids: Sequence[int]) -> Float32:
        """The visual tokens of these clips, (N, V, W) float32 in their order. Raises NotFound with the ids."""
        found = self.stored_tokens(clip_ids)
        tokens = [found.get(clip_id) for clip_id in clip_ids]
        missing = [clip_id for clip_id, kept in zip(clip_ids, tokens, strict=True) if kept is None]
        if missing:
            raise NotFound(f"collection {self.name}: no visual tokens of clip {', '.join(map(str, missing[:10]))}")
        return np.array(tokens, np.float32).reshape(len(clip_ids), *self.tokens_shape)

    def stored_tokens(self, clip_ids: Iterable[int]) -> dict[int, Float32 | None]:
        """As ``visual_tokens`` by clip id: None for a clip without tokens; clips that are gone are left out."""
        with self.catalogue.read() as connection:
            rows = connection.execute(
                "SELECT id, tokens FROM clips LEFT JOIN tokens ON clip_id = id"
                " WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps([_checked_id(clip_id) for clip_id in clip_ids]),),
            )
            return {clip_id: None if blob is None else self._decoded(clip_id, blob) for clip_id, blob in rows}

    def search(self, vector: npt.ArrayLike, k: int, where: Filter | None = None) -> list[Hit]:
        """The at most ``k`` clips most similar to ``vector`` (D,) that pass the filter, best first.

        All hits are of one state of the collection, which has every write acknowledged before the call.
        Raises InvalidInput for k outside 1 to ``MAX_K`` and for a vector of another width or not finite.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
            raise InvalidInput(f"k: {k!r}; a whole number from 1 to {MAX_K} was expected")
        query = check_vector(vector, self.width)
        with self._live.level() as (connection, index):
            allowed = None if where is None else allowed_clips(connection, where)
            found = search(index, query, k, allowed)
            return load_hits(connection, found)

    def level(self) -> AbstractContextManager[tuple[sqlite3.Connection, VectorSnapshot]]:
        """A read transaction and the index of vectors, both of one state: every write acknowledged before is in them.

        The index must not be altered, and neither be used after the block.
        """
        return self._live.level()

    def _row(self, clip: NewClip) -> ClipRow:
        return ClipRow(
            span=check_span(clip.start, clip.end),
            vector=check_vector(clip.vector, self.width).astype("<f4").tobytes(),
            tokens=encode_tokens(check_tokens(clip.visual_tokens, self.tokens_shape), self.token_encoding),
            text=check_text("text", clip.text),
            thumbnail=check_thumbnail(clip.thumbnail),
        )

    def _decoded(self, clip_id: int, blob: bytes) -> Float32:
        try:
            return decode_tokens(blob, self.token_encoding, self.tokens_shape)
        except InvalidInput as error:
            raise StorageError(f"{self.catalogue.path}: clip {clip_id}: {error}") from error

    def _no_video(self, video_id: int) -> VideoNotFound:
        return VideoNotFound(f"collection {self.name}: no video {video_id}")


def _checked_id(value: int) -> int:
    """An id that SQLite can look up; ids beyond 64 bits name nothing."""
    return value if -(2**63) <= value < 2**63 else -1
