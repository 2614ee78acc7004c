"""The cost of a training step and of embedding a clip, in floating-point operations.

PyTorch counts them while the operations run (matrix products and convolutions, forward and backward).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.data.batches import Batches
from training.models.fusion import FusedModel
from training.recipe import Recipe
from training.train_step import compute_losses, word_masking
from training.trained_parameters import freeze
from vitascope.tokenizer import Tokenizer

SAMPLED = 2
"""Batches counted per dataset, since texts differ in length."""


def step_flops(model: FusedModel, recipe: Recipe, answers: list[str], tokenizer_file: Path, data: Path) -> float:
    """Return the mean floating-point operations of a step of a recipe's only stage; weights do not change."""
    (stage,) = recipe.stages
    tokenizer = Tokenizer.open(tokenizer_file, max_length=model.cfg.text_length)
    words = word_masking(tokenizer_file, model.cfg.vocabulary)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze(model, stage)
    mean = 0.0
    shares = np.array([source.weight for source in stage.datasets])
    for source, share in zip(stage.datasets, shares / shares.sum(), strict=True):
        alone = stage.model_copy(update={"datasets": [source], "steps": SAMPLED})
        seconds = None if model.cfg.audio is None else model.cfg.audio.seconds
        batches = Batches(alone, data, tokenizer, answers, 0, model.cfg.streams(), audio_seconds=seconds)
        for step in range(SAMPLED):
            with FlopCounterMode(display=False) as counter:
                with torch.autocast("cpu", torch.bfloat16):
                    losses = compute_losses(model, batches[step], words, None)
                weighted = [weight * losses[name] for name, weight in source.objectives.items() if name in losses]
                torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
            mean += float(share) * counter.get_total_flops() / SAMPLED
    model.load_state_dict(saved)
    model.zero_grad(set_to_none=True)
    return mean


def clip_flops(model: FusedModel) -> float:
    """Return the floating-point operations of embedding one clip."""
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_video(_clip(model))
    return float(counter.get_total_flops())


def clip_latency(model: FusedModel, repeats: int = 30) -> float:
    """Return the median seconds of embedding one clip in float32 on one thread. Needs an idle machine."""
    model.eval()
    torch.set_num_threads(1)
    clip = _clip(model)
    seconds = []
    with torch.no_grad():
        for _ in range(repeats + 3):
            begun = time.perf_counter()
            model.encode_video(clip)
            seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[3:]))


def _clip(model: FusedModel) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        s.name: torch.randint(0, 256, (1, 1, s.frames, s.height, s.width, 3), dtype=torch.uint8, generator=random)
        for s in model.cfg.streams()
    }
