"""BatchNorm whose statistics are those of the batches of all processes.

torch's own SyncBatchNorm wants GPUs; several processes on CPUs are to train as one process does, too.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.distributed.nn
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from training import distributed


def share_statistics(module: nn.Module) -> None:
    """Let every BatchNorm of `module` that learns its statistics take them over all processes while it trains.

    Parameters, buffers and evaluation stay what they are. Batches of all processes must be equally large.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and not hasattr(part, "folded_into"):
            norm: Any = part
            norm.forward = MethodType(_normalise, norm)


def _normalise(self: Any, x: Tensor) -> Tensor:
    if not self.training:
        plain: Tensor = type(self).forward(self, x)
        return plain
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = (1, -1, *(1 for _ in axes[1:]))
    values = x.float()  # sums of bfloat16 would lose what a norm is about
    elements = values.numel() // values.shape[1] * distributed.count()
    mean = _summed(values.sum(dim=axes)) / elements
    centred = values - mean.view(shape)
    variance = _summed(centred.pow(2).sum(dim=axes)) / elements
    _remember(self, mean.detach(), variance.detach() * (elements / max(elements - 1, 1)))
    scale = self.weight * torch.rsqrt(variance + self.eps)
    out = (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
    # timm's norms bring their activation along
    activated: Tensor = self.act(self.drop(out)) if isinstance(self, BatchNormAct2d) else out
    return activated


def _summed(x: Tensor) -> Tensor:
    """Over processes, differentiably: every process's loss depends on what every other has seen."""
    if distributed.count() == 1:
        return x
    summed: Tensor = torch.distributed.nn.all_reduce(x)  # type: ignore[no-untyped-call]
    return summed


@torch.no_grad()
def _remember(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked += 1
    momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)
