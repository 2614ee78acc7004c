"""Windows of sound, the inputs of the audio graph.

Shape letters: N samples of a sound, S samples of a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import LENGTHS, SAMPLES
from vitascope.bundle.manifest import AudioStream
from vitascope.engines.onnx_runtime import Array
from vitascope.errors import InvalidInput
from vitascope.media.limits import SILENCE, MediaLimits

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.sandbox.decoder import Decoder

Samples = NDArray[np.float32]
_WINDOWS_PER_READ = 64
"""Maximum windows of a file's sound in memory at the same time."""


class Window(NamedTuple):
    """A window of the sound at ``position``: samples (S,); those after the first ``length`` are padding."""

    position: int
    samples: Samples
    length: int


def check_sounds(sounds: Sequence[Samples]) -> None:
    """Raise InvalidInput unless every sound is (N,) of finite floats from -1 to 1, and not silent."""
    for index, sound in enumerate(sounds):
        is_array = isinstance(sound, np.ndarray) and sound.dtype.kind == "f" and sound.ndim == 1
        if not is_array or not (np.abs(sound) <= 1).all():
            actual = f"{sound.dtype} of shape {sound.shape}" if isinstance(sound, np.ndarray) else type(sound).__name__
            raise InvalidInput(f"sounds[{index}]: {actual}; floats of shape (N,) from -1 to 1 were expected")
        if np.abs(sound).max(initial=0) < SILENCE:
            raise InvalidInput(f"sounds[{index}]: {len(sound)} samples of digital silence; sound was expected")


def cut_windows(stream: AudioStream, sounds: Iterable[tuple[int, Samples]]) -> Iterator[Window]:
    """Cut each (position, sound) into the smallest number of equal windows; silent windows are left out."""
    size = stream.samples
    for position, sound in sounds:
        edges = np.linspace(0, len(sound), math.ceil(len(sound) / size) + 1).round().astype(int).tolist()
        for first, last in pairwise(edges):
            part = sound[first:last]
            if np.abs(part).max(initial=0) < SILENCE:
                continue
            samples, length = np.zeros(size, np.float32), len(part)
            copies = size // length if stream.fill == "repeat" else 1
            samples[: copies * length] = np.tile(part, copies)
            yield Window(position, samples, length)


def batched_inputs(windows: Iterator[Window], size: int) -> Iterator[tuple[list[int], dict[str, Array]]]:
    """Yield (positions of the sounds, graph inputs) of up to ``size`` windows at a time."""
    while batch := list(islice(windows, size)):
        inputs = {
            SAMPLES: np.stack([window.samples for window in batch]),
            LENGTHS: np.array([window.length for window in batch]),
        }
        yield [window.position for window in batch], inputs


def read_sounds(
    decoder: Decoder, file: MediaSource, clips: Sequence[tuple[float, float]], stream: AudioStream, limits: MediaLimits
) -> Iterator[tuple[int, Samples]]:
    """Yield (position of the clip, samples) for clips (start, end in s) of a file that are not silent.

    A long clip is read in several parts of whole windows, to bound memory. Raises media errors.
    """
    batch: list[tuple[int, float, float]] = []
    size = 0
    for clip, (start, end) in enumerate(clips):
        if start == end:  # a moment, which has no sound
            continue
        windows = max(1, math.ceil((end - start) / stream.seconds))
        edges = [start + (end - start) * first / windows for first in range(0, windows, _WINDOWS_PER_READ)]
        for begin, stop in pairwise([*edges, end]):
            count = max(1, round((stop - begin) / (end - start) * windows))
            if batch and size + count > _WINDOWS_PER_READ:
                yield from _read_batch(decoder, file, batch, stream, limits)
                batch, size = [], 0
            batch.append((clip, begin, stop))
            size += count
    yield from _read_batch(decoder, file, batch, stream, limits)


def _read_batch(
    decoder: Decoder,
    file: MediaSource,
    parts: Sequence[tuple[int, float, float]],
    stream: AudioStream,
    limits: MediaLimits,
) -> Iterator[tuple[int, Samples]]:
    sounds = decoder.read_clips(file, [(start, end) for _, start, end in parts], stream.sample_rate, limits)
    return ((clip, sound) for (clip, _, _), sound in zip(parts, sounds, strict=True) if sound is not None)
