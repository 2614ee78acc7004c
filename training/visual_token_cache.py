"""Cache of the outputs of frozen visual encoders, computed once per stage instead of at every step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from training.data.batches import augment, clip_count, sample_clips
from training.data.packed import Packed
from training.evaluation.encoder import streams_of
from training.models.fusion import FusedModel
from training.recipe import CACHED_FEATURES, DatasetConfig, Stage

BATCH_SIZE = 32
COMPLETE = "complete"
"""Name of the file that marks a complete cache of a dataset."""

Cached = Mapping[str, np.ndarray]
"""Arrays (views, N, ...) by name."""


def encode_frozen(
    model: FusedModel,
    stage: Stage,
    packed: Sequence[Packed],
    folder: Path,
    *,
    fresh: bool,
    seed: int = 0,
    bf16: bool = True,
) -> list[Cached | None]:
    """Encode the videos of a stage's datasets with what the stage freezes of the model's visual encoder.

    Args:
        folder: Where the tokens are kept, so that a resumed run reads the same.
        fresh: Encode again, for a stage that begins.
        seed: Of augmentation and clip sampling.
        bf16: Compute in bfloat16 where float32 is not needed.

    Returns:
        Per dataset float16 arrays (views, N, ...), memory-mapped: `visual`, the visual tokens, or with
        `CACHED_FEATURES` the features that the rest of the video encoder reads. None where videos are to be encoded
        at every step: with augmentation or clip sampling and `num_views` 0, or where ITC pools the embeddings of clips.
    """
    out: list[Cached | None] = []
    for index, (dataset, corpus) in enumerate(zip(stage.datasets, packed, strict=True)):
        clips = clip_count(corpus, dataset.clips_per_video)
        views = dataset.num_views if dataset.augments or clips < corpus.clips else 1
        pools = clips > 1 and model.cfg.clip_merge == "logsumexp" and "itc" in dataset.objectives
        if pools or not views:
            out.append(None)
            continue
        part = folder / f"{index}-{dataset.corpus}-{dataset.split}"
        if fresh or not (part / COMPLETE).exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write(model, stage, corpus, dataset, clips, part, [[seed, index, view] for view in range(views)], bf16)
            (part / COMPLETE).touch()
        out.append({path.stem: np.load(path, mmap_mode="r") for path in sorted(part.glob("*.npy"))})
    return out


def _write(
    model: FusedModel,
    stage: Stage,
    packed: Packed,
    dataset: DatasetConfig,
    clips: int,
    folder: Path,
    seeds: Sequence[Sequence[int]],
    bf16: bool,
) -> None:
    """Write one array per output of the frozen encoder, (views, N, ...), with one view per seed."""
    count = len(packed.examples[: dataset.limit])
    arrays: dict[str, np.ndarray] = {}
    for view, seed in enumerate(seeds):
        for rows, encoded in _encode(model, stage, packed, dataset, clips, count, seed, bf16):
            for name, values in encoded.items():
                if name not in arrays:
                    shape = (len(seeds), count, *values.shape[1:])
                    arrays[name] = open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape)
                arrays[name][view, rows] = values.half().cpu().numpy()
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]


def _encode(
    model: FusedModel,
    stage: Stage,
    packed: Packed,
    dataset: DatasetConfig,
    clips: int,
    count: int,
    seed: Sequence[int],
    bf16: bool,
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield rows and what the frozen encoder computes of them, (n, ...) by name."""
    device, training = model.device, model.training
    rng = np.random.default_rng(seed)
    model.eval()
    batch_size = max(1, BATCH_SIZE // clips)
    for start in range(0, count, batch_size):
        rows = np.arange(start, min(start + batch_size, count))
        sampled = sample_clips(rng, len(rows), packed.clips, clips)
        frames = streams_of(packed, rows, model.cfg.streams(), sampled)
        tensors = {name: torch.from_numpy(x) for name, x in frames.items()}
        if stage.frozen in CACHED_FEATURES:  # every video has a crop of its own
            single = [augment({n: x[i : i + 1] for n, x in tensors.items()}, dataset, rng) for i in range(len(rows))]
            tensors = {name: torch.cat([video[name] for video in single]) for name in tensors}
        else:
            tensors = augment(tensors, dataset, rng)
        streams = {name: x.to(device) for name, x in tensors.items()}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            if stage.frozen in CACHED_FEATURES:
                yield rows, model.visual_features(streams)
            else:
                yield rows, {"visual": model.encode_video(streams)[1]}
    model.train(training)
