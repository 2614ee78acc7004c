"""A Ray cluster for the time of a block: one that runs already, or one of this machine alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vitascope.errors import ClusterError, InvalidInput

LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Lets a cluster that is started here listen on 127.0.0.1 alone: whoever reaches its ports may run anything in it. Ray
reads it when it is imported.
"""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Join the cluster at ``address``: HOST:PORT, "auto" for the one that this machine belongs to, "local" for a new
    one. A connection that is there already is used and left alone.

    Raises InvalidInput, ModuleNotFoundError (package ray) and ClusterError.
    """
    if address.startswith("ray://"):
        raise InvalidInput(
            f"ray: {address!r} is for Ray clients; HOST:PORT, auto or local was expected, on a machine that belongs to "
            "the cluster (ray start --address=HOST:PORT --num-cpus=0)"
        )
    if address == "local":
        os.environ.setdefault(*LOOPBACK_ONLY)
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a cluster of others has a setting of its own
    dashboard = False if address == "local" else None
    try:
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"ray: {address!r}: no cluster can be joined there: {error} "
            "(one that asks for a token is joined with RAY_AUTH_MODE=token and its ~/.ray/auth_token)"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
