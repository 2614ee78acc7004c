"""Process that runs a job until the end, or until it is killed.

    python -m tests.index.jobs.job_process ROOT BUNDLE JOB_ID [--stop-after N] [--poison NAME] [--recognition MODULE]

Prints "N path" for every finished file, and after ``--stop-after`` of them waits to be killed. Decoding the file
``--poison`` kills the process, as a defect in a codec or the kernel's out-of-memory killer does. ``--recognition``: the
module of recognition processes.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

from index.collection_store import CollectionStore
from index.jobs import pipeline
from index.jobs.recognition import JobRecognition
from index.jobs.records import JobItem
from index.jobs.runner import run_job
from vitascope.model import Model
from vitascope.sandbox.recognition import MODULE
from vitascope.sandbox.recognizers import Recognizers


def poisoned(name: str) -> Any:
    decode = pipeline.decode_clips

    def decode_or_die(model: Any, prepared: Any, *arguments: Any, **options: Any) -> Any:
        if prepared.description.path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(model, prepared, *arguments, **options)

    return decode_or_die


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("job_id", type=int)
    parser.add_argument("--stop-after", type=int, default=0)
    parser.add_argument("--poison")
    parser.add_argument("--recognition", default=MODULE)
    args = parser.parse_args()
    if args.poison:
        pipeline.decode_clips = poisoned(args.poison)
    reported = 0

    def report(item: JobItem, done: int, total: int) -> None:
        nonlocal reported
        print(done, item.path, flush=True)
        reported += 1
        if reported == args.stop_after:
            signal.pause()

    with CollectionStore(args.root) as library:
        model = Model.open(args.bundle, threads=1, device="cpu")
        with Recognizers({}, module=args.recognition) as recognizers:
            recognition = JobRecognition(recognizers)
            run_job(library.open("videos"), model, args.job_id, on_item=report, recognition=recognition)


if __name__ == "__main__":
    main()
