"""Arithmetic over all training processes, which leaves everything as it is where there is one process alone.

All processes must call these together: they wait for one another.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def count() -> int:
    """How many processes train together; 1 without torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def total(x: Tensor) -> Tensor:
    """The sum over processes, without gradient; `x` itself when alone."""
    if count() == 1:
        return x
    summed = x.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed


def mean(x: Tensor) -> Tensor:
    """The mean over processes, without gradient; `x` itself when alone."""
    return x if count() == 1 else total(x) / count()


def everywhere(holds: bool, device: torch.device) -> bool:
    """Whether something holds in every process."""
    return int(total(torch.tensor(int(holds), device=device))) == count()


def weighed(loss: Tensor, elements: int) -> Tensor:
    """A mean over so many elements of this process -> what has, as mean over processes, the mean over all elements.

    Losses and gradients are averaged over processes; a process with more elements has to count for more.
    """
    if count() == 1:
        return loss
    of_all = total(torch.tensor(float(elements), device=loss.device)).clamp_min(1.0)
    return loss * (elements * count() / of_all)
