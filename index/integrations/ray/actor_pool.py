"""The Ray Data half: shifts go to a pool of workers, and the results of files come out as they are ready.

A row that goes in is a shift, not a file: the worker that takes it draws file after file at the desk. A shift that is
lost with its machine is therefore no loss, and no file waits for one machine to come back.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from index.integrations.ray.worker import Order, Result, Worker

_SPARE = 60
"""Shifts beyond one for each worker; every death of a worker uses up one."""
_log = logging.getLogger(__name__)


def results(order: Order, desk: Any, actors: int, gpus: int) -> Iterator[Result]:
    """What workers make of the files that they draw at ``desk``, until it is closed or the shifts are used up.

    ``order.threads`` CPUs and ``gpus`` GPUs for each of ``actors`` workers; those that the cluster has no room for
    wait for it. What is lost with its machine does not come; the desk learns of it. Raises Ray's errors.
    """
    import ray.data

    with _settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray names nothing in place of ray_remote_args_fn
        count = actors + _SPARE
        shifts = ray.data.from_items([{"shift": number} for number in range(count)], override_num_blocks=count)
        made = shifts.map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            fn_constructor_args=(order, desk),
            num_cpus=order.threads,
            num_gpus=gpus,
            ray_remote_args_fn=_not_again,
        )
    for bundle in made.iter_internal_ref_bundles():
        for reference in bundle.block_refs:
            try:
                table = ray.get(reference)
            except ray.exceptions.RayError as error:
                _log.warning("a result is lost: %s", error)
                continue
            for cell in table["result"]:
                yield pickle.loads(cell.as_py())


def _not_again() -> dict[str, Any]:
    """A shift that is tried again would draw other files, whose results Ray takes for those that it has already."""
    return {"max_task_retries": 0}


@contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's settings, which a data set keeps from when it is made."""
    import ray.data

    context = ray.data.DataContext.get_current()
    wanted = {
        "target_max_block_size": 1,  # every result leaves as soon as it is there
        "max_errored_blocks": -1,  # the desk knows what was lost with a worker
        "execution_no_progress_timeout_s": -1,  # a worker may wait for its next file
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # each death with a traceback; its item says it shorter
    try:
        for name in before:
            setattr(context, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
