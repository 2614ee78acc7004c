"""Targets and losses of moment heads.

Shape letters: B sentences with their videos, T windows, M moments. Spans are in windows from the beginning of the
sequence; window i is from i to i + 1. Padding of moments has both boundaries 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss


class Batch(NamedTuple):
    """Embeddings of windows (B, T, E) and texts (B, E), mask (B, T) int64 of windows that exist, moments (B, M, 2)."""

    windows: Tensor
    mask: Tensor
    text: Tensor
    moments: Tensor


def coverage(moments: Tensor, count: int) -> Tensor:
    """Return the fraction of each window that moments (B, M, 2) cover, (B, T) from 0 to 1. count: T."""
    starts = torch.arange(count, device=moments.device)[None, :, None]
    overlap = torch.minimum(moments[:, None, :, 1], starts + 1) - torch.maximum(moments[:, None, :, 0], starts)
    return overlap.clamp(min=0).sum(dim=2).clamp(max=1)


def foreground(moments: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mask (B, T) bool of windows that are in a moment, and the moment (B, T, 2) of each window.

    A window belongs to the shortest moment that contains its middle (ActionFormer, Zhang, Wu, Li, ECCV 2022, section
    3.3). If a moment contains the middle of no window, the window nearest to the middle of the moment is assigned.

    Args:
        moments: (B, M, 2), M at least 1.
        count: T.
    """
    centres = (torch.arange(count, device=moments.device) + 0.5)[None, :, None]
    start, end = moments[:, None, :, 0], moments[:, None, :, 1]
    nearest = (centres - (start + end) / 2).abs().argmin(dim=1, keepdim=True)
    inside = ((centres >= start) & (centres < end)).scatter(1, nearest, True) & (end > start)
    lengths = torch.where(inside, end - start, torch.inf)
    index = lengths.argmin(dim=2, keepdim=True)
    return inside.any(dim=2), moments.gather(1, index.expand(-1, -1, 2))


def saliency_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the binary cross-entropy of saliency logits (B, T) with the covered fractions of the windows."""
    losses = F.binary_cross_entropy_with_logits(logits, coverage(batch.moments, logits.shape[1]), reduction="none")
    return (losses * batch.mask).sum() / batch.mask.sum()


def foreground_loss(logits: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    """Return the focal loss of foreground logits (B, T), over the number of positive windows.

    Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection, ICCV 2017, section 3.2, with its alpha and
    gamma.
    """
    losses: Tensor = sigmoid_focal_loss(logits, positive.float())
    return (losses * mask).sum() / positive.sum().clamp(min=1)


def boundary_losses(spans: Tensor, targets: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Return smooth L1 (in windows) and 1 - generalised IoU of spans (B, T, 2), means over the positive windows.

    UniVTG (Lin et al., ICCV 2023, section 3.3); generalised IoU: Rezatofighi et al., CVPR 2019, of boxes of height 1.
    """
    actual, expected = spans[positive], targets[positive]
    count = max(len(actual), 1)
    l1 = F.smooth_l1_loss(actual, expected, reduction="sum") / count
    giou = generalized_box_iou_loss(_boxes(actual), _boxes(expected), reduction="sum") / count
    return l1, giou


def _boxes(spans: Tensor) -> Tensor:
    start, end = spans.unbind(dim=-1)
    return torch.stack([start, torch.zeros_like(start), end, torch.ones_like(end)], dim=-1)
