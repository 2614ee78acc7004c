"""Visual tokens of frozen encoders: each video is encoded a few times for a whole stage, not again at every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from training.data.batches import augment
from training.data.clip_choice import clips_taken, drawn_clips
from training.data.packed import Packed
from training.evaluation.embedding import streams_of
from training.models.fusion import FusedModel
from training.recipe import Source, Stage

BATCH = 32


def frozen_tokens(
    model: FusedModel,
    stage: Stage,
    packed: Sequence[Packed],
    folder: Path,
    *,
    fresh: bool,
    seed: int = 0,
    bf16: bool = True,
) -> list[np.ndarray | None]:
    """Per source its visual tokens, float16 (views, N, V, W) of the N examples that it uses, or None where pictures
    are to be altered, or other clips drawn, at every step, or where contrast needs the vectors of single clips.

    Kept in `folder`, so that a resumed run reads what it read before; `fresh` (a stage that begins) encodes anew.
    seed: decides how pictures are altered and which clips are drawn. bf16: encode in bfloat16 where float32 is not
    needed.
    """
    out: list[np.ndarray | None] = []
    for index, (source, corpus) in enumerate(zip(stage.sources, packed, strict=True)):
        clips = clips_taken(corpus, source.clips)
        views = source.views if source.alters_pictures or clips < corpus.clips else 1
        merges = clips > 1 and model.cfg.clip_merge == "logsumexp" and "contrastive" in source.objectives
        if merges or not views:
            out.append(None)
            continue
        path = folder / f"{index}-{source.corpus}-{source.split}.npy"
        if fresh or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            seeds = ([seed, index, view] for view in range(views))
            np.save(part, np.stack([_encode(model, corpus, source, clips, of_view, bf16) for of_view in seeds]))
            part.replace(path)
        out.append(np.load(path, mmap_mode="r"))
    return out


def _encode(
    model: FusedModel, packed: Packed, source: Source, clips: int, seed: Sequence[int], bf16: bool
) -> np.ndarray:
    device, training = model.device, model.training
    rng = np.random.default_rng(seed)
    model.eval()
    rows = []
    used = len(packed.examples[: source.limit])
    batch = max(1, BATCH // clips)
    for start in range(0, used, batch):
        part = np.arange(start, min(start + batch, used))
        drawn = drawn_clips(rng, len(part), packed.clips, clips)
        frames = streams_of(packed, part, model.cfg.streams(), drawn)
        pictures = {name: torch.from_numpy(x) for name, x in frames.items()}
        streams = {name: x.to(device) for name, x in augment(pictures, source, rng).items()}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            rows.append(model.encode_video(streams)[1].half().cpu().numpy())
    model.train(training)
    return np.concatenate(rows)
