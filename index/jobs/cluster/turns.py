"""The Ray Data half: a stream of turns goes through a pool of workers, and results come out as they are ready.

A row that goes in is a turn, not a file: the worker that takes it draws a file at the desk. A turn that is lost with
its machine is therefore no loss, and nothing waits for one machine to come back.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from index.jobs.cluster.worker import Order, Result, Worker

_BLOCKS = 64
"""Pieces of the stream; what dies takes the turns of its piece along."""
_TURNS = 1000
"""In each piece."""
_log = logging.getLogger(__name__)


def results(order: Order, desk: Any, actors: int, gpus: int) -> Iterator[Result]:
    """What workers make of the files that they draw at ``desk``, until it is closed or the turns are used up.

    ``order.threads`` CPUs and ``gpus`` GPUs for each of ``actors`` workers; those that the cluster has no room for
    wait for it. What is lost with its machine does not come; the desk learns of it. Raises Ray's errors.
    """
    import ray.data

    with _settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray names nothing in place of ray_remote_args_fn
        turns = ray.data.from_items([{"turn": 0}] * (_TURNS * _blocks(actors)), override_num_blocks=_blocks(actors))
        made = turns.map_batches(
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
    """A turn that is tried again would draw another file, whose result Ray takes for one that it has already."""
    return {"max_task_retries": 0}


def _blocks(actors: int) -> int:
    return max(_BLOCKS, 4 * actors)


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
