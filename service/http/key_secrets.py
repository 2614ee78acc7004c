"""API keys as texts: ``vsk_<id>_<secret>``. The id finds the key; only a digest of the whole text is kept.

The secret is 256 random bits, so there is nothing to guess and one SHA-256 is enough. A slow hash, as for
passwords that people choose, would only cost every request its milliseconds.
"""

from __future__ import annotations

import hashlib
import re
import secrets

from vitascope.errors import InvalidInput

PREFIX = "vsk"
MIN_CHOSEN = 32
"""Characters of a key that somebody chose."""
_FORM = re.compile(r"vsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


def new_secret() -> tuple[str, str]:
    """(id, the key's text): the text is to be shown once and forgotten."""
    key_id = secrets.token_hex(6)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"


def id_in(text: str) -> str | None:
    """The id that the text of a key names; None for what has not the form of a key."""
    found = _FORM.fullmatch(text)
    return found[1] if found else None


def digest(text: str) -> bytes:
    """SHA-256 of a key's text, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def admin_digest(text: str) -> bytes:
    """The digest of a key that somebody chose. Raises InvalidInput, which does not repeat it, for one that could be
    guessed or cannot be sent.
    """
    if len(text) < MIN_CHOSEN or not (text.isascii() and text.isprintable()) or " " in text:
        raise InvalidInput(
            f"{MIN_CHOSEN} or more visible ASCII characters were expected, as `openssl rand -hex 32` makes"
        )
    return digest(text)
