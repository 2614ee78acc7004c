"""Validation of a model's inputs against the manifest.

Shape letters: B videos or texts, C clips, F frames, H height, W width (pixels), V visual tokens, K their width,
T audio tokens, A their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import AUDIO_TOKENS
from vitascope.bundle.manifest import FrameStream, Manifest
from vitascope.errors import InvalidInput

Streams = Mapping[str, NDArray[np.uint8]]
"""Frame streams by name, each (B, C, F, H, W, 3) uint8 RGB."""


def check_texts(texts: Sequence[str]) -> None:
    """Raise InvalidInput for a string instead of a list of strings."""
    if isinstance(texts, str):
        raise InvalidInput("texts: one string; a list of strings was expected")


def check_spans(spans: Sequence[tuple[float, float]], duration: float = 0.0) -> list[tuple[float, float]]:
    """Return spans of a file of ``duration`` (s; 0: a picture, or unknown) as a list. Raises InvalidInput."""
    spans = list(spans)
    for start, end in spans:
        if not 0 <= start <= end < float("inf"):
            raise InvalidInput(f"clip: {start} to {end} seconds; 0 <= start <= end was expected")
        if start >= duration > 0:
            expected = f"a span inside the file's {duration:g} s"
            raise InvalidInput(f"clip: {start} to {end} seconds; {expected} was expected")
    return spans


def check_visual_tokens(manifest: Manifest, count: int, tokens: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return visual tokens (B, V, K) of ``count`` videos as float32.

    Raises:
        InvalidInput: Another shape, or not floats.
    """
    expected = (count, manifest.visual_tokens, manifest.visual_width)
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind != "f" or tokens.shape != expected:
        raise InvalidInput(f"visual_tokens: {_describe(tokens)}; floats of shape {expected} expected")
    return tokens.astype(np.float32, copy=False)  # without a copy: broadcast tokens of one clip stay small


def check_audio_tokens(manifest: Manifest, count: int, tokens: NDArray[np.floating] | None) -> NDArray[np.float32]:
    """Return audio tokens (B, T, A) of ``count`` clips as float32; 0 for clips without sound.

    Raises:
        InvalidInput: Another shape, or not floats; or the match and answer graphs take none.
    """
    audio = manifest.audio
    if audio is None or not audio.fused:
        raise InvalidInput(f"audio_tokens: {manifest.name} matches and answers by pictures alone; null was expected")
    expected = (count, audio.tokens, audio.width)
    if tokens is None:
        return np.zeros(expected, np.float32)
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind != "f" or tokens.shape != expected:
        raise InvalidInput(f"audio_tokens: {_describe(tokens)}; floats of shape {expected} expected")
    return tokens.astype(np.float32, copy=False)


def check_tokens(
    manifest: Manifest, count: int, visual_tokens: NDArray[np.floating], audio_tokens: NDArray[np.floating] | None
) -> dict[str, NDArray[np.float32]]:
    """Return the tokens of ``count`` clips by input of the match, answer and caption graphs. Raises InvalidInput."""
    tokens = {"visual_tokens": check_visual_tokens(manifest, count, visual_tokens)}
    if audio_tokens is not None or (manifest.audio is not None and manifest.audio.fused):
        tokens[AUDIO_TOKENS] = check_audio_tokens(manifest, count, audio_tokens)
    return tokens


def batch_size_of_streams(specs: Sequence[FrameStream], streams: Streams) -> int:
    """Validate frame streams and return their B.

    Raises:
        InvalidInput: A name, dtype or shape differs from the manifest.
    """
    names = sorted(spec.name for spec in specs)
    if sorted(streams) != names:
        raise InvalidInput(f"streams: {sorted(streams)}; {names} were expected")
    leading: tuple[int, ...] | None = None  # (B, C), equal for all streams
    for spec in specs:
        array = streams[spec.name]
        frame_shape = (spec.frames, spec.height, spec.width, 3)
        shape = np.shape(array)
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != np.uint8
            or len(shape) != 6
            or shape[2:] != frame_shape
            or shape[1] < 1
            or shape[:2] != (leading or shape[:2])
        ):
            expected = ", ".join(map(str, (*(leading or ("B", "C")), *frame_shape)))
            raise InvalidInput(f"streams[{spec.name!r}]: {_describe(array)}; uint8 of shape ({expected}) was expected")
        leading = shape[:2]
    assert leading is not None
    return leading[0]


def _describe(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
