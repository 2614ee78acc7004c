"""Processes that write to a collection until they are killed.

    python -m tests.index.killed_processes [MODULE]

For every line "ACTION FOLDER ARGUMENT" on standard input a process is forked, before FAISS or any thread of ours has
run and with MODULE imported, so that a start costs milliseconds. Its output ends with a line "exit STATUS".
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, create_upload_job
from index.jobs.records import JobOptions
from index.transfer.reembed import _replace
from index.vectors import faiss_index
from tests.index.sample_data import add, add_file, content, new_video

ROOT = Path(__file__).parents[2]
CALLS = ("rename", "replace", "link", "mkdir", "fsync", "unlink", "rmdir")
"""Functions of ``os`` that change the file system."""
DIED = 9
"""Exit status of a process that died at a step."""
MAX_VIDEOS = 60
UPLOAD = "upload.mp4"
"""A file beside the folder of collections."""


class Processes:
    """Starts processes one after the other, and reads their output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout

    def start(self, action: str, folder: Path, argument: object) -> None:
        self._input.write(f"{action} {folder} {argument}\n")
        self._input.flush()

    def read_line(self) -> str:
        line = self._output.readline().strip()
        assert line, "the process that forks the others has ended"
        return line

    def run(self, action: str, folder: Path, step: int) -> bool:
        """Run an action until it is complete (True) or dies before this step, counted from 0 (False)."""
        self.start(action, folder, step)
        status = int(self.read_line().removeprefix("exit "))
        assert status in (0, DIED)
        return status == 0


@contextmanager
def killed_processes(*modules: str) -> Iterator[Processes]:
    """``modules``: imported before the forks."""
    command = [sys.executable, "-m", "tests.index.killed_processes", *modules]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield Processes(process)
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    for name in sys.argv[1:]:
        import_module(name)
    for line in sys.stdin:
        action, folder, argument = line.split()
        process = os.fork()
        if process == 0:
            status = 1
            try:
                ACTIONS[action](Path(folder), argument)
                status = 0
            finally:
                os._exit(status)
        print_line(f"exit {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}")


def print_line(line: str) -> None:
    """Write a line at once, so that a killed process leaves no part of one."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def die_at(step: int, collection: Collection | None = None) -> None:
    """Die before this call to the file system, or SQL statement of ``collection``, counted from 0."""
    numbers = itertools.count()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **options: Any) -> Any:
            if next(numbers) == step:
                os._exit(DIED)
            return call(*arguments, **options)

        return dying

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    if collection is not None:
        collection.catalogue._writer.set_trace_callback(counted(lambda _: None))


# Actions on the collection `videos` of the store in a folder; they die at a step.


def add_upload(collection: Collection) -> None:
    """Add video 1 with the uploaded file."""
    add_file(collection, 1, collection.folder.parents[1] / UPLOAD)


def delete_first(collection: Collection) -> None:
    collection.delete_video(collection.videos()[0].id)


def queue_upload(collection: Collection) -> None:
    """Create a job for the uploaded file."""
    file = collection.folder.parents[1] / UPLOAD
    create_upload_job(collection, file, "mp4", name="a.mp4", title="a", options=JobOptions())


def cancel_first(collection: Collection) -> None:
    cancel(collection, 1)


def dying(action: Callable[[Collection], None]) -> Callable[[Path, str], None]:
    def run(folder: Path, step: str) -> None:
        collection = CollectionStore(folder).open("videos")
        die_at(int(step), collection)
        action(collection)

    return run


def replace_collection(folder: Path, step: str) -> None:
    """Replace collection `videos` by `videos-next`."""
    library = CollectionStore(folder)
    old, new = library.open("videos"), library.open("videos-next")
    die_at(int(step))
    assert _replace(library, old, new, set())


def open_as_service(folder: Path, step: str) -> None:
    """Open the collections of a data folder, which upgrades them."""
    die_at(int(step))
    CollectionStore(folder / "collections", holds_lock=True)


# Actions that are killed from outside, or at a call to Milvus


def add_and_delete(folder: Path, first: str) -> None:
    """Print "ready PID", then "+N ID" for each added video, "?N" before and "-N" after each deletion; never end."""
    faiss_index.MIN_CHANGED = 20  # so that kills also meet snapshots being written
    collection = CollectionStore(folder).open("videos")
    print_line(f"ready {os.getpid()}")
    for number in range(int(first), int(first) + MAX_VIDEOS):
        print_line(f"+{number} {collection.add_video(*new_video(number)).id}")
        if number % 4 == 3:
            video = collection.find_by_hash(content(number - 2))
            assert video is not None
            print_line(f"?{number - 2}")
            collection.delete_video(video.id)
            print_line(f"-{number - 2}")
    signal.pause()


def write_to_milvus(folder: Path, argument: str) -> None:
    """Add videos 1 and 2, then delete 1 or add 3; be killed "before" or "after" that call of ``MilvusServer``."""
    from index.integrations.milvus.server import MilvusServer
    from tests.index.milvus_server import extend_timeouts

    extend_timeouts()
    when, call = argument.split(":")
    collection = Collection(folder)
    add(collection, 1, 2)
    print_line("acknowledged")
    whole = getattr(MilvusServer, call)

    def die(*arguments: object) -> None:
        if when == "after":
            whole(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(MilvusServer, call, die)
    if call == "delete":
        video = collection.find_by_hash(content(1))
        assert video is not None
        collection.delete_video(video.id)
    else:
        add(collection, 3)


ACTIONS: dict[str, Callable[[Path, str], None]] = {
    "add": dying(add_upload),
    "delete": dying(delete_first),
    "queue": dying(queue_upload),
    "cancel": dying(cancel_first),
    "replace": replace_collection,
    "upgrade": open_as_service,
    "write": add_and_delete,
    "milvus": write_to_milvus,
}

if __name__ == "__main__":
    main()
