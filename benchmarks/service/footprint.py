"""What a running service takes of the machine, over time: memory, open files, threads. Linux only (/proc)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEAST_SHARE = 0.01
"""Of the mean: a rise that is less is taken for none, however little the values scatter."""


@dataclass(frozen=True)
class Sample:
    """One moment, ``seconds`` after the beginning. Memory in bytes, as resident."""

    seconds: float
    service: int
    decoding: int
    """Of all decoding processes together."""
    files: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """How values went: the ``rise`` of the straight line through them from first to last, and twice how much they
    scatter around it. Both, and ``mean``, in their own unit.
    """

    rise: float
    noise: float
    mean: float

    @property
    def is_flat(self) -> bool:
        """Whether they did not rise by more than they scatter, or by 1%."""
        return self.rise <= max(self.noise, LEAST_SHARE * self.mean)


def sample(process: int, seconds: float) -> Sample:
    """What the process and its children take now."""
    own = _status(process)
    return Sample(
        seconds,
        own["VmRSS"] * 1024,
        sum(_status(child).get("VmRSS", 0) * 1024 for child in _children(process)),
        len(os.listdir(f"/proc/{process}/fd")),
        own["Threads"],
    )


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Of values at these times, two at least."""
    slope, start = np.polyfit(seconds, values, 1)
    scatter = np.std(np.asarray(values) - (start + slope * np.asarray(seconds)))
    return Trend(float(slope * (seconds[-1] - seconds[0])), float(2 * scatter), float(np.mean(values)))


def _children(process: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            children += map(int, (task / "children").read_text().split())
        except OSError:  # the thread has ended meanwhile
            continue
    return children


def _status(process: int) -> dict[str, int]:
    """Numbers that the kernel tells of a process, memory in KiB; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) for name, value in pairs if value.split()[:1] and value.split()[0].isdigit()}
