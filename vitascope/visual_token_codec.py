"""Visual tokens as bytes, to be kept with a clip for reranking.

``float16``: the numbers as they are, little-endian. ``int8``: one float16 scale for each token, then whole numbers
from -127 to 127; a number times the scale of its token is the value. Half the bytes, and an error of at most half a
scale, which is a 254th of the token's largest value.

Shape letters: V visual tokens, W their width.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput

TokenEncoding = Literal["float16", "int8"]
ENCODINGS: tuple[TokenEncoding, ...] = get_args(TokenEncoding)
LARGEST = 127
_FIRST_SCALE = np.float16(2**-24)
"""The smallest number above 0 that float16 has."""


def check_encoding(name: str) -> TokenEncoding:
    """``name`` if it is an encoding. Raises InvalidInput."""
    for encoding in ENCODINGS:
        if name == encoding:
            return encoding
    raise InvalidInput(f"token encoding: {name!r}; {' or '.join(ENCODINGS)} was expected")


def encoded_bytes(encoding: TokenEncoding, shape: tuple[int, int]) -> int:
    """How many bytes tokens of ``shape`` (V, W) take."""
    tokens, width = shape
    return tokens * (2 * width if encoding == "float16" else 2 + width)


def encode_tokens(tokens: NDArray[np.floating], encoding: TokenEncoding) -> bytes:
    """The bytes of ``tokens`` (V, W), which must be finite as float16."""
    if encoding == "float16":
        return bytes(tokens.astype("<f2").tobytes())
    values = tokens.astype(np.float32)
    exact = np.abs(values).max(axis=1, keepdims=True, initial=0) / LARGEST
    scales = exact.astype("<f2")
    # Never below the exact scale: the largest value must not need more than 127 of it. Tokens of zeros have none.
    scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
    steps = np.rint(values / np.maximum(scales, _FIRST_SCALE).astype(np.float32))
    return bytes(scales.astype("<f2").tobytes() + steps.astype(np.int8).tobytes())


def check_stored(stored: bytes, encoding: TokenEncoding, shape: tuple[int, int]) -> None:
    """Raise InvalidInput unless ``stored`` is as many bytes as tokens of ``shape`` (V, W) take, of finite values."""
    if len(stored) != encoded_bytes(encoding, shape):
        raise InvalidInput(
            f"visual tokens: {len(stored)} bytes; {encoded_bytes(encoding, shape)} were expected, "
            f"for shape {shape} as {encoding}"
        )
    floats = np.frombuffer(stored, "<f2", count=-1 if encoding == "float16" else shape[0])
    if not np.isfinite(floats).all():
        raise InvalidInput("visual tokens: not finite; finite numbers were expected")


def decode_tokens(stored: bytes, encoding: TokenEncoding, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The tokens (V, W) as float32. Raises InvalidInput as ``check_stored``."""
    check_stored(stored, encoding, shape)
    if encoding == "float16":
        return np.frombuffer(stored, "<f2").reshape(shape).astype(np.float32)
    scales = np.frombuffer(stored, "<f2", count=shape[0]).astype(np.float32)
    steps = np.frombuffer(stored, np.int8, offset=2 * shape[0]).reshape(shape)
    return steps * scales[:, np.newaxis]
