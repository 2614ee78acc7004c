"""``python -m tests.service.swapping FILE``: the service with indexes that are renewed however small they are.

Every time it searches in another index than before, a byte is added to FILE.
"""

from __future__ import annotations

import sys

from index.vectors import faiss_index, faiss_kinds, snapshot_builder
from service import run


class SwapCounter:
    """``LiveIndex._take_up``, with the swaps it makes counted in a file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._take_up = faiss_index.LiveIndex._take_up

    def __call__(self, index: faiss_index.LiveIndex) -> None:
        before = index._state
        self._take_up(index)
        if index._state is not before:
            with open(self._file, "ab") as file:
                file.write(b".")


if __name__ == "__main__":
    counter = SwapCounter(sys.argv[1])
    faiss_index.LiveIndex._take_up = lambda self: counter(self)  # type: ignore[method-assign]
    faiss_kinds.LEAST.update(dict.fromkeys(faiss_kinds.LEAST, 0))
    faiss_index.LEAST_CHANGED, faiss_index.RETRY_SECONDS, snapshot_builder._LOOK_SECONDS = 1, 0.0, 0.01
    raise SystemExit(run.main())
