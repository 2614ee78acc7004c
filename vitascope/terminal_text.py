"""Text from files in terminals."""

from __future__ import annotations

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def escape_controls(text: str) -> str:
    r"""Return ``text`` with control characters, except newline and tab, and changes of direction as ``\x1b``."""
    return text.translate(_ESCAPES)
