"""Visual tokens of frozen encoders: each video is encoded once for a whole stage, not again at every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from training.data.packed import Packed
from training.evaluation.embedding import streams_of
from training.models.hdvila import HdVila
from training.recipe import Stage

BATCH = 32


def frozen_tokens(
    model: HdVila, stage: Stage, packed: Sequence[Packed], folder: Path, *, fresh: bool
) -> list[np.ndarray | None]:
    """Per source its visual tokens, float16 (N, V, W), or None where the source alters its pictures at every step.

    Kept in `folder`, so that a resumed run reads what it read before; `fresh` (a stage that begins) encodes anew.
    """
    out: list[np.ndarray | None] = []
    for source, corpus in zip(stage.sources, packed, strict=True):
        if source.alters_pictures:
            out.append(None)
            continue
        path = folder / f"{source.corpus}-{source.split}.npy"
        if fresh or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, _encode(model, corpus))
            part.replace(path)
        out.append(np.load(path, mmap_mode="r"))
    return out


def _encode(model: HdVila, packed: Packed) -> np.ndarray:
    device = model.device
    training = model.training
    model.eval()
    rows = []
    for start in range(0, len(packed), BATCH):
        part = np.arange(start, min(start + BATCH, len(packed)))
        streams = streams_of(packed, part, model.cfg.low_frames)
        high, low = (torch.from_numpy(streams[name]).to(device) for name in ("high", "low"))
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            rows.append(model.encode_video(high, low)[1].half().cpu().numpy())
    model.train(training)
    return np.concatenate(rows)
