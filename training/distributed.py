"""Differentiable communication between training processes; in one process every function returns its argument.

Accelerate launches the processes and wraps the model. Its own `gather` and `reduce` have no gradient, which ITC and
synchronized BatchNorm need, so these functions use `torch.distributed.nn`.
"""

from __future__ import annotations

import torch
import torch.distributed.nn
from accelerate import PartialState
from torch import Tensor


def world_size() -> int:
    """Return the number of training processes."""
    return int(PartialState().num_processes)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum over processes."""
    if world_size() == 1:
        return x
    summed: Tensor = torch.distributed.nn.all_reduce(x)  # type: ignore[no-untyped-call]
    return summed


def all_gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes, which must have equal numbers of rows."""
    if world_size() == 1:
        return x
    return torch.cat(torch.distributed.nn.all_gather(x.contiguous()))  # type: ignore[no-untyped-call]


def global_mean(loss: Tensor, elements: int) -> Tensor:
    """Scale the mean loss of this process so that the mean over processes is the mean over all elements.

    Losses and gradients are averaged over processes, so a process with more elements needs a higher weight.

    loss: Mean over `elements` elements of this process.
    """
    if world_size() == 1:
        return loss
    total = all_reduce_sum(torch.tensor(float(elements), device=loss.device)).clamp_min(1.0)
    return loss * (elements * world_size() / total)
