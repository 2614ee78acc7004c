"""Text formatting: times, scores and signals of search results, invalid values, escapes for terminals; blank texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_MATCHES = 3
"""Maximum number of matching words that are shown for a signal."""
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def is_blank(text: str) -> bool:
    """Return whether a text has only spaces, control characters and format characters, such as U+200B; or nothing."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def format_time(seconds: float) -> str:
    """Format seconds as ``m:ss``, or as ``h:mm:ss`` if they are an hour or more."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_tenths(seconds: float) -> str:
    """Format seconds as ``m:ss.t`` or ``h:mm:ss.t``, with tenths."""
    tenths = round(seconds * 10)
    return f"{format_time(tenths // 10)}.{tenths % 10}"


def format_span(start: float, end: float, format_seconds: Callable[[float], str] = format_time) -> str:
    """Format start and end in seconds as ``m:ss-m:ss``; empty for an image, which has no duration."""
    return "" if end <= start else f"{format_seconds(start)}-{format_seconds(end)}"


def format_score(value: float | None) -> str:
    """Format a score with three decimals; a dash for None."""
    return "-" if value is None else f"{value:.3f}"


def quote(text: str) -> str:
    """Put a text in double quotes."""
    return f'"{text}"'


def format_signals(signals: Mapping[str, Mapping[str, Any]], quote_text: Callable[[str], str] = quote) -> str:
    """Format the reasons why a clip was returned: for each signal, the matching words with their times, or the rank.

    Args:
        signals: rank, score and matches by signal, as in search results.
        quote_text: function that puts a text in quotation marks.
    """
    reasons = []
    for signal, score in signals.items():
        matches = score["matches"][:MAX_MATCHES]
        words = [quote_text(match["text"]) for match in matches]
        if signal != "name":
            words = [f"{text} {format_time(match['start'])}" for text, match in zip(words, matches, strict=True)]
        reasons.append(f"{signal} {', '.join(words) or '#' + str(score['rank'])}")
    return "; ".join(reasons)


def format_validation_error(error: ValidationError, max_errors: int = 3) -> str:
    """Format pydantic's first errors on one line, each as ``key: value; message``. Lists and objects are not shown."""
    errors, parts = error.errors(include_url=False, include_context=False), []
    for each in errors[:max_errors]:
        key, value, message = ".".join(map(str, each["loc"])), each["input"], each["msg"].removeprefix("Value error, ")
        if each["type"] != "missing" and not isinstance(value, list | dict):
            message = f"{repr(value)[:100]}; {message}"
        parts.append(f"{key}: {message}" if key else message)
    more = len(errors) - max_errors
    return "; ".join(parts) + (f" (and {more} more)" if more > 0 else "")


def escape_controls(text: str) -> str:
    r"""Escape control characters, except newline and tab, and changes of text direction, such as ESC as ``\x1b``."""
    return text.translate(_ESCAPES)
