"""``python -m tests.service.stalling N``: the service with a model that embeds N clips and then never ends.

So a test can kill it in the middle of a job, however fast the machine is.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

from service import run
from vitascope.model import Model


def stall_after(count: int, embed: Callable[..., Any]) -> Callable[..., Any]:
    """``embed``, which from the call after ``count`` on never returns."""
    calls = itertools.count(1)

    def stalling(*args: Any) -> Any:
        if next(calls) > count:
            threading.Event().wait()
        return embed(*args)

    return stalling


if __name__ == "__main__":
    Model.embed_video = stall_after(int(sys.argv[1]), Model.embed_video)  # type: ignore[method-assign]
    raise SystemExit(run.main())
