"""Inter-modality flow: the share of a fused model's attention that crosses from one modality to the other.

After Visual Parsing (Xue et al., NeurIPS 2021), section 3.3. The published formula was not available, so the options
define what is measured; do not compare the numbers with the paper's.

Shape letters: B pairs, H heads, R query positions, L text tokens, V visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from training.models.fusion import FusedModel


@dataclass(frozen=True)
class FlowOptions:
    """How attention is aggregated."""

    heads: Literal["mean", "max"] = "mean"
    """How a layer's heads become one matrix. Rows of a maximum sum to more than 1; shares are taken of that sum."""
    residual: bool = False
    """Whether each token's residual path counts as attention to itself, at half of the weight."""
    special: bool = True
    """Whether [CLS], [SEP] and the like count as text."""


class Flow(NamedTuple):
    """Shares of attention, 0..1, each the mean over pairs."""

    text_reads_video: float
    """Of what text tokens attend to, how much is visual."""
    video_reads_text: float
    """Of what visual tokens attend to, how much is text; 0 where the architecture lets them read one another only."""
    crossing: float
    """Of all attention, how much crosses in either direction."""


def inter_modality_flow(weights: Tensor, words: Tensor, options: FlowOptions | None = None) -> Flow:
    """Return the flow of one layer.

    Args:
        weights: (B, H, R, L + V) attention over [text; visual tokens]; R = L + V, or R = L where visual tokens attend
        to one
            another only.
        words: (B, L) bool: text tokens to count; padding never counts.
    """
    options = options or FlowOptions()
    length = words.shape[1]
    visual = weights.shape[3] - length
    if weights.shape[2] not in (length, length + visual) or visual < 1:
        raise ValueError(
            f"weights: {tuple(weights.shape)} for {length} text tokens; (B, H, L or L + V, L + V) was expected"
        )
    merged = weights.float().mean(dim=1) if options.heads == "mean" else weights.float().amax(dim=1)
    if merged.shape[1] == length:  # visual tokens, which read visual tokens
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
