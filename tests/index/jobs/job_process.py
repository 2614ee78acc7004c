"""A process of its own that runs a job until the end, or until it is killed.

    python -m tests.index.jobs.job_process ROOT BUNDLE JOB_ID [--most N] [--poison NAME]

Prints "N path" for every finished file, and after ``--most`` of them waits to be killed. Decoding the file ``--poison``
kills the process, as a defect in a codec or the kernel's out-of-memory killer does.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

from index.collection_store import CollectionStore
from index.jobs import pipeline
from index.jobs.records import JobItem
from index.jobs.runner import OnItem, run_job
from vitascope.model import Model


def say(item: JobItem, done: int, total: int) -> None:
    print(done, item.path, flush=True)


def say_at_most(most: int) -> OnItem:
    """Report so many files, and then wait to be killed."""
    left = most

    def said(item: JobItem, done: int, total: int) -> None:
        nonlocal left
        say(item, done, total)
        left -= 1
        if not left:
            signal.pause()

    return said


def poisoned(name: str) -> Any:
    decode = pipeline.decode_clips

    def dying(model: Any, opened: Any, *arguments: Any, **options: Any) -> Any:
        if opened.description.path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(model, opened, *arguments, **options)

    return dying


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("job_id", type=int)
    parser.add_argument("--most", type=int, default=0)
    parser.add_argument("--poison")
    args = parser.parse_args()
    if args.poison:
        pipeline.decode_clips = poisoned(args.poison)
    with CollectionStore(args.root) as library:
        model = Model.open(args.bundle, threads=1, device="cpu")
        run_job(library.open("videos"), model, args.job_id, on_item=say_at_most(args.most))


if __name__ == "__main__":
    main()
