"""Averages of trained weights: over the steps of a stage, and with those that fine-tuning began with.

The moving average is kept with the optimizer's moments, so that checkpoints have it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

AVERAGE = "average"
"""Key of the average in the optimizer's state of a parameter."""
WARM_UP = 10
"""Steps over which the decay rises, so that the first weights do not weigh on the average."""


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float, step: int) -> None:
    """Move the average of every parameter with moments towards its weights.

    Args:
        decay: Share of the average that a step keeps, less in the first steps.
        step: Steps of the stage taken before this one.
    """
    decay = min(decay, (step + 1) / (step + WARM_UP))
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            state[AVERAGE].lerp_(parameter, 1.0 - decay)
        else:
            state[AVERAGE] = parameter.detach().clone()


@torch.no_grad()
def load_average(optimizer: torch.optim.Optimizer) -> None:
    """Replace every parameter that has an average by it."""
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            parameter.copy_(state[AVERAGE])


@torch.no_grad()
def mix_weights(model: nn.Module, initial: Mapping[str, Tensor], share: float) -> None:
    """Move parameters by this share of the way to `initial`, by name (WiSE-FT: Wortsman et al., CVPR 2022)."""
    parameters = dict(model.named_parameters())
    for name, weight in initial.items():
        # Equal weights stay: -0.0 would become 0.0, and features cached under a hash of the weights be computed anew.
        if not torch.equal(parameters[name], weight):
            parameters[name].lerp_(weight, share)
