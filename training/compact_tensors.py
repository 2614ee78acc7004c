"""Storage of the tensors of compact checkpoints: float16, or smaller without further loss of precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MIN_VALUES = 4096
"""Tensors with fewer values are stored unchanged."""
SCALES, KINDS, INT8 = ":scales", ":kinds", ":int8"
"""Suffixes of the additional tensors of a tensor whose rows are stored in several kinds."""
_FLOAT16, _INT8, _START = 0, 1, 2
"""Kinds of rows."""
_ROUNDING = 2.0**-11
"""Largest relative error of rounding to float16."""


def pack(name: str, tensor: Tensor, start: Tensor | None = None) -> dict[str, Tensor]:
    """Return the tensors that are stored for a tensor, by name.

    A large float32 tensor is stored in float16. A row may be stored smaller, if it is restored within float16 rounding:
    as a scale, if it is a multiple of the row of `start` (only weight decay has changed it); or as int8 and a scale, if
    its values are multiples of 1/127 of the largest (an earlier export has quantised it, and no training changed it).

    A tensor with values that float16 cannot represent stays float32.

    Args:
        name: Name of the tensor.
        tensor: The tensor.
        start: Public weights of the same shape; None: there are none.
    """
    if tensor.dtype != torch.float32 or tensor.numel() < MIN_VALUES:
        return {name: tensor.contiguous()}
    half = tensor.half()
    if not half.isfinite().all():
        return {name: tensor.contiguous()}
    rows = tensor.reshape(len(tensor), -1)
    scales = rows.abs().amax(dim=1) / 127
    values = (rows / torch.where(scales == 0, 1, scales)[:, None]).round()
    kinds = torch.where(_restores(values, scales, rows), _INT8, _FLOAT16)
    if start is not None:
        base = start.reshape(rows.shape)
        multiples = (rows * base).sum(dim=1) / (base * base).sum(dim=1).clamp_min(1e-30)
        is_multiple = _restores(base, multiples, rows)
        kinds, scales = torch.where(is_multiple, _START, kinds), torch.where(is_multiple, multiples, scales)
    scales = torch.where(kinds == _FLOAT16, 1, scales)
    packed = {
        name: half[kinds == _FLOAT16],
        name + INT8: values[kinds == _INT8].to(torch.int8).reshape(-1, *tensor.shape[1:]),
        name + SCALES: scales,
        name + KINDS: kinds.to(torch.uint8),
    }
    smaller = sum(part.nbytes for part in packed.values()) < half.nbytes
    return packed if smaller else {name: half.contiguous()}


def is_restored(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal within the rounding of `pack`."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.dtype != torch.float32 or a.numel() < MIN_VALUES:
        return torch.equal(a, b)
    # Twice the rounding, because a tensor can have been packed twice; the constant is the smallest float16 step.
    limits = torch.maximum(a.abs(), b.abs()) * (2 * _ROUNDING) + 2.0**-24
    return bool(((a - b).abs() <= limits).all())


def uses_start(name: str, packed: Mapping[str, Tensor]) -> bool:
    """Return whether some rows of a tensor are stored as multiples of the public weights."""
    return name + KINDS in packed and bool((packed[name + KINDS] == _START).any())


def unpack(packed: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restore the tensors that `pack` stored, by name; float16 tensors are not converted.

    Args:
        packed: Stored tensors.
        starts: Public weights of the tensors for which `uses_start` is true, by name.
    """
    mixed = [name.removesuffix(KINDS) for name in packed if name.endswith(KINDS)]
    parts = {name + suffix for name in mixed for suffix in ("", INT8, SCALES, KINDS)}
    tensors = {name: tensor for name, tensor in packed.items() if name not in parts}
    for name in mixed:
        half, kinds = packed[name], packed[name + KINDS]
        rows = torch.empty((len(kinds), *half.shape[1:]))
        rows[kinds == _FLOAT16] = half.float()
        rows[kinds == _INT8] = packed[name + INT8].float()
        if name in starts:
            rows[kinds == _START] = starts[name][kinds == _START]
        tensors[name] = rows * packed[name + SCALES].reshape(-1, *[1] * (rows.ndim - 1))
    return tensors


def _restores(values: Tensor, scales: Tensor, rows: Tensor) -> Tensor:
    """Return for each row whether its values times its scale are as accurate as float16."""
    return ((values * scales[:, None] - rows).abs() <= rows.abs() * _ROUNDING).all(dim=1)
