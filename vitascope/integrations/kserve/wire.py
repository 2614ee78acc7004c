"""Tensors as the Open Inference Protocol (version 2, over HTTP) carries them: as JSON, or as bytes behind JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from vitascope.engines.onnx_runtime import Array, ArraySpec

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of JSON before the bytes of tensors; the header of messages that have such."""
BINARY = "binary_tensor_data"
"""What a server that takes and gives bytes names among its extensions."""

_DTYPE_OF = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}


def request_of(inputs: Mapping[str, Array], outputs: Sequence[str], *, binary: bool) -> tuple[dict[str, str], bytes]:
    """(headers, body) of a request for one run. ``binary``: for a server that names ``BINARY``."""
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    stated: list[dict[str, Any]] = [
        {"name": name, "shape": array.shape, "datatype": _NAME_OF[array.dtype.name]} for name, array in arrays.items()
    ]
    if not binary:
        for tensor, array in zip(stated, arrays.values(), strict=True):
            tensor["data"] = array.reshape(-1)
        message = {"inputs": stated, "outputs": [{"name": name} for name in outputs]}
        return {"Content-Type": "application/json"}, orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    for tensor, array in zip(stated, arrays.values(), strict=True):
        tensor["parameters"] = {"binary_data_size": array.nbytes}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = orjson.dumps({"inputs": stated, "outputs": wanted})
    little = (array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays.values())
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return headers, b"".join([head, *(array.data.cast("B") for array in little if array.size)])


def outputs_of(body: bytes, header_length: str | None) -> dict[str, Array]:
    """The tensors of an answer by name; they may be written to. ``header_length``: its header ``HEADER_LENGTH``.

    Raises ValueError where the answer is not of this protocol or does not hold what it states.
    """
    try:
        end = len(body) if header_length is None else int(header_length)
        found, at = {}, end
        for tensor in orjson.loads(body[:end])["outputs"]:
            shape = tuple(int(size) for size in tensor["shape"])
            dtype = np.dtype(_DTYPE_OF[tensor["datatype"]])
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = np.array(tensor["data"], dtype)
            else:
                _check_size(tensor["name"], shape, dtype, size, len(body) - at)
                array = np.frombuffer(body, dtype.newbyteorder("<"), math.prod(shape), at).astype(dtype)
                at += size
            found[str(tensor["name"])] = array.reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return found


def spec_of(tensor: Mapping[str, Any]) -> ArraySpec:
    """What the metadata of a model states of an input or output. Raises ValueError."""
    try:
        shape = tuple(None if size < 0 else int(size) for size in tensor["shape"])
        return ArraySpec(_DTYPE_OF.get(tensor["datatype"], str(tensor["datatype"])), shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_size(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], stated: int, left: int) -> None:
    if not (min(shape, default=0) >= 0 and stated == math.prod(shape) * dtype.itemsize <= left):
        raise ValueError(f"{name}: {stated} of {left} bytes are stated for {dtype} of shape {shape}")
