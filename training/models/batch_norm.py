"""BatchNorm variants: frozen statistics folded into the convolution, and statistics synchronized over processes.

torch's SyncBatchNorm needs a GPU and drops the activation of timm's norms. `sync_batch_norm` has neither limit.
"""

from __future__ import annotations

from itertools import pairwise
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, nn

from training import distributed


def fold_frozen_norms(module: nn.Module) -> None:
    """Let each convolution of a module apply the BatchNorm2d that follows it, in training mode.

    Only for BatchNorm with frozen statistics, which is an affine map. Folding saves one read and one write of the
    activations, the largest tensors of a step, in the forward and in the backward pass. Parameters, their names and
    gradients do not change. In evaluation mode both layers run unchanged.
    """
    for convolution_name, norm_name in normalised_convolutions(module):
        convolution: Any = module.get_submodule(convolution_name)
        norm: Any = module.get_submodule(norm_name)
        convolution.folded_norm = (norm,)  # in a tuple, so that torch does not register the norm twice
        convolution.forward = MethodType(_convolve_and_normalise, convolution)
        norm.folded_into = (convolution,)
        norm.forward = MethodType(_after_folded, norm)


def normalised_convolutions(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of each Conv2d and the BatchNorm2d that follows it, in order."""
    leaves = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    return [
        (before, after)
        for (before, convolution), (after, norm) in pairwise(leaves)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]


def _convolve_and_normalise(self: Any, x: Tensor) -> Tensor:
    if not self.training:
        plain: Tensor = type(self).forward(self, x)
        return plain
    (norm,) = self.folded_norm
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if self.bias is not None:
        shift = shift + self.bias * scale
    if isinstance(self, Conv2dSame):
        x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
    kernel = self.weight * scale[:, None, None, None]
    geometry = (self.stride, self.padding, self.dilation, self.groups)
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        convolved: Tensor = _Convolution.apply(x, kernel, shift, geometry)  # type: ignore[no-untyped-call]
        return convolved
    return F.conv2d(x, kernel, shift, *geometry)


def _after_folded(self: Any, x: Tensor) -> Tensor:
    (convolution,) = self.folded_into
    if not convolution.training:
        plain: Tensor = type(self).forward(self, x)
        return plain
    # timm's norms include their activation
    out: Tensor = self.act(self.drop(x)) if isinstance(self, BatchNormAct2d) else x
    return out


class _Convolution(torch.autograd.Function):
    """F.conv2d whose bias gradient is a plain sum, which is faster than that of oneDNN.

    oneDNN's bias gradient takes a third of the time of the kernel's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, shift: Tensor, geometry: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.geometry = geometry
        return F.conv2d(x, kernel, shift, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None]:
        (gradient,) = gradients
        x, kernel = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        output_mask = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        of_x, of_kernel, _ = torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, stride, padding, dilation, False, [0, 0], groups, output_mask
        )
        return of_x, of_kernel, gradient.sum(dim=(0, 2, 3)), None


def sync_batch_norm(module: nn.Module) -> None:
    """Let every BatchNorm of a module compute its training statistics over the batches of all processes.

    Parameters, buffers and evaluation mode do not change. All processes must have equal batch sizes.
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
    values = x.float()  # bfloat16 sums are too coarse
    elements = values.numel() // values.shape[1] * distributed.world_size()
    mean = distributed.all_reduce_sum(values.sum(dim=axes)) / elements
    centred = values - mean.view(shape)
    variance = distributed.all_reduce_sum(centred.pow(2).sum(dim=axes)) / elements
    _update_running_statistics(self, mean.detach(), variance.detach() * (elements / max(elements - 1, 1)))
    scale = self.weight * torch.rsqrt(variance + self.eps)
    out = (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
    # timm's norms include their activation
    activated: Tensor = self.act(self.drop(out)) if isinstance(self, BatchNormAct2d) else out
    return activated


@torch.no_grad()
def _update_running_statistics(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked += 1
    momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)
