"""Inputs of any size for a bundle's graphs, for runs whose results matter less than that they come.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, V visual tokens, K their width.
"""

from __future__ import annotations

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_spec import graph_of
from vitascope.engines.onnx_runtime import Array

_COARSE = 4
"""Patches of a random picture along each side; noise alone is flat after a few strides of a network."""
_CANDIDATES = 3
"""How many of anything that is asked about together, and how many tokens each has."""


def random_inputs(
    bundle: Bundle, graph: str, rng: np.random.Generator, *, rows: int, clips: int, length: int
) -> dict[str, Array]:
    """What the manifest implies for a graph, by name. Streams are uint8 (B, C, F, H, W, 3); token numbers int64 (B, L),
    the largest of the tokenizer among them; masks int64 (B, L) of rows of several lengths; visual tokens float32
    (B, V, K). ``rows``: B, ``clips``: C, ``length``: L.
    """
    vocabulary = bundle.tokenizer().vocabulary_size
    wanted, _ = graph_of(bundle, graph)
    inputs: dict[str, Array] = {}
    for name, spec in wanted.items():
        sizes = spec.shape[1:]
        if spec.dtype == "uint8":
            inputs[name] = _pictures(rng, tuple(size or clips for size in sizes), rows)
        elif spec.dtype == "int64":
            shape = (rows, length) if len(sizes) == 1 else (rows, *(size or _CANDIDATES for size in sizes))
            inputs[name] = _mask(shape) if name.endswith("mask") else _tokens(rng, shape, vocabulary)
        else:
            inputs[name] = rng.standard_normal((rows, *(size or 1 for size in sizes))).astype(spec.dtype)
    return inputs


def _tokens(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Array:
    ids = rng.integers(0, vocabulary, shape, dtype=np.int64)
    ids.flat[0] = vocabulary - 1
    return ids


def _mask(shape: tuple[int, ...]) -> Array:
    """The first row is full, the last has two tokens."""
    rows, length = shape[0], shape[-1]
    kept = np.linspace(length, min(2, length), rows).astype(np.int64)
    shown = (np.arange(length) < kept[:, None]).astype(np.int64)
    return np.ascontiguousarray(np.broadcast_to(shown.reshape(rows, *[1] * (len(shape) - 2), length), shape))


def _pictures(rng: np.random.Generator, sizes: tuple[int, ...], rows: int) -> Array:
    *leading, height, width, colours = (rows, *sizes)
    coarse = rng.integers(0, 256, (*leading, _COARSE, _COARSE, colours), dtype=np.int16)
    tall = coarse.repeat(-(-height // _COARSE), axis=-3).repeat(-(-width // _COARSE), axis=-2)
    picture = tall[..., :height, :width, :]
    noisy: Array = np.clip(picture + rng.integers(-40, 41, picture.shape, dtype=np.int16), 0, 255)
    return noisy.astype(np.uint8)
