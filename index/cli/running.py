"""A job run in this process, with a bar, and what its end means for the command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitascope.cli.output import ProgressBar
from vitascope.errors import Conflict

if TYPE_CHECKING:
    from index.collection import Collection
    from index.integrations.ray.executor import RayCluster
    from index.jobs.records import Job, JobItem
    from vitascope.model import Model


def run_here(
    collection: Collection, model: Model, job_id: int, *, cluster: RayCluster | None = None, quiet: bool = False
) -> Job:
    """Run the job until it ends or rests. Raises as ``run_job``."""
    from index.jobs.runner import run_job
    from index.jobs.sources.fetcher import file_name
    from index.jobs.sources.list_limits import read_list_limits

    limits = read_list_limits(os.environ)
    with ProgressBar("indexing", quiet=quiet) as steps:

        def on_item(item: JobItem, done: int, total: int) -> None:
            steps.update(done, total, file_name(item.path))

        if cluster is None:
            return run_job(collection, model, job_id, on_item=on_item, on_progress=steps.update, list_limits=limits)
        return run_job(
            collection, model, job_id, on_item=on_item, list_limits=limits, config=cluster.config(), backend=cluster
        )


def check_succeeded(job: Mapping[str, Any]) -> None:
    """Raise Conflict for a job, as JSON has it, that did not succeed as a whole."""
    if job["state"] != "succeeded":
        source = job["source"]
        name = next((source[key] for key in ("folder", "file", "url") if key in source), f"named {source['kind']}")
        why = f": {job['error']}" if job["error"] else ""
        raise Conflict(f"job {job['id']} of {name}: {job['state']}{why}")
