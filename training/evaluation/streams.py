"""The contribution of each frame stream: evaluation with one stream made uninformative.

Shape letters: B videos, C clips, F frames, H W pixels.
"""

from __future__ import annotations

import numpy as np

GREY = 127


def blank_high(streams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace the high-resolution frame by grey, so that only the low-resolution neighbours remain."""
    return streams | {"high": np.full_like(streams["high"], GREY)}


def freeze_low(streams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace every neighbour by the middle frame, averaged to low resolution, so that nothing moves."""
    high, low = streams["high"], streams["low"]
    b, c, f, h, w, _ = low.shape
    factor_h, factor_w = high.shape[3] // h, high.shape[4] // w
    blocks = high[:, :, :1].reshape(b, c, 1, h, factor_h, w, factor_w, 3).astype(np.float32)
    middle = blocks.mean(axis=(4, 6)).round().astype(np.uint8)  # (B, C, 1, H, W, 3)
    return streams | {"low": np.repeat(middle, f, axis=2)}


ALTERATIONS = {"high blanked": blank_high, "low frozen": freeze_low}
