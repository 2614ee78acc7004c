"""``python -m tests.service.swapping FILE``: the service with indexes that are renewed however small they are.

Every time it searches in another index than before, a byte is added to FILE.
"""

from __future__ import annotations

import sys

from index.vectors import faiss_index, faiss_kinds, snapshot
from service import run


class SwapCounter:
    """``FaissIndex._swap_in``, with the swaps it makes counted in a file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._swap_in = faiss_index.FaissIndex._swap_in

    def __call__(self, index: faiss_index.FaissIndex) -> None:
        before = index._current
        self._swap_in(index)
        if index._current is not before:
            with open(self._file, "ab") as file:
                file.write(b".")


if __name__ == "__main__":
    counter = SwapCounter(sys.argv[1])
    faiss_index.FaissIndex._swap_in = lambda self: counter(self)  # type: ignore[method-assign]
    faiss_kinds.MIN_CLIPS.update(dict.fromkeys(faiss_kinds.MIN_CLIPS, 0))
    faiss_index.MIN_CHANGED, faiss_index.RETRY_SECONDS, snapshot._POLL_SECONDS = 1, 0.0, 0.01
    raise SystemExit(run.main())
