"""Ids of videos, clips and jobs, as the command is given them."""

from __future__ import annotations

from vitascope.errors import InvalidInput


def record_number(name: str, text: str) -> int:
    """The number in an id. Raises InvalidInput for what is none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidInput(f"{name}: {text!r}; a number, as the lists show it, was expected")
    return int(text)
