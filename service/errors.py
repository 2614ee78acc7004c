"""Errors that only the HTTP side has. Like all domain errors they become problems by the table in
``problems``.
"""

from __future__ import annotations

from vitascope.errors import NotFound, VitascopeError


class BadRequest(VitascopeError):
    """The request is not what its headers say (a form that ends in the middle, a cursor nobody gave out)."""

    code = "bad_request"


class HostRefused(VitascopeError):
    """The Host header names a machine that this service is not known by."""

    code = "host_not_allowed"


class OriginRefused(VitascopeError):
    """A page of another web origin tries to change something here."""

    code = "origin_not_allowed"


class PathForbidden(VitascopeError):
    """A path outside the folders that the service may read."""

    code = "path_forbidden"


class PayloadTooLarge(VitascopeError):
    """A body, a form field or an upload beyond the limit in bytes."""

    code = "payload_too_large"


class ContentTypeUnsupported(VitascopeError):
    """A body of a type that the route does not read."""

    code = "content_type_unsupported"


class RangeNotSatisfiable(VitascopeError):
    """A Range header that names no byte of the file."""

    code = "range_not_satisfiable"


class MediaMissing(NotFound):
    """The catalogue knows the video, but its file is gone."""

    code = "media_missing"


class ModelNotFound(NotFound):
    """A request names another model than the one in use."""

    code = "model_not_found"


class NotReady(VitascopeError):
    """The model is still being loaded, or could not be."""

    code = "not_ready"


class Overloaded(VitascopeError):
    """As much is under way as the service takes at once; nothing of this request was begun."""

    code = "overloaded"


class DeadlineExceeded(VitascopeError):
    """The time that the client gave has passed; what was not begun will not be."""

    code = "deadline_exceeded"


class RequestAbandoned(VitascopeError):
    """The client went away before its turn came."""

    code = "abandoned"


class Busy(VitascopeError):
    """Another service uses the same data folder."""

    code = "data_dir_in_use"
