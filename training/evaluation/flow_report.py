"""The inter-modality flow of a checkpoint on real pairs, as numbers and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from training import checkpoint
from training.data.packed import open_packed
from training.evaluation.embedding import streams_of
from training.evaluation.flow import Flow, FlowOptions, flow_by_layer
from training.train_step import word_masking
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

BATCH = 32


def measure_flow(
    folder: Path, data: Path, corpus: str, split: str = "val", pairs: int = 200, options: FlowOptions | None = None
) -> dict[str, Any]:
    """Return the mean flow by fused layer over the first `pairs` videos of a split, each with its first caption.

    Raises InvalidInput where the corpus has no captions, FileNotFoundError where there is no checkpoint.
    """
    loaded = checkpoint.load(folder)
    model = loaded.model.eval()
    packed = open_packed(data / corpus / split)
    rows = [i for i, example in enumerate(packed.examples) if example.captions][:pairs]
    if not rows:
        raise InvalidInput(f"corpus: {corpus}/{split} has no captions; pairs of video and caption were expected")
    tokenizer = Tokenizer.open(loaded.tokenizer, max_length=model.cfg.text_length)
    special = word_masking(loaded.tokenizer, model.cfg.vocabulary).special.tolist()
    layers: list[list[Flow]] = []
    sizes = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        frames = streams_of(packed, np.array(part), model.cfg.streams())
        with torch.no_grad():
            _, visual = model.encode_video({name: torch.from_numpy(x) for name, x in frames.items()})
        ids, mask = (torch.from_numpy(x) for x in tokenizer.encode([packed.examples[i].captions[0] for i in part]))
        layers.append(flow_by_layer(model, ids, mask, visual, special, options))
        sizes.append(len(part))
    means = np.average(np.array(layers), axis=0, weights=sizes)  # (layers, 3)
    return {
        "architecture": model.cfg.architecture,
        "corpus": f"{corpus}/{split}",
        "pairs": len(rows),
        "visual tokens read text": model.cfg.visual_reads_text,
        "layers": [dict(zip(Flow._fields, (round(float(x), 4) for x in layer), strict=True)) for layer in means],
    }


def plot_flow(layers: Sequence[dict[str, float]], title: str, picture: Path) -> None:
    """Plot the flow over the fused layers, one line per direction, to a PNG."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    numbers = range(1, len(layers) + 1)
    for name in Flow._fields:
        axes.plot(numbers, [layer[name] for layer in layers], marker="o", label=name.replace("_", " "))
    axes.set(title=title, xlabel="fused layer", ylabel="share of attention", ylim=(0, 1), xticks=list(numbers))
    axes.grid(alpha=0.3)
    axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
