"""Visual tokens of frozen encoders, computed once per stage instead of at every step."""

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
from training.recipe import DatasetConfig, Stage

BATCH_SIZE = 32


def encode_frozen(
    model: FusedModel,
    stage: Stage,
    packed: Sequence[Packed],
    folder: Path,
    *,
    fresh: bool,
    seed: int = 0,
    bf16: bool = True,
) -> list[np.ndarray | None]:
    """Encode the videos of a stage's datasets with the model's frozen encoders.

    Args:
        folder: Where the tokens are kept, so that a resumed run reads the same.
        fresh: Encode again, for a stage that begins.
        seed: Of augmentation and clip sampling.
        bf16: Compute in bfloat16 where float32 is not needed.

    Returns:
        Per dataset float16 (views, N, V, W), memory-mapped; None where videos are to be encoded at every step: with
        augmentation or clip sampling and `num_views` 0, or where ITC pools the embeddings of single clips.
    """
    out: list[np.ndarray | None] = []
    for index, (dataset, corpus) in enumerate(zip(stage.datasets, packed, strict=True)):
        clips = clips_taken(corpus, dataset.clips_per_video)
        views = dataset.num_views if dataset.augments or clips < corpus.clips else 1
        pools = clips > 1 and model.cfg.clip_merge == "logsumexp" and "itc" in dataset.objectives
        if pools or not views:
            out.append(None)
            continue
        path = folder / f"{index}-{dataset.corpus}-{dataset.split}.npy"
        if fresh or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            seeds = ([seed, index, view] for view in range(views))
            np.save(part, np.stack([_encode(model, corpus, dataset, clips, view_seed, bf16) for view_seed in seeds]))
            part.replace(path)
        out.append(np.load(path, mmap_mode="r"))
    return out


def _encode(
    model: FusedModel, packed: Packed, dataset: DatasetConfig, clips: int, seed: Sequence[int], bf16: bool
) -> np.ndarray:
    device, training = model.device, model.training
    rng = np.random.default_rng(seed)
    model.eval()
    encoded = []
    count = len(packed.examples[: dataset.limit])
    batch_size = max(1, BATCH_SIZE // clips)
    for start in range(0, count, batch_size):
        rows = np.arange(start, min(start + batch_size, count))
        sampled = drawn_clips(rng, len(rows), packed.clips, clips)
        frames = streams_of(packed, rows, model.cfg.streams(), sampled)
        tensors = {name: torch.from_numpy(x) for name, x in frames.items()}
        streams = {name: x.to(device) for name, x in augment(tensors, dataset, rng).items()}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            encoded.append(model.encode_video(streams)[1].half().cpu().numpy())
    model.train(training)
    return np.concatenate(encoded)
