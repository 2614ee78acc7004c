"""How much accuracy a faster bundle may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitascope.errors import InvalidInput


@dataclass(frozen=True)
class Budget:
    """recall: points that Recall@1 may fall on any corpus, either way; so may right captions and right answers."""

    recall: float

    def allows(self, points: float) -> bool:
        """Whether so many points may be lost."""
        return points <= self.recall + 1e-9


def parse_budget(text: str) -> Budget:
    """`recall=0.5`. Raises InvalidInput."""
    key, _, value = text.partition("=")
    try:
        points = float(value)
    except ValueError:
        points = math.nan
    if key != "recall" or not 0.0 <= points <= 100.0:
        raise InvalidInput(f"budget: {text!r}; recall=POINTS was expected, such as recall=0.5")
    return Budget(points)
