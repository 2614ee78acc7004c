"""Frames of a packed corpus as memory-mapped arrays, <stream>.npy: uint8 (N, F, H, W, 3), or (N, C, F, H, W, 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.corpus import CorpusError
from vitascope.bundle.manifest import FrameStream


def open_arrays(folder: Path, info: Mapping[str, Any], streams: Sequence[FrameStream]) -> dict[str, NDArray[np.uint8]]:
    """Open the arrays of a split by stream; `info` is its pack.json. Raises CorpusError where one is missing."""
    arrays = {}
    for stream in streams:
        path = folder / f"{stream.name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: {error}; pack the corpus again") from error
        expected = (info["count"], *_row_shape(stream, info.get("clips", 1)))
        if array.shape != expected or array.dtype != np.uint8:
            raise CorpusError(f"{path}: {array.dtype} {array.shape}; uint8 {expected} was expected")
        arrays[stream.name] = array
    return arrays


def _row_shape(stream: FrameStream, clips: int) -> tuple[int, ...]:
    """Return the shape of an example on disk. A single clip has no axis, as in corpora packed by early versions."""
    shape = (stream.frames, stream.height, stream.width, 3)
    return shape if clips == 1 else (clips, *shape)


class ArrayWriter:
    """Writes the arrays of a split, complete once closed."""

    def __init__(self, folder: Path, streams: Sequence[FrameStream], clips: int) -> None:
        self._shapes = {stream.name: _row_shape(stream, clips) for stream in streams}
        self._files = ExitStack()
        self._arrays = {
            name: self._files.enter_context(GrowingArray(folder / f"{name}.npy", shape))
            for name, shape in self._shapes.items()
        }

    def append(self, frames: Mapping[str, NDArray[np.uint8]], _example: str) -> None:
        """Append the frames (C, F, H, W, 3) of an example."""
        for name, array in self._arrays.items():
            array.append(frames[name].reshape(self._shapes[name]))

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)


class GrowingArray:
    """A .npy file of uint8 rows of one shape, appended one by one; valid once closed."""

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._row_shape = row_shape
        self._count = 0
        self._file = open(path, "wb")  # noqa: SIM115  (closed by close())
        self._write_header()
        self._start = self._file.tell()

    def append(self, row: NDArray[np.uint8]) -> None:
        """Append a row. Raises ValueError for another shape or dtype."""
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
        """Write the number of rows to the header, which completes the file."""
        self._file.seek(0)
        self._write_header()
        # NumPy pads the header so that the first axis can grow in place; a longer one would overwrite rows.
        if self._file.tell() != self._start:
            raise RuntimeError(f"{self._file.name}: the header grew over the first row")
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
