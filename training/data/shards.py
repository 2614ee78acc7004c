"""Frames and sound of a packed corpus as JPEG and FLAC in tar shards (WebDataset), about a tenth of the size of arrays.

<split>/
    frames-00000.tar ...   for each clip KEY.<stream>.jpg, its frames stacked vertically, and KEY.json, the example;
                           with the first clip KEY.flac, if the example has sound
    frames.npy             int64 (N, C, S, 3): shard, first byte and number of bytes of each JPEG;
                           in a corpus with sound (N, C, S + 1, 3): the last stream is the FLAC, zeros without sound

KEY is the row in `examples.jsonl`; with several clips also the clip: 000000012_00003. With `frames.npy`, rows can be
read in any order, so that batches are the same as with arrays. Other readers of WebDataset read the shards in order and
do not need the index.

Shape letters: N examples, C clips, S streams, F frames, H height, W width (pixels).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.audio import Samples, decode_flac, encode_flac
from training.data.corpus import CorpusError
from vitascope.bundle.manifest import FrameStream

INDEX_NAME = "frames.npy"
SHARD_BYTES = 2**28
"""A new shard begins when the current one has at least this size."""
JPEG_QUALITY = 90
"""From 1 to 100; at 90 the mean error of a pixel is below 3 of 255."""


class ShardWriter:
    """Writes the shards of a split, and on closing their index."""

    def __init__(self, folder: Path, streams: Sequence[FrameStream], clips: int, audio: bool) -> None:
        self.folder, self.streams, self.clips, self.audio = folder, streams, clips, audio
        self._tar: tarfile.TarFile | None = None
        self._shards = 0
        self._index: list[list[list[tuple[int, int, int]]]] = []

    def append(self, frames: Mapping[str, NDArray[np.uint8]], audio: Samples | None, example: str) -> None:
        """Append an example.

        Args:
            frames: (C, F, H, W, 3) by stream.
            audio: Sound (n,) of the example; None: no sound.
            example: The example as JSON.
        """
        row = len(self._index)
        tar = self._shard()
        places = []
        for clip in range(self.clips):
            key = f"{row:09d}" if self.clips == 1 else f"{row:09d}_{clip:05d}"
            places.append([self._add(tar, f"{key}.{s.name}.jpg", _encode(frames[s.name][clip])) for s in self.streams])
            if self.audio:
                sound = None if clip else audio
                places[-1].append((0, 0, 0) if sound is None else self._add(tar, f"{key}.flac", encode_flac(sound)))
            self._add(tar, f"{key}.json", example.encode())
        self._index.append(places)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tar is not None:
            self._tar.close()
        if kind is None:
            np.save(self.folder / INDEX_NAME, np.array(self._index, dtype=np.int64))

    def _shard(self) -> tarfile.TarFile:
        """Return the current shard; all clips of an example are in one shard."""
        if self._tar is None or self._tar.offset >= SHARD_BYTES:
            if self._tar is not None:
                self._tar.close()
            path = self.folder / f"frames-{self._shards:05d}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed by __exit__)
            self._shards += 1
        return self._tar

    def _add(self, tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int, int]:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        first = tar.offset - tarfile.BLOCKSIZE * -(-len(data) // tarfile.BLOCKSIZE)
        return self._shards - 1, first, len(data)


def _encode(frames: NDArray[np.uint8]) -> bytes:
    """Return frames (F, H, W, 3), stacked vertically, as JPEG."""
    out = io.BytesIO()
    # Subsample chroma horizontally only: vertical subsampling would mix the colours of adjacent frames at their edges.
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(out, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2")
    return out.getvalue()


@dataclass(frozen=True)
class ShardedFrames:
    """The frames of a stream in shards, indexed like an array (N, C, F, H, W, 3); indexing reads and decodes them."""

    shards: Sequence[Path]
    index: NDArray[np.int64]
    """(N, C, 3) as in `frames.npy`."""
    stream: FrameStream

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.index.shape[:2], self.stream.frames, self.stream.height, self.stream.width, 3)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Return frames by an index of rows, or a tuple of rows, clips and further axes, as in NumPy."""
        axes = key if isinstance(key, tuple) else (key,)
        places = self.index[axes[:2]]
        shape = places.shape[:-1]
        frames = [self._decode(*place) for place in places.reshape(-1, 3).tolist()]
        decoded = np.array(frames, dtype=np.uint8).reshape(*shape, *self.shape[2:])
        return decoded[(*[slice(None)] * len(shape), *axes[2:])]

    def _decode(self, shard: int, first: int, size: int) -> NDArray[np.uint8]:
        path = self.shards[shard]
        try:
            frames = np.asarray(Image.open(io.BytesIO(_read(path, first, size))))
            return frames.reshape(self.shape[2:])
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: byte {first}: {error}; pack the corpus again") from error


@dataclass(frozen=True)
class ShardedAudio:
    """The sounds of a split in shards. `audio[row]` is int16 (n,), empty if the example has no sound."""

    shards: Sequence[Path]
    index: NDArray[np.int64]
    """(N, 3) as in `frames.npy`."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Samples:
        shard, first, size = self.index[row].tolist()
        if not size:
            return np.empty(0, np.int16)
        path = self.shards[shard]
        try:
            return decode_flac(_read(path, first, size))
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: byte {first}: {error}; pack the corpus again") from error


def _read(path: Path, first: int, size: int) -> bytes:
    with path.open("rb") as file:  # opened for each read, since loader processes must not share a file position
        file.seek(first)
        return file.read(size)


def open_shards(
    folder: Path, names: Sequence[str], streams: Sequence[FrameStream], audio: bool
) -> tuple[dict[str, ShardedFrames], ShardedAudio | None]:
    """Open the shards of a split: frames by stream, and sounds if `audio`.

    Raises CorpusError if the index or a shard is missing or too short.
    """
    path = folder / INDEX_NAME
    try:
        index = np.load(path, mmap_mode="r")
        shards = [folder / name for name in names if name != INDEX_NAME]
        for number, shard in enumerate(shards):
            of_shard = index[index[..., 0] == number]
            expected = int(of_shard[:, 1:].sum(axis=1).max(initial=0))
            if shard.stat().st_size < expected:
                raise CorpusError(f"{shard}: {shard.stat().st_size} bytes; at least {expected} were expected")
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: {error}; pack the corpus again") from error
    frames = {s.name: ShardedFrames(shards, index[:, :, i], s) for i, s in enumerate(streams)}
    return frames, ShardedAudio(shards, index[:, 0, len(streams)]) if audio else None
