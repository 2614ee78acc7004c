"""Reading and augmentation of the sounds of a batch.

Shape letters: B examples, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data.audio import FULL_SCALE, SAMPLE_RATE
from training.data.packed import Packed
from training.recipe import DatasetConfig


@dataclass(frozen=True)
class Audio:
    """Sounds of some examples at 16 kHz, padded with zeros at the end."""

    samples: Tensor
    """(B, N) float32, -1..1; 0 after the end of a sound."""
    lengths: Tensor
    """(B,) int64: number of samples of each row before the padding."""
    present: Tensor
    """(B,) bool: which examples have sound."""

    def to(self, device: torch.device) -> Audio:
        return Audio(self.samples.to(device), self.lengths.to(device), self.present.to(device))


def read_audio(
    packed: Packed, rows: NDArray[np.int64], seconds: float, rng: np.random.Generator | None = None
) -> Audio:
    """Return the sounds of some rows of a corpus with sound, in a window of `seconds`.

    If a sound is longer, a part is returned: at a random position, or without `rng` the middle.
    """
    assert packed.audio is not None
    samples = np.zeros((len(rows), round(seconds * SAMPLE_RATE)), np.float32)
    lengths = np.zeros(len(rows), np.int64)
    for i, row in enumerate(rows):
        sound = packed.audio[int(row)]
        surplus = max(len(sound) - samples.shape[1], 0)
        first = surplus // 2 if rng is None else int(rng.integers(surplus + 1))
        part = sound[first : first + samples.shape[1]]
        lengths[i] = len(part)
        samples[i, : len(part)] = part / np.float32(FULL_SCALE)
    return Audio(torch.from_numpy(samples), torch.from_numpy(lengths), torch.from_numpy(lengths > 0))


def silence(audio: Audio, rows: NDArray[np.bool_]) -> Audio:
    """Return the sounds with those rows removed for which `rows` (B,) is true."""
    kept = torch.from_numpy(~rows)
    return Audio(audio.samples * kept[:, None], audio.lengths * kept, audio.present & kept)


def augment_audio(audio: Audio, dataset: DatasetConfig, rng: np.random.Generator) -> Audio:
    """Augment each sound at random by the dataset's options: crop, speed, gain, noise, and silence before it."""
    samples, lengths = audio.samples, audio.lengths.numpy()
    if dataset.min_sound < 1.0:
        kept = np.ceil(lengths * rng.uniform(dataset.min_sound, 1.0, len(lengths))).astype(np.int64)
        starts = rng.integers(lengths - kept + 1)
        parts = zip(samples, starts, kept, strict=True)
        samples = torch.stack([F.pad(x[start : start + n], (0, len(x) - n)) for x, start, n in parts])
        lengths = kept
    if dataset.speed:
        factors = rng.uniform(1 - dataset.speed, 1 + dataset.speed, len(lengths))
        faster = [_change_speed(x[:n], factor) for x, n, factor in zip(samples, lengths, factors, strict=True)]
        samples, lengths = _window(faster, samples.shape[1])
    if dataset.gain:
        decibels = rng.uniform(-dataset.gain, dataset.gain, (len(samples), 1)).astype(np.float32)
        samples = (samples * torch.from_numpy(10.0 ** (decibels / 20.0))).clamp(-1.0, 1.0)
    if dataset.noise:
        levels = dataset.noise * 10.0 ** rng.uniform(-2.0, 0.0, (len(samples), 1)).astype(np.float32)
        noise = torch.from_numpy(levels * rng.standard_normal(samples.shape, np.float32))
        samples = samples + noise * (torch.arange(samples.shape[1]) < torch.from_numpy(lengths)[:, None])
    if dataset.delay:
        delays = rng.integers(np.where(lengths > 0, round(dataset.delay * SAMPLE_RATE), 0) + 1)
        delayed = [F.pad(x[:n], (int(delay), 0)) for x, n, delay in zip(samples, lengths, delays, strict=True)]
        samples, lengths = _window(delayed, samples.shape[1])
    return replace(audio, samples=samples, lengths=torch.from_numpy(lengths))


def _change_speed(samples_N: Tensor, factor: float) -> Tensor:
    if not len(samples_N):
        return samples_N
    size = max(round(len(samples_N) / factor), 1)
    return F.interpolate(samples_N[None, None], size=size, mode="linear", align_corners=False)[0, 0]


def _window(parts: Sequence[Tensor], size: int) -> tuple[Tensor, np.ndarray]:
    """Return sounds as rows of a window (B, size), cut or padded with zeros, and their lengths (B,)."""
    cut = [part[:size] for part in parts]
    lengths = np.array([len(part) for part in cut], np.int64)
    return torch.stack([F.pad(part, (0, size - len(part))) for part in cut]), lengths
