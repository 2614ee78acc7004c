"""Encoding of visual and audio tokens as bytes, for storage with a clip.

``float16``: little-endian values. ``int8``: one float16 scale per token, followed by integers from -127 to 127; a value
is its integer times the scale of its token. int8 takes half the bytes; its error is at most half a scale, which is
1/254 of the token's largest absolute value.

Shape letters: V tokens, K their width.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput

TokenEncoding = Literal["float16", "int8"]
ENCODINGS: tuple[TokenEncoding, ...] = get_args(TokenEncoding)
_MAX_INT8 = 127
_MIN_SCALE = np.float16(2**-24)
"""The smallest positive float16."""


def check_encoding(name: str) -> TokenEncoding:
    """Validate the name of an encoding and return it. Raises InvalidInput if it is unknown."""
    for encoding in ENCODINGS:
        if name == encoding:
            return encoding
    raise InvalidInput(f"token encoding: {name!r}; {' or '.join(ENCODINGS)} was expected")


def encoded_bytes(encoding: TokenEncoding, shape: tuple[int, int]) -> int:
    """Return the number of bytes of encoded tokens of ``shape`` (V, K)."""
    tokens, width = shape
    return tokens * (2 * width if encoding == "float16" else 2 + width)


def encode_tokens(tokens: NDArray[np.floating], encoding: TokenEncoding) -> bytes:
    """Encode tokens (V, K). Their values must be finite in float16."""
    if encoding == "float16":
        return bytes(tokens.astype("<f2").tobytes())
    values = tokens.astype(np.float32)
    exact = np.abs(values).max(axis=1, keepdims=True, initial=0) / _MAX_INT8
    scales = exact.astype("<f2")
    # Round up, so that the largest value does not exceed 127 steps.
    scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
    steps = np.rint(values / np.maximum(scales, _MIN_SCALE).astype(np.float32))
    return bytes(scales.astype("<f2").tobytes() + steps.astype(np.int8).tobytes())


def check_stored(stored: bytes, encoding: TokenEncoding, shape: tuple[int, int]) -> None:
    """Validate encoded tokens of ``shape`` (V, K). Raises InvalidInput for a wrong length or non-finite values."""
    if len(stored) != encoded_bytes(encoding, shape):
        raise InvalidInput(
            f"tokens: {len(stored)} bytes; {encoded_bytes(encoding, shape)} were expected, "
            f"for shape {shape} as {encoding}"
        )
    floats = np.frombuffer(stored, "<f2", count=-1 if encoding == "float16" else shape[0])
    if not np.isfinite(floats).all():
        raise InvalidInput("tokens: not finite; finite numbers were expected")


def decode_tokens(stored: bytes, encoding: TokenEncoding, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Decode tokens to (V, K) float32. Raises InvalidInput for a wrong length or non-finite values."""
    check_stored(stored, encoding, shape)
    if encoding == "float16":
        return np.frombuffer(stored, "<f2").reshape(shape).astype(np.float32)
    scales = np.frombuffer(stored, "<f2", count=shape[0]).astype(np.float32)
    steps = np.frombuffer(stored, np.int8, offset=2 * shape[0]).reshape(shape)
    return steps * scales[:, np.newaxis]
