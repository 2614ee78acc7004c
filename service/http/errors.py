"""Why a request is turned away before anything of it is done."""

from __future__ import annotations

from collections.abc import Mapping

from vitascope.errors import Conflict, NotFound, VitascopeError


class TurnedAway(VitascopeError):
    """An error whose answer carries headers that tell the client what to do."""

    code = "turned_away"

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


CHALLENGE = 'Bearer realm="vitascope"'


class Unauthenticated(TurnedAway):
    """Nobody has said who this is."""

    code = "key_missing"

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": CHALLENGE})


class KeyInvalid(TurnedAway):
    """The key is none, or is no longer valid."""

    code = "key_invalid"

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'})


class ScopeMissing(TurnedAway):
    """The key is valid and may not do this."""

    code = "scope_missing"


class CollectionNotAllowed(VitascopeError):
    """The key is for other collections."""

    code = "collection_not_allowed"


class KeyNotFound(NotFound):
    """There is no key of this id."""

    code = "key_not_found"


class KeysOff(Conflict):
    """The service asks nobody for a key, so nobody may make any over HTTP."""

    code = "keys_off"


class TooManyRequests(TurnedAway):
    """More requests in a time than this client may send."""

    code = "rate_limited"


class TooManyAtOnce(TurnedAway):
    """More requests under way than this client may have."""

    code = "too_many_at_once"


class EncodingUnsupported(TurnedAway):
    """A body that is compressed, or otherwise not what its type says."""

    code = "content_encoding_unsupported"


class IdempotencyKeyReused(VitascopeError):
    """The Idempotency-Key belongs to a request that was a different one."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(TurnedAway):
    """The first request with this Idempotency-Key has no answer yet."""

    code = "idempotency_in_progress"
