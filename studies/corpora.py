"""The study's corpora: the packed corpora with smaller pictures, and versions of them for single claims.

STUDY/corpora/<geometry>/<corpus>/<split>/ in the format of `training.data.packed`. Test splits of scenes contain the
first `TEST` examples.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.data.example import Example
from training.data.packed import EXAMPLES_NAME, PACK_NAME, Packed, open_packed, write_packed
from training.data.scenes.generate import ORIGIN, read_scenes
from vitascope.bundle.bundle import file_sha256
from vitascope.bundle.manifest import FrameStream

HIGH, LOW = 128, 64
"""Sides in pixels of the study's high-resolution and low-resolution frames."""
SCENES, TEST = 4000, 500
BATCH = 32
"""Videos per step."""
SHARES = {"1": 0.01, "10": 0.1, "100": 1.0}
"""Percent of the labels, as in the names of corpora and arms."""


def geometry(high: int, low: int) -> tuple[FrameStream, ...]:
    """Return the two frame streams of a model; `high`, `low`: sides of their pictures in pixels."""
    return (
        FrameStream(name="high", frames=1, height=high, width=high, placement="middle"),
        FrameStream(name="low", frames=6, height=low, width=low, placement="uniform"),
    )


DEPTH = FrameStream(name="depth", frames=1, height=LOW, width=LOW, placement="middle", track=1)
GEOMETRIES = {
    "hybrid": geometry(HIGH, LOW),
    "low": geometry(LOW, LOW),
    "high": geometry(HIGH, HIGH),
    "depth": (*geometry(HIGH, LOW), DEPTH),
}


def prepare(packed: Path, sources: Mapping[str, Path], out: Path, corpora: Iterable[tuple[str, str]]) -> None:
    """Write the corpora that do not exist yet.

    Args:
        packed: Folder of packed corpora.
        sources: Output folders of the scenes generator by name of the corpus. Their files are decoded again, because
            packed frames are smaller than the largest of the study.
        out: Folder of the study's corpora.
        corpora: Names of geometries and corpora.
    """
    parts: dict[str, Callable[[Path], Packed]] = {"scenes_spoken": _spoken}
    parts |= {f"scenes_{percent}": partial(_first, share) for percent, share in SHARES.items()}
    for name, corpus in sorted(corpora):
        folder, whole = out / name / corpus, "scenes" if corpus in parts else corpus
        for split in ("train", "test"):
            if whole in sources:
                _decode(out / name / whole / split, GEOMETRIES[name], sources[whole], split)
            else:
                _write(folder / split, partial(_shrunk, packed / corpus / split))
        if corpus in parts:
            _write(folder / "train", partial(parts[corpus], folder.with_name(whole) / "train"))


def _decode(folder: Path, streams: Sequence[FrameStream], source: Path, split: str) -> None:
    """Pack a split of scenes, with their sound if they have any, unless it is already packed."""
    if not folder.exists():
        items = islice(read_scenes(source, split), SCENES if split == "train" else TEST)
        write_packed(folder, streams, items, ORIGIN, workers=2, audio=folder.parent.name == "sound_scenes")


def _write(folder: Path, make: Callable[[], Packed]) -> None:
    """Write a split atomically, unless it exists."""
    if folder.exists():
        return
    resized = make()
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, array in resized.arrays.items():
        np.save(part / f"{name}.npy", array)
    (part / EXAMPLES_NAME).write_text("".join(example.to_json() + "\n" for example in resized.examples), "utf-8")
    info = dict(resized.info) | {
        "streams": [stream.model_dump() for stream in resized.streams],
        "count": len(resized.examples),
        "examples_sha256": file_sha256(part / EXAMPLES_NAME),
    }
    (part / PACK_NAME).write_text(json.dumps(info, indent=1) + "\n", "utf-8")
    part.rename(folder)


def _shrunk(folder: Path) -> Packed:
    """Return a split of pictures, resized to the study's sizes with antialiasing."""
    packed = open_packed(folder)
    streams = tuple(s.model_copy(update={"frames": 1}) for s in GEOMETRIES["hybrid"])
    arrays = {}
    for stream in streams:
        frames = packed.arrays[stream.name]
        parts = [_resized(frames[i : i + 64], stream.height) for i in range(0, len(frames), 64)]
        arrays[stream.name] = np.concatenate(parts)
    return replace(packed, streams=streams, arrays=arrays)


def _resized(frames: np.ndarray, side: int) -> np.ndarray:
    pixels = torch.from_numpy(np.array(frames[:, 0])).permute(0, 3, 1, 2).float()
    small = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
    out: np.ndarray = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()[:, None]
    return out


def _first(share: float, folder: Path) -> Packed:
    """Return the first examples of a split, at least as many as a step needs."""
    packed = open_packed(folder)
    count = max(round(share * len(packed)), BATCH)
    arrays = {name: array[:count] for name, array in packed.arrays.items()}
    return replace(packed, arrays=arrays, examples=packed.examples[:count])


def _spoken(folder: Path) -> Packed:
    """Replace captions by the transcript of each video: partial, shifted, and often off topic."""
    packed = open_packed(folder)
    rows = [row for row, example in enumerate(packed.examples) if example.transcript]
    examples = [Example(key=packed.examples[row].key, captions=(packed.examples[row].spoken,)) for row in rows]
    return replace(packed, arrays={name: array[rows] for name, array in packed.arrays.items()}, examples=examples)
