"""The number that split rules are written with: it depends on a key alone, on every machine alike."""

from __future__ import annotations

import hashlib


def first_byte(key: str) -> int:
    """The first byte, 0 to 255, of the SHA-1 of a key in UTF-8."""
    return hashlib.sha1(key.encode(), usedforsecurity=False).digest()[0]
