"""Webhooks, signed as the Standard Webhooks specification says: for whoever receives them, and for the service.

    job = vitascope.webhooks.verify(secret, request.headers, body)["data"]["job"]

An endpoint gets a message once or more often; ``webhook-id`` is the same each time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from vitascope.errors import InvalidInput, VitascopeError

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
PREFIX = "whsec_"
SECRET_BYTES = 32
TOLERANCE_SECONDS = 300.0


class SignatureInvalid(VitascopeError):
    """A message that the service did not send, that was changed on its way, or that is too old."""

    code = "signature_invalid"


def new_secret() -> str:
    """A secret of 256 random bits, as text."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of a message: ``v1,`` and the HMAC-SHA256 in base64. ``timestamp``: Unix seconds.

    Raises InvalidInput for what is no secret.
    """
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> dict[str, Any]:
    """The message in ``body``, the bytes exactly as they came, if it is signed with ``secret``.

    ``headers``: of the request, in any case. ``tolerance``: seconds that its clock and ``now`` (Unix seconds, by
    default this machine's) may be apart, so that nobody sends an old message again. Takes equally long however much
    of a signature is right. Raises SignatureInvalid, and InvalidInput for what is no secret.
    """
    given = {name.lower(): value for name, value in headers.items()}
    for name in (ID, TIMESTAMP, SIGNATURE):
        if not given.get(name):
            raise SignatureInvalid(f"{name}: missing; a header of this name was expected")
    stamp = given[TIMESTAMP]
    if not (stamp.isascii() and stamp.isdecimal() and len(stamp) <= 12):
        raise SignatureInvalid(f"{TIMESTAMP}: {stamp[:80]!r}; whole seconds since 1970 were expected")
    apart = abs((time.time() if now is None else now) - int(stamp))
    if apart > tolerance:
        raise SignatureInvalid(f"{TIMESTAMP}: {apart:.0f} s from now; at most {tolerance:g} s were expected")
    expected = sign(secret, given[ID], int(stamp), body).encode()
    # All of them: while a secret is being replaced, a message is signed with both.
    matches = [hmac.compare_digest(expected, one.encode()) for one in given[SIGNATURE].split()]
    if not any(matches):
        raise SignatureInvalid(f"{SIGNATURE}: none of {len(matches)} fits; one by this secret was expected")
    try:
        message = json.loads(body)
    except ValueError as error:
        raise SignatureInvalid("body: signed, but no JSON; an object was expected") from error
    if not isinstance(message, dict):
        raise SignatureInvalid("body: signed, but no object; one was expected")
    return message


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise InvalidInput(f"secret: {PREFIX} and 24 to 64 bytes in base64 were expected")  # not repeated: it is secret
    return key
