"""Storage of the tensors of compact checkpoints: in float16, and smaller where that costs no precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MIN_VALUES = 4096
"""Smaller tensors stay as they are."""
SCALES, KINDS, INT8 = ":scales", ":kinds", ":int8"
"""Suffixes of the tensors that a tensor with rows of several kinds is stored as."""
_FLOAT16, _INT8, _START = 0, 1, 2
"""Kinds of rows."""
_ROUNDING = 2.0**-11
"""Largest relative error of rounding to float16."""


def pack(name: str, tensor: Tensor, start: Tensor | None = None) -> dict[str, Tensor]:
    """Return what is stored of a tensor, by name.

    A large float32 tensor is float16. Rows may be stored smaller: as a scale, where they are a multiple of the row of
    `start` (weight decay alone moved it); or as int8 and a scale, where values are multiples of 1/127 of the largest
    (an earlier export rounded it, and no training moved it since). Both restore within float16 rounding.

    A tensor with values that float16 cannot represent stays float32.

    Args:
        start: Public weights of the same shape.
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
    """Return whether two tensors are equal, but for what `pack` rounds."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.dtype != torch.float32 or a.numel() < MIN_VALUES:
        return torch.equal(a, b)
    # Twice, as a tensor can have been packed again; the constant is the smallest step of float16.
    limits = torch.maximum(a.abs(), b.abs()) * (2 * _ROUNDING) + 2.0**-24
    return bool(((a - b).abs() <= limits).all())


def uses_start(name: str, packed: Mapping[str, Tensor]) -> bool:
    """Return whether some rows of a tensor are stored as multiples of its start's."""
    return name + KINDS in packed and bool((packed[name + KINDS] == _START).any())


def unpack(packed: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `pack` stored, by name; float16 stays.

    Args:
        starts: Public weights of the tensors that `uses_start` is true for, by name.
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
    """Return for each row whether its values times its scale are as near as float16 would be."""
    return ((values * scales[:, None] - rows).abs() <= rows.abs() * _ROUNDING).all(dim=1)
