"""Reductions over all training processes; each returns its input unchanged in a single process.

All processes must call these together: they are collective operations.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def world_size() -> int:
    """Return the number of training processes; 1 without torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum over processes, without gradient."""
    if world_size() == 1:
        return x
    summed = x.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed


def all_reduce_mean(x: Tensor) -> Tensor:
    """Return the mean over processes, without gradient."""
    return x if world_size() == 1 else all_reduce_sum(x) / world_size()


def all_true(condition: bool, device: torch.device) -> bool:
    """Return whether the condition holds in every process."""
    return int(all_reduce_sum(torch.tensor(int(condition), device=device))) == world_size()


def global_mean(loss: Tensor, elements: int) -> Tensor:
    """Scale the mean over this process's elements so that the mean over processes is the mean over all elements.

    Losses and gradients are averaged over processes, so a process with more elements has to weigh more.
    """
    if world_size() == 1:
        return loss
    total = all_reduce_sum(torch.tensor(float(elements), device=loss.device)).clamp_min(1.0)
    return loss * (elements * world_size() / total)
