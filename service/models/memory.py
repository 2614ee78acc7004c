"""Memory that a model has left behind."""

from __future__ import annotations

import ctypes

TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return what is free in this process to the system.

    The C library keeps most of what a model has freed: of 250 MB of the default bundle, 200 on glibc. Others have no
    such function, or need none.
    """
    if TRIM is not None:
        TRIM(0)
