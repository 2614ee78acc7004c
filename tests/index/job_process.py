"""A process of its own that runs a job until the end, or until it is killed.

    python -m tests.index.job_process ROOT BUNDLE JOB_ID

Prints "N path" for every file that is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

from index.jobs import JobItem, run_job
from index.library import Library
from vitascope.model import Model


def say(item: JobItem, done: int, total: int) -> None:
    print(done, item.path, flush=True)


def main() -> None:
    root, bundle, job_id = sys.argv[1:]
    with Library(Path(root)) as library:
        model = Model.open(bundle, threads=1, device="cpu")
        run_job(library.open("videos"), model, int(job_id), on_item=say)


if __name__ == "__main__":
    main()
