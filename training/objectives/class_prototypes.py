"""Synthetic features of every class of the pretrained classifier: real features that are moved towards a class.

A corpus shows few of the 1,000 classes. The classifier's weights determine how the mean feature of a class differs from
the overall mean (for classes with equal covariance, by the covariance times the weight row). So the features of a
photograph can be moved until the classifier predicts a chosen class. The soft label is the classifier's probabilities
of the moved features.

Shape letters: B pictures, C channels, K classes.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Self

import torch
from torch import Tensor

from training.models.pretrained import imagenet_classifier

MAX_FEATURE = 6.0
"""Upper bound of the classifier's features, which are outputs of a ReLU6."""
MAX_MARGIN = 8.0
"""Largest margin between the logit of the chosen class and all other logits."""


class ClassPrototypes(NamedTuple):
    """The classifier's last layer, and the direction of each class in its features."""

    weight: Tensor
    """(K, C)"""
    bias: Tensor
    """(K,)"""
    mean: Tensor
    """(C,) of the features of real pictures."""
    directions: Tensor
    """(K, C). Adding a direction to the features raises the logit of its class by 1, relative to the mean logit."""

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

    def probabilities(self, features_BC: Tensor) -> Tensor:
        """Return the classifier's probabilities (B, K) of mean features."""
        return torch.softmax(features_BC @ self.weight.T + self.bias, dim=-1)

    def move(self, features_BC: Tensor) -> Tensor:
        """Move each row of features (B, C) towards a random class, until its logit leads by a random margin."""
        count = len(features_BC)
        random = partial(torch.rand, count, device=features_BC.device)
        faded = self.mean + random()[:, None] * (features_BC - self.mean)
        classes = torch.randint(len(self.weight), (count,), device=features_BC.device)
        logits = faded @ self.weight.T + self.bias
        own = logits.gather(1, classes[:, None])[:, 0]
        others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
        missing = (others - own + random() * MAX_MARGIN).clamp_min(0.0)
        return (faded + missing[:, None] * self.directions[classes]).clamp(0.0, MAX_FEATURE)
