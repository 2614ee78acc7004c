"""Videos of a watched folder that have lost their file, and which of them are to be deleted from the collection."""

from __future__ import annotations

import time
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from typing import Literal

from index.collection import Collection
from index.jobs.sources.source_types import FolderSource
from index.jobs.watched_folder import is_missing
from index.records import Video
from index.storage.watched_files import WatchedFile, count_files, existing_videos, write_watched_files
from vitascope.errors import VideoNotFound

MAX_DELETE = 0.2
"""Share of a folder's videos that may be deleted at once. A single video always may."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A video whose file is gone, or has other content.

    Attributes:
        video: as it is in the collection.
        event: what happened to its file.
        since: when, in seconds of the caller's clock.
        successor: the file with the other content, to be known once the video is deleted.
        is_on_other_drive: whether that lies on another file system than the file did: then the video stays.
    """

    video: Video
    event: Literal["gone", "replaced"]
    since: float
    successor: WatchedFile | None = None
    is_on_other_drive: bool = False


class Losses:
    """Videos that have lost their file. They are to be deleted after some time, unless they are too many.

    ``held``: ids of the videos that stay although their file is lost. ``reason``: why those stay that are too many.
    """

    def __init__(self, collection: Collection, source: FolderSource, settle: float, max_delete: float) -> None:
        """``settle``: seconds for which a file must be lost. ``max_delete``: as ``MAX_DELETE``."""
        self._collection = collection
        self._source = source
        self._settle = settle
        self._max_delete = max_delete
        self._pending: dict[int, Loss] = {}
        self.held: frozenset[int] = frozenset()
        self.reason: str | None = None

    def __iter__(self) -> Iterator[Loss]:
        return iter(tuple(self._pending.values()))

    def add(self, loss: Loss) -> None:
        self._pending.setdefault(loss.video.id, loss)

    def drop(self, video_id: int, path: str) -> None:
        """Forget the loss of a video, if there is one and ``path`` is its file, which is back."""
        loss = self._pending.get(video_id)
        if loss is not None and loss.video.path == path:
            del self._pending[video_id]

    def due(self, now: float, known: dict[str, WatchedFile], contents: Set[int]) -> list[Loss]:
        """Return the losses whose videos are to be deleted now, by ``delete``.

        Args:
            now: seconds of the caller's clock.
            known: the watched files by path. A file whose video is held is noted there, and in the catalogue.
            contents: ids of videos whose content a file in the folder has. They may go however many they are: that
                file takes the place of the lost one.
        """
        self._forget_deleted()
        candidates = [loss for loss in self if not loss.is_on_other_drive]
        lost = [loss for loss in candidates if loss.video.id not in contents]
        due = [loss for loss in candidates if now - loss.since >= self._settle]
        is_time = any(now - loss.since >= self._settle for loss in lost)
        self.reason = self._excess(lost, known) if is_time else None
        if self.reason is not None:
            self._note_held(lost, known)
            due = [loss for loss in due if loss.video.id in contents]
        held = {loss.video.id for loss in lost} if self.reason is not None else set()
        self.held = frozenset(held | {loss.video.id for loss in self if loss.is_on_other_drive})
        return due

    def delete(self, loss: Loss) -> bool:
        """Delete the video of a loss from the collection. Returns whether that was done: its file may be back."""
        self._pending.pop(loss.video.id)
        if loss.event == "gone" and not is_missing(loss.video.path):
            return False
        try:
            self._collection.delete_video(loss.video.id)
        except VideoNotFound:
            return False
        return True

    def _excess(self, lost: list[Loss], known: dict[str, WatchedFile]) -> str | None:
        """Say that so many files are too many to be lost; None where they are not."""
        paths = {loss.video.path for loss in lost}
        # Videos that came after losses were held back must not make these a smaller share.
        held = [
            file.held_since for loss in lost if (file := known.get(loss.video.path)) and file.held_since is not None
        ]
        with self._collection.catalogue.read() as connection:
            total = count_files(connection, self._source.folder, self._source.recursive, min(held, default=None))
        share = min(1.0, len(paths) / max(total, 1))
        if len(paths) < 2 or share <= self._max_delete:
            return None
        return (
            f"{len(paths)} of {total} videos have lost their file, which is more than the share of "
            f"{self._max_delete:g} that is deleted at once (--max-delete); they stay"
        )

    def _note_held(self, lost: list[Loss], known: dict[str, WatchedFile]) -> None:
        """Keep since when videos are held, over restarts."""
        files = [file for loss in lost if (file := known.get(loss.video.path)) and file.video_id == loss.video.id]
        held = [replace(file, held_since=time.time()) for file in files if file.held_since is None]
        if held:
            with self._collection.catalogue.write() as connection:
                write_watched_files(connection, held)
            known.update((file.path, file) for file in held)

    def _forget_deleted(self) -> None:
        """Forget the losses of videos that were deleted by other means."""
        if self._pending:
            with self._collection.catalogue.read() as connection:
                existing = existing_videos(connection, self._pending)
            self._pending = {video_id: loss for video_id, loss in self._pending.items() if video_id in existing}
