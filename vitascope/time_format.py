"""Times and spans as text."""

from __future__ import annotations

from collections.abc import Callable


def format_time(seconds: float) -> str:
    """Format seconds as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_tenths(seconds: float) -> str:
    """Format seconds as ``format_time`` does, with tenths."""
    tenths = round(seconds * 10)
    return f"{format_time(tenths // 10)}.{tenths % 10}"


def format_span(start: float, end: float, format_seconds: Callable[[float], str] = format_time) -> str:
    """Format start and end in seconds as ``m:ss-m:ss``; empty for an image, which has no duration."""
    return "" if end <= start else f"{format_seconds(start)}-{format_seconds(end)}"
