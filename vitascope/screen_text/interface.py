"""Records of text on screen, and the interface of the engines that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vitascope.media.frame import Pixels

DEFAULT_INTERVAL = 1.0
"""Seconds between the frames that are read."""
MIN_INTERVAL, MAX_INTERVAL = 0.1, 3600.0
Box = tuple[float, float, float, float]
"""Left, top, right and bottom as fractions of the width and height of the frame, 0 to 1."""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text in one frame."""

    text: str
    box: Box
    confidence: float
    """Confidence of the reading, 0 to 1."""
    script: str | None = None
    """Script of most letters by its ISO 15924 code, such as "Latn", "Hani" or "Hira"; None without letters."""


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A line of text and the time in which it is on screen."""

    text: str
    start: float
    """Seconds."""
    end: float
    """Seconds at which the line is no longer on screen."""
    box: Box
    """Box of the reading with the highest confidence."""
    confidence: float
    """Highest confidence of the readings, 0 to 1."""


class TextReader(Protocol):
    """An engine that reads the text of a frame; not thread-safe."""

    @property
    def name(self) -> str:
        """Name of engine and models, such as "rapidocr/PP-OCRv6"; different models have different names."""

    def read(self, frame: Pixels) -> list[TextLine]:
        """Return the lines of a frame (H, W, 3) uint8 RGB, from top to bottom. Raises EngineError."""
