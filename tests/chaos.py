"""How often a test that depends on chance repeats: a little with every change, a lot by `make chaos`."""

from __future__ import annotations

import os


def rounds(usual: int, many: int) -> int:
    """``many`` where VITASCOPE_CHAOS is set, else ``usual``."""
    return many if os.environ.get("VITASCOPE_CHAOS") else usual
