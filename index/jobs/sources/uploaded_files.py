"""Files that were handed over to be indexed by a job: they lie in the collection's folder until the job has ended, and
as long as a video plays from them.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from index.collection import Collection
from index.jobs.sources.source_types import Source, UploadSource
from index.storage.removals import MEDIA

PREFIX = "upload-"
_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{32}}\.[a-z0-9]{{1,8}}")


def is_held_name(name: str) -> bool:
    """Whether ``hold`` gives names like this one, which lead to no other folder."""
    return _NAME.fullmatch(name) is not None


def new_held_name(ending: str) -> str:
    """A name for a file that a job is to index; ``ending`` tells its kind, as "mp4"."""
    return f"{PREFIX}{uuid.uuid4().hex}.{ending}"


def held_path(source: UploadSource) -> str:
    """The path of the file of a job, as the catalogue names it."""
    return f"{MEDIA}/{source.held}"


def held_file(collection: Collection, source: Source) -> Path | None:
    """Where the file of a job of this source is; None for a job that no file was handed over with.

    Raises StorageError for a name that leads out of the collection's folder.
    """
    return collection.media.file(held_path(source)) if isinstance(source, UploadSource) else None
