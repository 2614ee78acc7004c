"""The grounding head: it locates the object that a phrase names in a picture, by a heat map and a box.

Visual tokens attend to the words of the phrase and to one another, in layers that are initialized from the fused
layers. Each visual token then predicts a part of the heat map, finer than the grid, and a box relative to its own
position, as in detectors without anchors (Tian et al., "FCOS", ICCV 2019; Zhou et al., "Objects as points", 2019).
The box of the phrase is the mean of these boxes, weighted by a softmax. The box of a single token would be inaccurate,
since tokens are larger than small objects.

Shape letters: B phrases, P videos, L text tokens, V visual tokens of a grid of Y rows and X columns, c cells of the
heat map along each side of a token, D width of the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from training.models.config import HEAT_CELLS
from training.models.text import additive_mask, apply_layer, keys_values, repeated

if TYPE_CHECKING:
    from training.models.fusion import FusedModel

PRIOR = 0.01
"""Probability in the heat map before training (Lin et al., "Focal loss for dense object detection", ICCV 2017)."""
PRIOR_SIZE = 0.2
"""Width and height of boxes before training, as a fraction of the picture's."""


class GroundingHead(nn.Module):
    """Transformer layers in which visual tokens read a phrase, and linear outputs of each token."""

    def __init__(self, config: BertConfig, layers: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(layers))  # type: ignore[no-untyped-call]
        self.heat = nn.Linear(width, HEAT_CELLS * HEAT_CELLS)
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 5))
        nn.init.constant_(self.heat.bias, _logit(PRIOR))
        last = self.box[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, _logit(PRIOR_SIZE), _logit(PRIOR_SIZE), 0.0]))

    def copy_weights(self, fused_layers: Iterable[nn.Module]) -> None:
        """Copy the weights of the fused layers, in order."""
        for layer, fused in zip(self.layers, fused_layers, strict=False):
            layer.load_state_dict(fused.state_dict())

    def forward(
        self, text_BLD: Tensor, attention_mask: Tensor, tokens_PVD: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Locate B = n * P phrases, the n phrases about a video adjacent.

        Args:
            text_BLD: States of the phrases after the text layers.
            attention_mask: (B, L), 0 for padding.
            tokens_PVD: Visual tokens of the grid, embedded for the fused layers.
            grid: Y and X.

        Returns:
            The heat map (B, Y c, X c): logits that the centre of the object is in the cell; and boxes (B, 4): left,
            top, right and bottom as fractions of the picture's width and height, which may lie outside of 0 to 1.
        """
        phrases, hidden = text_BLD.shape[0], tokens_PVD
        visible = torch.ones((phrases, hidden.shape[1]), dtype=attention_mask.dtype, device=attention_mask.device)
        mask = additive_mask(torch.cat([attention_mask, visible], dim=1), text_BLD.dtype)
        for layer in self.layers:
            visual = (repeated(x, phrases) for x in keys_values(layer, hidden))
            keys, values = (torch.cat(pair, dim=2) for pair in zip(keys_values(layer, text_BLD), visual, strict=True))
            hidden = apply_layer(layer, repeated(hidden, phrases), keys, values, mask)
        rows, columns = grid
        heat: Tensor = self.heat(hidden).reshape(phrases, rows, columns, HEAT_CELLS, HEAT_CELLS)
        heat = heat.permute(0, 1, 3, 2, 4).reshape(phrases, rows * HEAT_CELLS, columns * HEAT_CELLS)
        offsets, votes = self.box(hidden).split((4, 1), dim=2)
        return heat, (votes.softmax(dim=1) * _boxes(offsets, grid)).sum(dim=1)


def ground(model: FusedModel, text_BLD: Tensor, attention_mask: Tensor, visual_PVW: Tensor) -> tuple[Tensor, Tensor]:
    """Run the grounding head for B phrases about P videos. Arguments and results as in `GroundingHead.forward`.

    visual_PVW: Visual tokens of the video encoder. Raises ValueError for a model without a grounding head.
    """
    if model.grounding_head is None:
        raise ValueError("grounding_layers: 0 in this model's config; a head that finds phrases was expected")
    count = visual_PVW.shape[1] - (model.cfg.visual_tokens - model.cfg.grid_tokens)
    embedded = model.visual_embeddings(visual_PVW)[:, :count]
    heat, boxes = model.grounding_head(text_BLD, attention_mask, embedded, model.cfg.grid_of(count))
    return heat, boxes


def grounding_outputs(
    model: FusedModel, input_ids: Tensor, attention_mask: Tensor, visual_PVW: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs of the graph `grounding` for token ids: the heat map (logits) and boxes, clipped to 0..1."""
    heat, boxes = ground(model, model.text.encode(input_ids, attention_mask), attention_mask, visual_PVW)
    return heat, boxes.clamp(0.0, 1.0)


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def _boxes(outputs_BV4: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return boxes (B, V, 4) as left, top, right and bottom.

    outputs_BV4: Offsets (x, y) from the centre of each token, in tokens, and logits of width and height.
    """
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    size = outputs_BV4.new_tensor([columns, rows])
    places = torch.stack([x, y], dim=-1).flatten(0, 1).to(outputs_BV4)
    centres = (places + 0.5 + outputs_BV4[..., :2]) / size
    half = outputs_BV4[..., 2:].sigmoid() / 2.0
    return torch.cat([centres - half, centres + half], dim=-1)
