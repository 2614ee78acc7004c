"""Inter-modality flow: the share of a fused model's attention that crosses from one modality to the other.

After Visual Parsing (Xue et al., NeurIPS 2021), section 3.3. The exact published formula was not available, so
`FlowOptions` offers several definitions. Do not compare the numbers with those of the paper.

Shape letters: B pairs, H heads, R query positions, L text tokens, V visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from training import checkpoint
from training.data.packed import open_packed
from training.evaluation.encoder import streams_of
from training.models.fusion import FusedModel
from training.train_step import word_masking
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer


@dataclass(frozen=True)
class FlowOptions:
    """Aggregation of attention."""

    heads: Literal["mean", "max"] = "mean"
    """Aggregation over the heads of a layer. Rows of a maximum sum to more than 1; shares are relative to that sum."""
    residual: bool = False
    """Whether a token's residual connection counts as attention to itself, with half of the weight."""
    special: bool = True
    """Whether special tokens such as [CLS] and [SEP] count as text."""


class Flow(NamedTuple):
    """Shares of attention, 0..1, each the mean over pairs."""

    text_reads_video: float
    """Share of the attention of text tokens that goes to visual tokens."""
    video_reads_text: float
    """Share of the attention of visual tokens that goes to text tokens; 0 if visual tokens do not attend to text."""
    crossing: float
    """Share of all attention that goes from text to visual tokens or from visual tokens to text."""


def inter_modality_flow(weights: Tensor, words: Tensor, options: FlowOptions | None = None) -> Flow:
    """Return the flow of one layer.

    Args:
        weights: (B, H, R, L + V) attention over [text; visual tokens]; R is L + V, or L if visual tokens attend only
            to each other.
        words: (B, L) bool, the text tokens that count; must be False for padding.
        options: Aggregation; None: the defaults.

    Raises:
        ValueError: The shape of `weights` does not fit.
    """
    options = options or FlowOptions()
    length = words.shape[1]
    visual = weights.shape[3] - length
    if weights.shape[2] not in (length, length + visual) or visual < 1:
        raise ValueError(
            f"weights: {tuple(weights.shape)} for {length} text tokens; (B, H, L or L + V, L + V) was expected"
        )
    merged = weights.float().mean(dim=1) if options.heads == "mean" else weights.float().amax(dim=1)
    if merged.shape[1] == length:  # add rows for visual tokens, which attend to visual tokens only
        rows = torch.cat([torch.zeros(visual, length), torch.full((visual, visual), 1.0 / visual)], dim=1)
        merged = torch.cat([merged, rows.to(merged).expand(len(merged), -1, -1)], dim=1)
    if options.residual:
        merged = 0.5 * merged + 0.5 * torch.eye(length + visual, device=merged.device)
    counts = torch.cat([words.float(), torch.ones(len(words), visual, device=words.device)], dim=1)
    merged = merged * counts[:, :, None] * counts[:, None, :]
    within_text, to_video = merged[:, :length, :length].sum((1, 2)), merged[:, :length, length:].sum((1, 2))
    to_text, within_video = merged[:, length:, :length].sum((1, 2)), merged[:, length:, length:].sum((1, 2))
    everything = within_text + to_video + to_text + within_video
    shares = (
        to_video / (within_text + to_video),
        to_text / (to_text + within_video),
        (to_video + to_text) / everything,
    )
    return Flow(*(float(share.mean()) for share in shares))


@torch.no_grad()
def flow_by_layer(
    model: FusedModel,
    ids: Tensor,
    attention_mask: Tensor,
    visual_BVW: Tensor,
    special: Sequence[int],
    options: FlowOptions | None = None,
) -> list[Flow]:
    """Return the flow of every fused layer over B pairs.

    ids, attention_mask: (B, L). visual_BVW: Visual tokens. special: Ids of special tokens.
    """
    options = options or FlowOptions()
    words = attention_mask.bool()
    if not options.special:
        words = words & ~torch.isin(ids, torch.tensor(list(special), device=ids.device))
    states = model.text.encode(ids, attention_mask)
    layers = model.text.fused_attention(states, attention_mask, model.prepare_visual(visual_BVW))
    return [inter_modality_flow(weights, words, options) for weights in layers]


matplotlib.use("Agg")


BATCH_SIZE = 32


def measure_flow(
    folder: Path, data: Path, corpus: str, split: str = "val", pairs: int = 200, options: FlowOptions | None = None
) -> dict[str, Any]:
    """Return the mean flow by fused layer over the first `pairs` videos of a split, each with its first caption.

    Raises InvalidInput if the corpus has no captions, or if there is no checkpoint.
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
    for start in range(0, len(rows), BATCH_SIZE):
        part = rows[start : start + BATCH_SIZE]
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
