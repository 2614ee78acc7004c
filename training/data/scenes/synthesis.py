"""Synthesis of soundtracks with NumPy: additive and noise voices, whose pitch and timbre vary with a seed.

Equal soundtracks give equal samples on one machine; on other machines samples may differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.data.audio import FULL_SCALE, SAMPLE_RATE, Samples
from training.data.scenes.sounds import Sound, Soundtrack
from training.data.scenes.world import DURATION

Wave = NDArray[np.float64]
Voice = Callable[[Wave, float, np.random.Generator], Wave]
"""(frequency of each sample (Hz), seconds until a held note ends, random numbers) -> samples."""

RANGES = {
    "bell": (420.0, 1300.0),
    "flute": (390.0, 1250.0),
    "drum": (55.0, 190.0),
    "organ": (130.0, 520.0),
    "guitar": (85.0, 430.0),
    "trumpet": (190.0, 760.0),
    "buzzer": (70.0, 230.0),
    "xylophone": (520.0, 1700.0),
    "beep": (500.0, 2400.0),
    "knock": (220.0, 420.0),
    "pop": (350.0, 650.0),
    "whoosh": (700.0, 1500.0),
}
"""Lowest and highest pitch by voice, Hz."""
HEIGHT_PARTS = {"low": (0.0, 0.2), None: (0.4, 0.6), "high": (0.8, 1.0)}
"""Part of the voice's range, on a logarithmic scale, for the first note of a sound."""
LEVEL_DECIBELS = {"quiet": -33.0, None: -22.0, "loud": -11.0}
"""Level of the loudest 50 ms, relative to full scale."""
TAIL = 0.6  # seconds after the last note in which it may die away


def synthesize(soundtrack: Soundtrack) -> Samples | None:
    """Return the sound of a scene, mono at 16 kHz, (n,); None for a silent scene."""
    if not soundtrack.sounds:
        return None
    total = round(DURATION * SAMPLE_RATE)
    mix = np.zeros(total)
    for sound in soundtrack.sounds:
        first = round(sound.start * SAMPLE_RATE)
        wave = play(sound)[: total - first]
        mix[first : first + len(wave)] += wave
    rng = np.random.default_rng(soundtrack.seed)
    mix = _reverb(mix, rng)
    if soundtrack.noise is not None:
        mix += _coloured_noise(total, rng.uniform(-1.5, 0.0), rng) * 10 ** (soundtrack.noise / 20)
    samples: Samples = np.rint(np.tanh(mix) * (FULL_SCALE - 1)).astype(np.int16)
    return samples


def play(sound: Sound) -> Wave:
    """Return the samples of a sound with its level; they are longer than the sound by the decay of its last note."""
    rng = np.random.default_rng(sound.seed)
    low, high = RANGES[sound.voice]
    part = rng.uniform(*HEIGHT_PARTS[sound.height])
    pitch = low * (high / low) ** part
    step = 2 ** (rng.integers(2, 5) / 12)
    direction = {"rising": 1, "falling": -1, None: 0}[sound.contour]
    duration = sound.end - sound.start
    interval = duration / (sound.count - 0.15)  # notes last 0.85 of it
    note = duration if sound.count == 1 else 0.85 * interval
    timbre = int(rng.integers(2**31))
    out = np.zeros(round((duration + TAIL) * SAMPLE_RATE))
    for index in range(sound.count):
        first = round(index * interval * SAMPLE_RATE)
        times = np.arange(round((note + TAIL) * SAMPLE_RATE)) / SAMPLE_RATE
        hertz = np.full(len(times), pitch * step ** (direction * index))
        if sound.count == 1 and direction:
            hertz *= 2 ** (direction * (rng.uniform(0.6, 1.2) * np.clip(times / note, 0, 1) - 0.3))
        # All notes of a sound have one timbre.
        wave = _VOICES[sound.voice](hertz, note, np.random.default_rng(timbre))[: len(out) - first]
        out[first : first + len(wave)] += wave * rng.uniform(0.85, 1.0)
    decibels = LEVEL_DECIBELS[sound.level] + rng.uniform(-2.0, 2.0)
    return out * (10 ** (decibels / 20) / _loudest(out))


def _loudest(wave: Wave) -> float:
    """Return the root mean square of the loudest 50 ms."""
    window = SAMPLE_RATE // 20
    power = np.square(np.concatenate([wave, np.zeros(-len(wave) % window)])).reshape(-1, window).mean(axis=1)
    return float(np.sqrt(power.max()))


def _times(hertz: Wave) -> Wave:
    return np.arange(len(hertz)) / SAMPLE_RATE


