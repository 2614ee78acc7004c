"""A picture of SOHO's visual dictionary: the image patches nearest to each entry.

Shape letters: N examples, V visual tokens, D width, K entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from training import checkpoint
from training.data.packed import open_packed
from training.models.soho import Soho, usage_of
from vitascope.errors import InvalidInput

BATCH = 32
PATCH = 64
"""Side of a patch in the picture, in pixels."""


def draw_dictionary(
    folder: Path, data: Path, corpus: str, picture: Path, *, split: str = "val", entries: int = 24, patches: int = 12
) -> dict[str, Any]:
    """Draw the patches of a split that are nearest to each dictionary entry: one row per entry, the most used first.

    A patch is twice as wide as the cell of a visual token.

    Args:
        folder: SOHO checkpoint.
        data, corpus, split: Folder of packed corpora, name of the corpus, and its split.
        picture: Image file to write.
        entries: Maximum number of entries.
        patches: Number of patches per entry.

    Returns:
        Statistics of the dictionary, for printing.

    Raises:
        InvalidInput: The model has no dictionary.
    """
    model = checkpoint.load(folder).model.eval()
    if not isinstance(model, Soho):
        raise InvalidInput(f"{folder}: holds {model.cfg.architecture}; a SOHO checkpoint was expected")
    if not model.video.has_dictionary:
        raise InvalidInput(f"{folder}: entries: 0 in its config; a SOHO checkpoint with a dictionary was expected")
    high = open_packed(data / corpus / split).frames("high")
    frames = high[:, :, 0].reshape(-1, *high.shape[3:])  # (N * C, H, W, 3)
    indices, distances = _assign(model, frames)
    counts = np.bincount(indices.ravel(), minlength=model.cfg.entries)
    rows, columns = model.cfg.grid_height, model.cfg.grid_width
    most_used = [int(entry) for entry in np.argsort(-counts, kind="stable")[:entries] if counts[entry]]
    canvas = np.full((len(most_used) * (PATCH + 4), patches * (PATCH + 4), 3), 255, np.uint8)
    for line, entry in enumerate(most_used):
        places = np.argwhere(indices == entry)
        nearest = places[np.argsort(distances[indices == entry], kind="stable")[:patches]]
        for column, (example, token) in enumerate(nearest):
            y, x = line * (PATCH + 4), column * (PATCH + 4)
            patch = _patch(frames[example], int(token) // columns, int(token) % columns, (rows, columns))
            canvas[y : y + PATCH, x : x + PATCH] = patch
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(picture)
    used = usage_of(torch.from_numpy(counts))
    return {
        "picture": str(picture),
        "corpus": f"{corpus}/{split}",
        "entries": model.cfg.entries,
        "entries used": int(used["entries used"]),
        "perplexity": round(used["perplexity"], 2),
        "shown": [{"entry": entry, "tokens": int(counts[entry])} for entry in most_used],
    }


@torch.no_grad()
def _assign(model: Soho, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest entry of every token and the squared distance to it, both (N * C, V)."""
    indices, distances = [], []
    for start in range(0, len(frames), BATCH):
        pixels = torch.from_numpy(np.array(frames[start : start + BATCH]))[:, None]
        features = model.video.reduce(model.video.features({"high": pixels}))  # (n, V, D)
        quantised = model.video.dictionary(features.flatten(0, 1))
        gap = (features.flatten(0, 1) - model.video.dictionary.entries[quantised.indices]).pow(2).sum(dim=-1)
        indices.append(quantised.indices.reshape(features.shape[:2]).numpy())
        distances.append(gap.reshape(features.shape[:2]).numpy())
    return np.concatenate(indices), np.concatenate(distances)


def _patch(frame: np.ndarray, row: int, column: int, grid: tuple[int, int]) -> np.ndarray:
    """Return the cell (row, column) with a margin of half a cell, (PATCH, PATCH, 3), repeating the frame border."""
    height, width = frame.shape[0] // grid[0], frame.shape[1] // grid[1]
    padded = np.pad(frame, ((height // 2, height // 2), (width // 2, width // 2), (0, 0)), mode="edge")
    cut = padded[row * height : (row + 2) * height, column * width : (column + 2) * width]
    return np.asarray(Image.fromarray(cut).resize((PATCH, PATCH), Image.Resampling.BILINEAR))
