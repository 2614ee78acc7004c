"""What the C library and Python do with the memory of this process."""

from __future__ import annotations

import ctypes
import gc

_C = ctypes.CDLL(None)
TRIM = getattr(_C, "malloc_trim", None)
_OPTION = getattr(_C, "mallopt", None)
_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""
ARENAS = 2


def use_few_arenas() -> None:
    """Let threads share ``ARENAS`` heaps; to be called before there are many.

    glibc gives up to eight a core, each of which keeps what it once held: with the service's threads memory would go on
    growing long after the load has stopped doing so. Other C libraries have no such option, or need none.
    """
    if TRIM is not None and _OPTION is not None:
        _OPTION(_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return what is free in this process to the system.

    The C library keeps most of what a model has freed: of 250 MB of the default bundle, 200 on glibc. Others have no
    such function, or need none.
    """
    if TRIM is not None:
        TRIM(0)


def set_aside() -> None:
    """Let Python's search for unreachable objects pass over those of now, which live as long as the process.

    There are more than 100,000 (routes, schemas, modules), and looking at all of them stops every thread for 70 ms,
    again and again while requests are served.
    """
    gc.collect()
    gc.freeze()