def _phase(hertz: Wave, rng: np.random.Generator, vibrato: float = 0.0) -> Wave:
    """Return the phase (radians) of a pitch; `vibrato`: relative depth."""
    times = _times(hertz)
    wobble = 1 + vibrato * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * times + rng.uniform(0, 6))
    phase: Wave = 2 * np.pi * np.cumsum(hertz * wobble) / SAMPLE_RATE
    return phase


def _partials(hertz: Wave, phase: Wave, ratios: Wave, levels: Wave, decays: Wave | None = None) -> Wave:
    """Add partials below the Nyquist frequency; `decays`: of each, per second."""
    out = np.zeros(len(phase))
    times = _times(hertz)
    for k, (ratio, level) in enumerate(zip(ratios, levels, strict=True)):
        if ratio * hertz.max() < SAMPLE_RATE * 0.46:
            partial = level * np.sin(ratio * phase + 1.7 * k)
            out += partial if decays is None else partial * np.exp(-decays[k] * times)
    return out


def _held(hertz: Wave, note: float, attack: float, release: float) -> Wave:
    """Return the envelope of a note that is held until `note` (s)."""
    times = _times(hertz)
    envelope: Wave = np.clip(times / attack, 0, 1) * np.clip((note - times) / release, 0, 1)
    return envelope


def _struck(hertz: Wave, attack: float = 0.003) -> Wave:
    """Return the beginning of a struck or plucked note, and an end without a click."""
    times = _times(hertz)
    envelope: Wave = np.clip(times / attack, 0, 1) * np.clip((times[-1] - times) / 0.02, 0, 1)
    return envelope


