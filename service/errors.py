"""Domain errors of the HTTP service. ``service/http/problems.py`` maps them to statuses."""

from __future__ import annotations

from collections.abc import Mapping

from vitascope.errors import Conflict, NotFound, StorageError, VitascopeError

# Requests


class BadRequest(VitascopeError):
    """The request is malformed, such as a form without its closing boundary or an invalid cursor."""

    code = "bad_request"


class HostRefused(VitascopeError):
    """The Host header is not in ``allowed_hosts``."""

    code = "host_not_allowed"


class OriginRefused(VitascopeError):
    """A page of another web origin sends a request that changes data."""

    code = "origin_not_allowed"


class PathForbidden(VitascopeError):
    """A path outside the folders that the service may read."""

    code = "path_forbidden"


class PayloadTooLarge(VitascopeError):
    """A body, a form field or an upload above its limit."""

    code = "payload_too_large"


class HeadersTooLarge(VitascopeError):
    """The request line and headers are above their limit."""

    code = "headers_too_large"


class ContentTypeUnsupported(VitascopeError):
    """A media type that the route does not accept."""

    code = "content_type_unsupported"


class RangeNotSatisfiable(VitascopeError):
    """A Range header outside the file."""

    code = "range_not_satisfiable"


class MediaMissing(NotFound):
    """The catalogue has the video, but its file is gone."""

    code = "media_missing"


class ModelNotFound(NotFound):
    """No loaded model has this name or fingerprint."""

    code = "model_not_found"


# The state of the service


class NotReady(VitascopeError):
    """The model is being loaded, or could not be loaded."""

    code = "not_ready"


class Overloaded(VitascopeError):
    """A limit on concurrent work is reached; the request was not started."""

    code = "overloaded"


class DeadlineExceeded(VitascopeError):
    """The request's timeout has passed. Work that had not started was cancelled."""

    code = "deadline_exceeded"


class StorageFull(StorageError):
    """There is no disk space for an upload; it was rejected before it was received."""


class RequestAbandoned(VitascopeError):
    """The client disconnected before its request was processed."""

    code = "abandoned"


class Busy(VitascopeError):
    """Another service uses the data folder."""

    code = "data_dir_in_use"


# Authentication and limits


class RequestRejected(VitascopeError):
    """An error whose response carries further headers, such as Retry-After."""

    code = "rejected"

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


CHALLENGE = 'Bearer realm="vitascope"'


class Unauthenticated(RequestRejected):
    """The request carries no API key."""

    code = "key_missing"

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": CHALLENGE})


class KeyInvalid(RequestRejected):
    """The API key is unknown, revoked or expired."""

    code = "key_invalid"

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'})


class ScopeMissing(RequestRejected):
    """The API key is valid but lacks the scope that the route requires."""

    code = "scope_missing"


class CollectionNotAllowed(VitascopeError):
    """The API key is restricted to other collections."""

    code = "collection_not_allowed"


class KeyNotFound(NotFound):
    """No API key has this id."""

    code = "key_not_found"


class KeysOff(Conflict):
    """The service requires no API keys, so they cannot be managed over HTTP."""

    code = "keys_off"


class TooManyRequests(RequestRejected):
    """The client exceeds its rate limit."""

    code = "rate_limited"


class TooManyAtOnce(RequestRejected):
    """The client exceeds its limit on concurrent requests."""

    code = "too_many_at_once"


class EncodingUnsupported(RequestRejected):
    """A compressed request body."""

    code = "content_encoding_unsupported"


class IdempotencyKeyReused(VitascopeError):
    """The Idempotency-Key was used for a different request."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(RequestRejected):
    """The first request with this Idempotency-Key is still being processed."""

    code = "idempotency_in_progress"


# Outgoing requests


class UrlRefused(VitascopeError):
    """A URL that the policy forbids. Nothing was sent; retrying does not help."""

    code = "url_refused"


class UrlFailed(VitascopeError):
    """A permitted URL that could not be fetched. ``is_temporary``: a retry may help."""

    code = "url_failed"

    def __init__(self, message: str, *, is_temporary: bool) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class WebhookNotFound(NotFound):
    """No webhook has this id."""

    code = "webhook_not_found"


class WebhooksOff(Conflict):
    """The setting ``webhooks`` is off."""

    code = "webhooks_off"


class TooManyWebhooks(Conflict):
    """The limit on webhooks is reached."""

    code = "too_many_webhooks"
