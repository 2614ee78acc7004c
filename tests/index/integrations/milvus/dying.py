"""Processes that write to a collection in Milvus and die on the way.

    python -m tests.index.integrations.milvus.dying

For every line "FOLDER CALL WHEN" on standard input a process is forked, with Milvus's client loaded already. In the
collection FOLDER it adds videos 1 and 2, prints "acknowledged", deletes 1 where CALL is delete and else adds 3, and is
killed before or after, as WHEN says, that CALL of ``MilvusServer``. Its exit status is printed then.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pymilvus  # noqa: F401  # a second or two, once for all of them

from index.collection import Collection
from index.integrations.milvus.server import MilvusServer
from tests.index.milvus_server import be_patient
from tests.index.numbered import add, content
from tests.index.numbered_writer import say


def main() -> None:
    for line in sys.stdin:
        folder, call, when = line.split()
        process = os.fork()
        if process == 0:
            try:
                write_and_die(Path(folder), call, when)
            finally:
                os._exit(1)
        say(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])))


def write_and_die(folder: Path, call: str, when: str) -> None:
    be_patient()
    collection = Collection(folder)
    add(collection, 1, 2)
    say("acknowledged")
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


if __name__ == "__main__":
    main()
