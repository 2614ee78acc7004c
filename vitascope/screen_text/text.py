"""Cleaning of recognised text, and detection of its script."""

from __future__ import annotations

import unicodedata
from collections import Counter

_REMOVED_CATEGORIES = ("Cc", "Cf", "Co", "Cs", "Cn")
"""Invisible characters: control, format (zero-width, direction), private, surrogate and unassigned characters."""
_MAX_LENGTH = 1000
"""Maximum characters of a line, more than any line of a frame has."""
_SCRIPTS = {
    **{"LATIN": "Latn", "FULLWIDTH": "Latn", "CJK": "Hani", "HIRAGANA": "Jpan", "KATAKANA": "Jpan"},
    **{"HALFWIDTH": "Jpan", "HANGUL": "Kore", "CYRILLIC": "Cyrl", "GREEK": "Grek", "ARABIC": "Arab"},
    **{"HEBREW": "Hebr", "THAI": "Thai", "DEVANAGARI": "Deva", "TAMIL": "Taml", "TELUGU": "Telu"},
}
"""ISO 15924 code by the first word of the Unicode name of a letter."""


def clean_text(text: str) -> str:
    """Return a recognised line in form NFC without invisible characters; empty if it has neither letter nor digit."""
    normal = unicodedata.normalize("NFC", text[:_MAX_LENGTH])
    visible = ("" if unicodedata.category(c) in _REMOVED_CATEGORIES and not c.isspace() else c for c in normal)
    line = " ".join("".join(visible).split())
    return line if any(c.isalnum() for c in line) else ""


def script_of(text: str) -> str | None:
    """Return the ISO 15924 code of the script of most letters; "Jpan" for Han with kana, None without known letters."""
    names = (unicodedata.name(c, "").split(" ")[0].split("-")[0] for c in text if c.isalpha())
    scripts = Counter(_SCRIPTS[name] for name in names if name in _SCRIPTS)
    if scripts["Jpan"]:
        scripts["Jpan"] += scripts.pop("Hani", 0)
    return max(scripts, key=scripts.__getitem__, default=None)
