"""Webhook signatures (Standard Webhooks specification), for receivers and for the service.

    job = vitascope.webhooks.verify(secret, request.headers, body)["data"]["job"]

A message is delivered at least once; ``webhook-id`` is the same each time.
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
    """The message is not from the service, was changed, or is too old."""

    code = "signature_invalid"


def generate_secret() -> str:
    """Create a secret of 256 random bits, as text."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a message: ``v1,`` and the HMAC-SHA256 in base64.

    Args:
        secret: The endpoint's secret.
        message_id: Value of ``webhook-id``.
        timestamp: Unix seconds.
        body: The request body.

    Raises:
        InvalidInput: The secret is malformed.
    """
    content = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.new(_key(secret), content, hashlib.sha256).digest()).decode()


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> dict[str, Any]:
    """Verify the signature of a message, in constant time, and return its content.

    Args:
        secret: The endpoint's secret.
        headers: Headers of the request; names in any case.
        body: The request body, exactly as received.
        tolerance: Seconds by which the message's time may differ from ``now``, against replays.
        now: Unix seconds; by default this machine's clock.

    Raises:
        SignatureInvalid: A header is missing, or no signature is valid.
        InvalidInput: The secret is malformed.
    """
    values = {name.lower(): value for name, value in headers.items()}
    for name in (ID, TIMESTAMP, SIGNATURE):
        if not values.get(name):
            raise SignatureInvalid(f"{name}: missing; a header of this name was expected")
    timestamp = values[TIMESTAMP]
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        raise SignatureInvalid(f"{TIMESTAMP}: {timestamp[:80]!r}; whole seconds since 1970 were expected")
    age = abs((time.time() if now is None else now) - int(timestamp))
    if age > tolerance:
        raise SignatureInvalid(f"{TIMESTAMP}: {age:.0f} s from now; at most {tolerance:g} s were expected")
    expected = sign(secret, values[ID], int(timestamp), body).encode()
    # During a rotation, a message is signed with both secrets.
    matches = [hmac.compare_digest(expected, signature.encode()) for signature in values[SIGNATURE].split()]
    if not any(matches):
        raise SignatureInvalid(f"{SIGNATURE}: none of {len(matches)} is valid; one by this secret was expected")
    try:
        message = json.loads(body)
    except ValueError as error:
        raise SignatureInvalid("body: signed, but not JSON; an object was expected") from error
    if not isinstance(message, dict):
        raise SignatureInvalid("body: signed, but not an object; an object was expected")
    return message


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise InvalidInput(f"secret: {PREFIX} and 24 to 64 bytes in base64 were expected")  # never shows the secret
    return key