def _coloured_noise(count: int, slope: float, rng: np.random.Generator) -> Wave:
    """Return noise of standard deviation 1 whose amplitude falls with frequency to the power `slope`."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    scale = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 40.0) / 40.0
    noise: Wave = np.fft.irfft(spectrum * scale**slope, count)
    noise /= noise.std()
    return noise


def _reverb(dry: Wave, rng: np.random.Generator) -> Wave:
    """Add the reverberation of a room of random size, perhaps hardly any."""
    decay, share = rng.uniform(8.0, 40.0), rng.uniform(0.0, 0.25)
    times = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    response = rng.standard_normal(len(times)) * np.exp(-decay * times)
    response /= np.sqrt(np.square(response).sum())
    size = len(dry) + len(times)
    wet: Wave = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)[: len(dry)]
    wet *= share
    wet += dry
    return wet


def _bell(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.52, 2.66, 3.01, 4.17, 5.43]) * rng.uniform(0.99, 1.01, 10)
    levels = np.array([0.4, 1.0, 0.6, 0.3, 0.7, 0.3, 0.25, 0.3, 0.2, 0.12]) * rng.uniform(0.5, 1.4, 10)
    return _partials(hertz, _phase(hertz, rng), ratios, levels, rng.uniform(2.5, 5.0) * ratios**0.7) * _struck(hertz)


def _flute(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    levels = np.array([1.0, 0.28, 0.12, 0.04, 0.02]) * rng.uniform(0.5, 1.5, 5)
    phase = _phase(hertz, rng, vibrato=rng.uniform(0.002, 0.012))
    tone = _partials(hertz, phase, np.arange(1.0, 6.0), levels)
    breath = _coloured_noise(len(hertz), -0.3, rng)
    envelope = _held(hertz, note, rng.uniform(0.04, 0.07), rng.uniform(0.04, 0.08))
    return (tone + breath * rng.uniform(0.03, 0.1)) * envelope


def _drum(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    times = _times(hertz)
    falling = hertz * (1 + rng.uniform(0.8, 2.0) * np.exp(-times * rng.uniform(25, 50)))
    body = _partials(falling, _phase(falling, rng), np.array([1.0, 1.59, 2.14]), np.array([1.0, 0.4, 0.2]))
    skin = _coloured_noise(len(hertz), -0.8, rng)
    strike = skin * np.exp(-times * rng.uniform(50, 90)) * rng.uniform(0.2, 0.5)
    return (body * np.exp(-times * rng.uniform(9, 18)) + strike) * _struck(hertz, 0.001)


def _organ(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    ratios = np.array([1.0, 2.0, 3.0, 4.0, 6.0, 8.0])
    levels = np.array([1.0, 0.8, 0.5, 0.5, 0.25, 0.25]) * rng.uniform(0.4, 1.3, 6)
    return _partials(hertz, _phase(hertz, rng), ratios, levels) * _held(hertz, note, 0.012, 0.03)


def _guitar(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    ratios = np.arange(1.0, 25.0)
    levels = np.abs(np.sin(np.pi * ratios * rng.uniform(0.12, 0.3))) / ratios ** rng.uniform(0.7, 1.2)
    stiff = ratios * np.sqrt(1 + rng.uniform(1e-5, 2e-4) * ratios**2)
    decays = rng.uniform(2.0, 4.0) * (1 + 0.22 * ratios)
    return _partials(hertz, _phase(hertz, rng), stiff, levels, decays) * _struck(hertz, 0.002)


def _trumpet(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    envelope = _held(hertz, note, rng.uniform(0.03, 0.06), rng.uniform(0.03, 0.06))
    phase = _phase(hertz * (1 - 0.03 * np.exp(-_times(hertz) * 40)), rng, vibrato=rng.uniform(0.001, 0.006))
    ratios = np.arange(1.0, 16.0)
    soft = _partials(hertz, phase, ratios, 1 / ratios**1.6)
    bright = _partials(hertz, phase, ratios, np.exp(-np.square((ratios - rng.uniform(3, 5)) / 4.0)))
    return (0.4 * soft + rng.uniform(0.5, 0.9) * bright * envelope) * envelope


def _buzzer(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    ratios = np.arange(1.0, 60.0, 2.0)
    tone = _partials(hertz, _phase(hertz, rng), ratios, 1 / ratios ** rng.uniform(0.5, 0.8))
    rattle = 1 + rng.uniform(0.3, 0.8) * np.sin(2 * np.pi * rng.uniform(22, 40) * _times(hertz))
    return tone * rattle * _held(hertz, note, 0.004, 0.01)


def _xylophone(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    ratios = np.array([1.0, 3.93, 9.2]) * rng.uniform(0.98, 1.02, 3)
    decays = rng.uniform(9, 16) * np.array([1.0, 2.5, 6.0])
    levels = np.array([1.0, 0.35, 0.15]) * rng.uniform(0.6, 1.4, 3)
    return _partials(hertz, _phase(hertz, rng), ratios, levels, decays) * _struck(hertz, 0.001)


def _beep(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    length = note * rng.uniform(0.6, 0.9)
    return _partials(hertz, _phase(hertz, rng), np.ones(1), np.ones(1)) * _held(hertz, length, 0.005, 0.005)


def _knock(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    ratios = np.array([1.0, 2.31, 3.87, 5.2]) * rng.uniform(0.93, 1.07, 4)
    decays = rng.uniform(35, 55) * np.array([1.0, 1.3, 1.7, 2.2])
    click = _coloured_noise(len(hertz), -0.2, rng)
    wood = _partials(hertz, _phase(hertz, rng), ratios, np.array([1.0, 0.7, 0.5, 0.3]), decays)
    return (wood + click * np.exp(-_times(hertz) * 300)) * _struck(hertz, 0.0005)


def _pop(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    times = _times(hertz)
    rising = hertz * (1 + rng.uniform(1.5, 3.0) * np.clip(times / rng.uniform(0.05, 0.09), 0, 1))
    decay = rng.uniform(35, 55, 1)
    return _partials(rising, _phase(rising, rng), np.ones(1), np.ones(1), decay) * _struck(hertz, 0.002)


def _whoosh(hertz: Wave, note: float, rng: np.random.Generator) -> Wave:
    times = _times(hertz)
    spectrum = np.fft.rfft(rng.standard_normal((2, len(hertz))))
    spectrum[:, np.fft.rfftfreq(len(hertz), 1 / SAMPLE_RATE) > rng.uniform(250, 500)] = 0
    # Slow noise on a moving carrier is noise in a moving band.
    real, imaginary = np.fft.irfft(spectrum, len(hertz))
    sweep = hertz * 2 ** (rng.uniform(1.0, 1.8) * np.sin(np.pi * np.clip(times / note, 0, 1)))
    phase = _phase(sweep, rng)
    swell = np.sin(np.pi * np.clip(times / note, 0, 1)) ** 2
    wave: Wave = (real * np.cos(phase) - imaginary * np.sin(phase)) * swell
    return wave


_VOICES: dict[str, Voice] = {
    "bell": _bell,
    "flute": _flute,
    "drum": _drum,
    "organ": _organ,
    "guitar": _guitar,
    "trumpet": _trumpet,
    "buzzer": _buzzer,
    "xylophone": _xylophone,
    "beep": _beep,
    "knock": _knock,
    "pop": _pop,
    "whoosh": _whoosh,
}
