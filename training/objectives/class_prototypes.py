"""Pictures of every class of the pretrained classifier without photographs: real feature maps moved towards a class.

A corpus shows few of the 1,000 classes. The classifier's weights tell how the mean feature of a class differs from the
mean of all (for classes with equal covariance, the covariance times the weight row), so a photograph's map can be moved
until the classifier sees any class in it. Its probabilities of the moved map are the soft label.

Shape letters: B pictures, V positions of the map, C channels, K classes.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from training.models.pretrained import imagenet_classifier

MAX_FEATURE = 6.0
"""The classifier's features pass a ReLU6."""
MAX_MARGIN = 8.0
"""Largest logit by which a class is moved above all others."""


class ClassPrototypes(NamedTuple):
    """The classifier's last layer, and the direction of each class in its features."""

    weight: Tensor
    """(K, C)"""
    bias: Tensor
    """(K,)"""
    mean: Tensor
    """(C,) of the features of real pictures."""
    directions: Tensor
    """(K, C), each of which adds one to the logit of its class relative to the mean logit."""

    @classmethod
    def fit(cls, features_NC: Tensor) -> Self:
        """Fit the directions to the mean features (N, C) of real pictures."""
        classifier = imagenet_classifier().get_submodule("classifier")
        weight, bias = (parameter.detach() for parameter in classifier.parameters())
        relative = weight - weight.mean(dim=0)
        directions = relative @ torch.cov(features_NC.T)
        directions /= (relative * directions).sum(dim=1, keepdim=True)
        return cls(weight, bias, features_NC.mean(dim=0), directions)

    def to(self, device: torch.device) -> ClassPrototypes:
        """Return the prototypes on a device."""
        return ClassPrototypes(*(value.to(device) for value in self))

    def probabilities(self, map_BVC: Tensor) -> Tensor:
        """Return the classifier's probabilities (B, K) of maps."""
        return torch.softmax(map_BVC.mean(dim=1) @ self.weight.T + self.bias, dim=-1)

    def move(self, map_BVC: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return maps (B, V, C) that are moved towards a random class each, in a random rectangle of the grid."""
        count = len(map_BVC)
        faded = self.mean + torch.rand(count, 1, 1) * (map_BVC - self.mean)
        classes = torch.randint(len(self.weight), (count,))
        logits = faded.mean(dim=1) @ self.weight.T + self.bias
        own = logits.gather(1, classes[:, None])[:, 0]
        others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
        missing = (others - own + torch.rand(count) * MAX_MARGIN).clamp_min(0.0)
        where = random_rectangles(count, grid) * (0.25 + 1.5 * torch.rand(count, grid[0] * grid[1]))
        steps = where * (missing / where.mean(dim=1))[:, None]
        return (faded + steps[:, :, None] * self.directions[classes][:, None]).clamp(0.0, MAX_FEATURE)


def random_rectangles(count: int, grid: tuple[int, int]) -> Tensor:
    """Return masks (count, V) of random rectangles with sides of at least three eighths of the grid's."""
    inside = []
    for side in grid:
        length = torch.randint(max(1, side * 3 // 8), side + 1, (count, 1))
        start = (torch.rand(count, 1) * (side - length + 1)).long()
        position = torch.arange(side)
        inside.append((position >= start) & (position < start + length))
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1).float()
