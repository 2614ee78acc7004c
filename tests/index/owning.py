"""Processes that let files of a collection's own come or go, and die on the way.

    python -m tests.index.owning

For every line "ROOT ACTION STEP" on standard input a process is forked that does the action in the library ROOT and
dies, as by SIGKILL, before the call to the file system or the SQL statement of number STEP, counted from 0. Its exit
status is printed: 0 where the action took fewer of them and is done.
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, create_upload_job
from index.jobs.records import JobOptions
from tests.index.numbered import new_video
from tests.index.transfer.switching import CALLS, counted

CONTENT = b"a film"
GIVEN = "given.mp4"
"""Beside the library: the file that is handed over."""


def add(collection: Collection) -> None:
    """Add video number 1 with the file that is handed over."""
    video, clips = new_video(1)
    path = f"media/{video.content_sha256}.mp4"
    collection.add_if_new(replace(video, path=path), clips, collection.folder.parents[1] / GIVEN)


def delete(collection: Collection) -> None:
    """Delete the first video."""
    collection.delete_video(collection.videos()[0].id)


def hold(collection: Collection) -> None:
    """Begin a job with the file that is handed over."""
    file = collection.folder.parents[1] / GIVEN
    create_upload_job(collection, file, "mp4", name="a.mp4", title="a", options=JobOptions())


def end(collection: Collection) -> None:
    """Cancel the first job."""
    cancel(collection, 1)


ACTIONS = {"add": add, "delete": delete, "hold": hold, "end": end}


def main() -> None:
    for line in sys.stdin:
        root, action, step = line.split()
        process = os.fork()
        if process == 0:
            act(Path(root), action, int(step))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def act(root: Path, action: str, step: int) -> None:
    """Never returns."""
    status = 1
    try:
        collection = CollectionStore(root).open("videos")
        numbers = itertools.count()
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), numbers, step))
        collection.catalogue._writer.set_trace_callback(counted(lambda _: None, numbers, step))
        ACTIONS[action](collection)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
