"""Averages of weights: a moving average over the steps of a stage, and interpolation with the initial weights.

The moving average is stored with the optimizer's moments, so that checkpoints contain it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

AVERAGE = "average"
"""Key of the average in the optimizer's state of a parameter."""
WARM_UP = 10
"""Controls how fast the decay rises in the first steps, so that the initial weights are soon forgotten."""


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float, step: int) -> None:
    """Update the moving average of every parameter that has moments.

    Args:
        optimizer: Optimizer, whose state stores the averages.
        decay: Decay per step; lower in the first steps.
        step: Number of steps of the stage before this one.
    """
    decay = min(decay, (step + 1) / (step + WARM_UP))
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            state[AVERAGE].lerp_(parameter, 1.0 - decay)
        else:
            state[AVERAGE] = parameter.detach().clone()


@torch.no_grad()
def load_average(optimizer: torch.optim.Optimizer) -> None:
    """Replace every parameter that has a moving average by its average."""
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            parameter.copy_(state[AVERAGE])


@torch.no_grad()
def mix_weights(model: nn.Module, initial: Mapping[str, Tensor], share: float) -> None:
    """Interpolate parameters towards `initial` weights by name (WiSE-FT: Wortsman et al., CVPR 2022).

    share: Share of the initial weights in the result.
    """
    parameters = dict(model.named_parameters())
    for name, weight in initial.items():
        # Skip equal weights: -0.0 would become 0.0, which would change their hash and invalidate cached features.
        if not torch.equal(parameters[name], weight):
            parameters[name].lerp_(weight, share)
