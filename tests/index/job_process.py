"""A process of its own that runs a job until the end, or until it is killed.

    python -m tests.index.job_process ROOT BUNDLE JOB_ID [POISON]

Prints "N path" for every file that is done. Decoding the file named POISON kills the process, as a defect in a
codec or the kernel's out-of-memory killer does.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from index.jobs import pipeline
from index.jobs.jobs import JobItem, run_job
from index.library import Library
from vitascope.model import Model


def say(item: JobItem, done: int, total: int) -> None:
    print(done, item.path, flush=True)


def poisoned(name: str) -> Any:
    decode = pipeline.decode_clips

    def dying(model: Any, opened: Any, *arguments: Any, **options: Any) -> Any:
        if opened.file.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(model, opened, *arguments, **options)

    return dying


def main() -> None:
    root, bundle, job_id, *poison = sys.argv[1:]
    for name in poison:
        pipeline.decode_clips = poisoned(name)
    with Library(Path(root)) as library:
        model = Model.open(bundle, threads=1, device="cpu")
        run_job(library.open("videos"), model, int(job_id), on_item=say)


if __name__ == "__main__":
    main()
