"""The accuracy of the `objects` head: attributes of objects read from visual tokens.

Shape letters: N videos, V visual tokens, W their width.
"""

from __future__ import annotations

import numpy as np
import torch

from training.data.packed import Packed
from training.data.scenes.objects import ATTRIBUTES, object_targets
from training.models.fusion import FusedModel
from training.objectives.losses import object_tokens

STILL = ("shape", "colour", "size", "pattern", "digit")
"""Attributes that one frame shows."""


def objects_told(model: FusedModel, packed: Packed, tokens_NVW: np.ndarray) -> dict[str, float]:
    """Return the percentage of objects of packed scenes whose attribute is predicted from the token at their position.

    By attribute, such as `objects (colour)`, and as `objects` the mean over those that one frame shows. Of two objects
    in one token the first counts. Raises ValueError for a model without the head.
    """
    position_targets, class_targets = object_targets([example.attributes["scene"] for example in packed.examples])
    positions, classes = torch.from_numpy(position_targets), torch.from_numpy(class_targets)
    token, readable = object_tokens(positions, classes, model.grid_of(tokens_NVW.shape[1]))
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model.object_logits(torch.from_numpy(tokens_NVW.astype(np.float32)).to(device)).float().cpu()
    at_object = logits.gather(1, token[..., None].expand(-1, -1, logits.shape[2]))[readable]
    parts = torch.split(at_object[:, 1:], model.cfg.object_classes, dim=1)
    out = {
        f"objects ({name})": float(100 * (part.argmax(dim=1) == classes[readable][:, i]).float().mean())
        for i, (name, part) in enumerate(zip(ATTRIBUTES, parts, strict=True))
    }
    return out | {"objects": float(np.mean([out[f"objects ({name})"] for name in STILL]))}
