"""How readers say what they leave out: how much of it, and the names of the first few."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

NAMED = 5
_logger = logging.getLogger(__name__)


def first_names(names: Sequence[str]) -> str:
    """The first few names, and dots where there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def warn_of(folder: Path, split: str, what: str, names: Sequence[str]) -> None:
    """Log one warning about the names, if there are any; `what` completes "17 ...": "videos are missing"."""
    if names:
        _logger.warning("%s: %s: %d %s: %s", folder, split, len(names), what, first_names(names))
