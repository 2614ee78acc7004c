"""Frames and sound of a packed corpus as memory-mapped arrays.

<stream>.npy: uint8 (N, F, H, W, 3), or (N, C, F, H, W, 3). audio.npy: int16 (T,), the concatenated sounds of all
examples. audio_index.npy: int64 (N, 2), the index of the first sample and the number of samples (0: no sound) of each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from training.data.corpus import CorpusError
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import StorageError


def create_array(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.memmap[Any, Any]:
    """Create a memory-mapped array on disk. Its space is reserved first, since a full disk would kill the process.

    Raises StorageError.
    """
    try:
        array = open_memmap(path, "w+", kind, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    return array


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


AUDIO_NAME, AUDIO_INDEX_NAME = "audio.npy", "audio_index.npy"


@dataclass(frozen=True)
class AudioArray:
    """The sounds of a split. `audio[row]` is int16 (n,), empty if the example has no sound."""

    samples: NDArray[np.int16]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> NDArray[np.int16]:
        first, count = self.index[row]
        return self.samples[first : first + count]


def open_audio(folder: Path, count: int) -> AudioArray:
    """Open the sounds of a split of `count` examples. Raises CorpusError if the files are missing or inconsistent."""
    path = folder / AUDIO_NAME
    try:
        index = np.load(folder / AUDIO_INDEX_NAME)
        # NumPy cannot map an empty array.
        samples = np.load(path, mmap_mode="r" if index[:, 1].any() else None)
    except (OSError, ValueError, IndexError) as error:
        raise CorpusError(f"{path}: {error}; pack the corpus again") from error
    expected = int(index.sum(axis=1).max(initial=0))
    if len(index) != count or samples.dtype != np.int16 or samples.ndim != 1 or len(samples) < expected:
        raise CorpusError(
            f"{path}: {samples.dtype} {samples.shape} for {len(index)} examples; at least {expected} samples (int16) "
            f"for {count} examples were expected"
        )
    return AudioArray(samples, index)


def _row_shape(stream: FrameStream, clips: int) -> tuple[int, ...]:
    """Return the shape of an example on disk. There is no clip axis for a single clip, as in early versions."""
    shape = (stream.frames, stream.height, stream.width, 3)
    return shape if clips == 1 else (clips, *shape)


class ArrayWriter:
    """Writes the arrays of a split. The files are valid after closing."""

    def __init__(self, folder: Path, streams: Sequence[FrameStream], clips: int, audio: bool) -> None:
        self._folder = folder
        self._shapes = {stream.name: _row_shape(stream, clips) for stream in streams}
        self._files = ExitStack()
        self._arrays = {
            name: self._files.enter_context(GrowingArray(folder / f"{name}.npy", shape))
            for name, shape in self._shapes.items()
        }
        self._audio = self._files.enter_context(GrowingArray(folder / AUDIO_NAME, (), np.int16)) if audio else None
        self._audio_index: list[tuple[int, int]] = []

    def append(self, frames: Mapping[str, NDArray[np.uint8]], audio: NDArray[np.int16] | None, _example: str) -> None:
        """Append the frames (C, F, H, W, 3) and the sound (n,) of an example."""
        for name, array in self._arrays.items():
            array.extend(frames[name].reshape(1, *self._shapes[name]))
        if self._audio is not None:
            samples = np.empty(0, np.int16) if audio is None else audio
            self._audio_index.append((len(self._audio), len(samples)))
            self._audio.extend(samples)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._files.__exit__(kind, *error)
        if kind is None and self._audio is not None:
            np.save(self._folder / AUDIO_INDEX_NAME, np.array(self._audio_index, np.int64).reshape(-1, 2))


class GrowingArray:
    """A .npy file to which rows of one shape are appended. The file is valid after closing."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: type[np.generic] = np.uint8) -> None:
        self._row_shape, self._dtype = row_shape, np.dtype(dtype)
        self._count = 0
        self._file = open(path, "wb")  # noqa: SIM115  (closed by close())
        self._write_header()
        self._start = self._file.tell()

    def __len__(self) -> int:
        return self._count

    def extend(self, rows: NDArray[Any]) -> None:
        """Append rows. Raises ValueError for another shape or dtype."""
        if rows.shape[1:] != self._row_shape or rows.dtype != self._dtype:
            raise ValueError(f"rows: {rows.dtype} {rows.shape[1:]}; {self._dtype} {self._row_shape} was expected")
        self._file.write(np.ascontiguousarray(rows).data)
        self._count += len(rows)

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
        # NumPy pads the header so that the first axis can grow in place. A longer header would overwrite rows.
        if self._file.tell() != self._start:
            raise RuntimeError(f"{self._file.name}: the header grew over the first row")
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
