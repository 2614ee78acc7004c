"""A cookie with which a browser fetches pictures and videos of the page: tags such as <video> cannot send a key.

It says which key it stands for and until when, signed with the key's digest. So it ends with the key, needs no
secret of its own, and is of use for nothing but GET of media.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from service.http.api_keys import Key

NAME = "vitascope_media"
PATH = "/v1/collections"
SECONDS = 3600


def made(key: Key, now: float) -> str:
    """The cookie's value, good for ``SECONDS``."""
    until = int(now) + SECONDS
    return f"{key.id}.{until}.{_signature(key, until)}"


def take(scope: Scope) -> str | None:
    """Remove all cookies from a request and return the value of this one; None where it is not there.

    FastAPI parses cookies for every request, although no route needs any. Unquoting them takes quadratic time in the
    standard library before Python 3.11.10 and 3.12.6: 20 s for 60 KB. This one has nothing to unquote.
    """
    header = Headers(scope=scope).get("cookie")
    if header is None:
        return None
    scope["headers"] = [each for each in scope["headers"] if each[0] != b"cookie"]
    pairs = (pair.partition("=") for pair in header.split(";"))
    return next((value.strip() for name, _, value in pairs if name.strip() == NAME), None)


def key_of(value: str, find: Callable[[str], Key | None], now: float) -> Key | None:
    """The valid key that a cookie stands for; None for a forged, expired or malformed one."""
    key_id, _, rest = value.partition(".")
    until, _, signature = rest.partition(".")
    key = find(key_id)
    if key is None or not until.isdecimal() or len(until) > 12 or not signature.isascii():
        return None
    if not hmac.compare_digest(signature, _signature(key, int(until))):
        return None
    return key if now < int(until) and key.is_valid(now) else None


def _signature(key: Key, until: int) -> str:
    return hmac.new(key.digest, f"media cookie {until}".encode(), hashlib.sha256).hexdigest()
