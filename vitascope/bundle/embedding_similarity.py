"""How alike two bundles see the same texts and the same pictures and videos.

Shape letters: T texts, P pictures and videos, D vector width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitascope.errors import InvalidInput
from vitascope.model import Floats, Model

TEXTS = (
    *("a dog", "a man rides a bicycle down a hill", "two children play football on a beach at sunset"),
    *("someone cuts onions in a kitchen", "a red square moves to the left", "an empty street at night in the rain"),
    *("a crowd at a concert raises its hands", "an aeroplane takes off", "a close-up of a woman who laughs"),
    *("a cat jumps onto a table and a glass falls", "a page with text and a diagram", "snow on a mountain"),
)
"""What is asked of both where nothing else is named."""
PICTURES = 8
_SIDE = 224


def compare_vectors(
    before: Model, after: Model, texts: Sequence[str] = TEXTS, files: Sequence[Path] | None = None
) -> dict[str, Any]:
    """``texts``, ``pictures``: how alike the vectors of both are, as cosines: count, ``mean``, ``least`` and what it
    is ``of``; null where the widths differ, and vectors cannot be compared. ``first``: for how many texts both find the
    same picture first, [that many, of all].

    ``files``: pictures and videos; by default pictures that are drawn for it. Raises InvalidInput, TextError, media
    errors and EngineError.
    """
    if not texts:
        raise InvalidInput("texts: none; at least one was expected")
    with tempfile.TemporaryDirectory(prefix="vitascope-pictures-") as folder:
        shown = _drawn(Path(folder)) if files is None else list(files)
        said = [model.embed_text(texts) for model in (before, after)]
        seen = [np.concatenate([model.embed_file(file).vectors for file in shown]) for model in (before, after)]
    found = [(t @ p.T).argmax(axis=1) for t, p in zip(said, seen, strict=True)]
    return {
        "texts": _cosines(said, list(texts)),
        "pictures": _cosines(seen, [file.name for file in shown]),
        "first": [int((found[0] == found[1]).sum()), len(texts)],
    }


def _cosines(vectors: Sequence[Floats], names: Sequence[str]) -> dict[str, Any] | None:
    a, b = (one.astype(np.float64) for one in vectors)  # (T or P, D) of length 1
    if a.shape != b.shape:
        return None
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    worst = int(cosines.argmin())
    return {
        "count": len(names),
        "mean": float(cosines.mean()),
        "least": float(cosines[worst]),
        "of": names[worst],
    }


def _drawn(folder: Path) -> list[Path]:
    """Pictures of soft colours and edges, the same every time; noise alone is all one to a model."""
    rng, files = np.random.default_rng(0), []
    for number in range(PICTURES):
        patches = rng.integers(0, 256, (2 + number, 2 + number, 3), dtype=np.uint8)
        kind = Image.Resampling.BICUBIC if number % 2 else Image.Resampling.NEAREST
        file = folder / f"drawn-{number + 1}.png"
        Image.fromarray(patches).resize((_SIDE, _SIDE), kind).save(file, compress_level=1)
        files.append(file)
    return files
