"""Follow a folder: index files once they are complete, report files that go, and delete their videos if asked to.

The folder is listed again and again, which works on network drives, too. A file is complete when it has stayed the same
for some seconds. Every round of new files is a job of its own, so that nothing is lost when the process dies.

What is known of a file is kept in the catalogue (`index.storage.watched_files`): the video that its content is, and
what is cheap to know of it. A file whose inode, size or times differ from that is read again, and its content decides.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any

from index.collection import Collection
from index.jobs.folder_watcher import Follower
from index.jobs.sources.source_types import FolderSource, source_dict
from index.jobs.watch_records import Say, Totals, Watch
from vitascope.model import Model

__all__ = ["Say", "Totals", "Watch", "summary", "watch"]


def watch(collection: Collection, model: Model, settings: Watch, say: Say) -> Totals:
    """Follow the folder until KeyboardInterrupt. Raises StorageError and what else ends a job."""
    follower = Follower(collection, model, settings, say)
    try:
        follower.finish_interrupted()
        while True:
            follower.look(monotonic())
            sleep(settings.interval)
    except KeyboardInterrupt:
        return follower.totals


def summary(collection: Collection, source: FolderSource, totals: Totals) -> dict[str, Any]:
    """The keys that indexing once has, and what went."""
    stats = collection.stats()
    return {
        "source": source_dict(source),
        "job": None,
        "resumed": [],
        "files": totals.added + totals.skipped + len(totals.failures),
        "added": totals.added,
        "skipped": totals.skipped,
        "failed": len(totals.failures),
        "failures": [{"file": item.path, "reason": item.reason} for item in totals.failures],
        "notes": [{"file": item.path, "note": item.reason} for item in totals.notes],
        "gone": totals.gone,
        "removed": totals.removed,
        "held_videos": totals.held,
        "held_reason": totals.held_reason,
        "away": [{"path": path, "reason": reason} for path, reason in totals.away.items()],
        "videos": stats.videos,
        "clips": stats.clips,
    }
