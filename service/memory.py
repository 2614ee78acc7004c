"""What the C library's allocator keeps of the memory that this process has freed."""

from __future__ import annotations

import ctypes

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
