"""The objective `grounding`: predict a heat map and a box of the object that a phrase names.

Shape letters: B phrases, P videos, L tokens of a phrase, V visual tokens of a grid of Y rows and X columns, W their
width, c cells of the heat map along each side of a token, D width of the text layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from training import distributed
from training.models.fusion import FusedModel
from training.models.grounding_head import ground

LENGTH_GROUPS = 4
"""Number of groups of similar length in which the phrases of a batch are encoded."""
SPREAD = 0.2
"""Standard deviation of the target around the centre of an object, relative to its width and height."""
OVERLAP_WEIGHT, EDGE_WEIGHT = 2.0, 5.0
"""Weights of the losses of boxes relative to that of the heat map (DETR, Carion et al., ECCV 2020, section A.4)."""


def phrase_loss(model: FusedModel, ids_BL: Tensor, mask_BL: Tensor, visual_PVW: Tensor, targets_B4: Tensor) -> Tensor:
    """Compute the loss of B = n * P phrases, given as token ids; the n phrases about a video are adjacent.

    targets_B4: As in `grounding_loss`.
    """
    heat, boxes = ground(model, encode_phrases(model, ids_BL, mask_BL), mask_BL, visual_PVW)
    return grounding_loss(heat, boxes, targets_B4)


def encode_phrases(model: FusedModel, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the states (B, L, D) of phrases after the text layers, without a gradient; 0 for padding.

    Phrases of similar length are encoded together: a long one would double the time of all others.
    """
    states: Tensor | None = None
    with torch.no_grad():
        for rows in mask_BL.sum(dim=1).argsort().chunk(LENGTH_GROUPS):
            longest = int(mask_BL[rows].sum(dim=1).max())
            encoded = model.text.encode(ids_BL[rows, :longest], mask_BL[rows, :longest])
            if states is None:
                states = encoded.new_zeros(*ids_BL.shape, encoded.shape[2])
            states[rows, :longest] = encoded
    # Autocast would reuse the weights it cast here, which have no gradient, for the rest of the step.
    torch.clear_autocast_cache()
    assert states is not None
    return states


def grounding_loss(heat_BYX: Tensor, boxes_B4: Tensor, targets_B4: Tensor) -> Tensor:
    """Compute the loss of the heat map and of the boxes.

    The target of the heat map is a Gaussian around the centre of the object; it is 0 everywhere if the object is
    absent. The loss of the heat map is the quality focal loss (Li et al., "Generalized focal loss", NeurIPS 2020,
    equation 4). The loss of a box is generalized IoU (Rezatofighi et al., CVPR 2019) plus the distance of its edges.

    Args:
        heat_BYX: Logits (B, Y c, X c).
        boxes_B4: Left, top, right and bottom as fractions of the picture.
        targets_B4: Boxes of the objects, in the same form; all 0 for an absent object.
    """
    heat, boxes, present = heat_BYX.float(), boxes_B4.float(), targets_B4.any(dim=1)
    target = target_heat(targets_B4, heat.shape[1], heat.shape[2])
    error = (heat.sigmoid() - target).square()
    of_heat = (error * F.binary_cross_entropy_with_logits(heat, target, reduction="none")).sum(dim=(1, 2)).mean()
    boxes, expected = boxes[present], targets_B4[present]
    distance = (boxes - expected).abs().sum(dim=1)
    of_boxes = OVERLAP_WEIGHT * generalized_box_iou_loss(boxes, expected) + EDGE_WEIGHT * distance
    return of_heat + distributed.global_mean(of_boxes.sum() / max(len(boxes), 1), len(boxes))


def target_heat(targets_B4: Tensor, rows: int, columns: int) -> Tensor:
    """Return the targets (B, rows, columns) of heat maps, 0..1; 0 everywhere for an absent object (a box of zeros)."""
    left, top, right, bottom = (targets_B4[:, i, None] for i in range(4))

    def bell(low: Tensor, high: Tensor, cells: int) -> Tensor:
        places = (torch.arange(cells, device=low.device) + 0.5) / cells
        centre, deviation = (low + high) / 2.0, SPREAD * (high - low).clamp_min(1.0 / cells)
        centre = (torch.floor(centre * cells).clamp(0, cells - 1) + 0.5) / cells  # the largest value is 1
        return torch.exp(-0.5 * ((places - centre) / deviation).square())

    heat = bell(top, bottom, rows)[:, :, None] * bell(left, right, columns)[:, None, :]
    return heat * targets_B4.any(dim=1)[:, None, None]
