"""Process that runs a job on a Ray cluster until the end, or until it is killed.

    python -m tests.index.integrations.ray.ray_job ROOT BUNDLE JOB_ID ADDRESS

Prints "N path" for every finished file, up to the one at which its worker hangs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from index.collection_store import CollectionStore
from index.integrations.ray import executor
from index.integrations.ray.executor import RayCluster, connect
from index.jobs.records import JobItem
from index.jobs.runner import run_job
from tests.index.integrations.ray.ray_workers import EndlessWorker
from vitascope.model import Model


def report(item: JobItem, done: int, total: int) -> None:
    print(done, item.path, flush=True)


def main() -> None:
    root, bundle, job_id, address = sys.argv[1:]
    executor.Worker = EndlessWorker
    cluster = RayCluster(actors=1, device="cpu")
    with connect(address), CollectionStore(Path(root)) as library:
        model = Model.open(bundle, threads=1, device="cpu")
        collection = library.open("videos")
        run_job(collection, model, int(job_id), on_item=report, config=cluster.config(), backend=cluster)


if __name__ == "__main__":
    main()
