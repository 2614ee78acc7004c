"""Memory settings of the C library and of Python's garbage collector."""

from __future__ import annotations

import ctypes
import gc

_C = ctypes.CDLL(None)
TRIM = getattr(_C, "malloc_trim", None)
_OPTION = getattr(_C, "mallopt", None)
_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""
ARENAS = 2


def limit_arenas() -> None:
    """Let threads share ``ARENAS`` heaps; call it before there are many threads.

    glibc creates up to eight a core, each of which keeps its largest size, so that memory grew with the service's
    threads long after the load had stopped growing. Other C libraries have no such option.
    """
    if TRIM is not None and _OPTION is not None:
        _OPTION(_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Return free memory to the system.

    Of the 250 MB of the default bundle, glibc keeps 200 after the model was freed. Other C libraries have no such
    function.
    """
    if TRIM is not None:
        TRIM(0)


def freeze_gc() -> None:
    """Exclude the objects that exist now from garbage collection.

    More than 100,000 live as long as the process (routes, schemas, modules); a full collection would stop all
    threads for 70 ms.
    """
    gc.collect()
    gc.freeze()
