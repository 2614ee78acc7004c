"""A .npy file that grows row by row: for arrays of unknown length that do not fit in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class GrowingArray:
    """Rows of uint8 of one shape, appended to `path`; the file is a valid .npy file once closed."""

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._row_shape = row_shape
        self._count = 0
        self._file = open(path, "wb")  # noqa: SIM115  (closed by close())
        self._write_header()
        self._start = self._file.tell()

    def append(self, row: NDArray[np.uint8]) -> None:
        """Add one row. Raises ValueError when its shape or dtype is another."""
        if row.shape != self._row_shape or row.dtype != np.uint8:
            raise ValueError(f"row: {row.dtype} {row.shape}; uint8 {self._row_shape} was expected")
        self._file.write(np.ascontiguousarray(row).data)
        self._count += 1

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def close(self) -> None:
        """State the true number of rows in the header, which makes the file complete."""
        self._file.seek(0)
        self._write_header()
        # NumPy pads the header so that the first axis can grow in place; a longer one would overwrite rows.
        if self._file.tell() != self._start:
            raise RuntimeError(f"{self._file.name}: the header grew over the first row")
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
