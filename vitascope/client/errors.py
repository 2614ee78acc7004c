"""Errors of the client, and problem documents (RFC 9457) as exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from vitascope import errors


class ServiceError(errors.VitascopeError):
    """The service returned an error without a class in `vitascope.errors`, or could not be reached.

    Attributes:
        status: the HTTP status; 0 without a response.
        problem: the problem document.
    """

    code = "service_error"

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


def error_from_response(response: httpx.Response) -> errors.VitascopeError:
    """Return the exception for an error response: by the problem's ``code``, else a `ServiceError`."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return ServiceError(f"HTTP {response.status_code} {response.reason_phrase}", response.status_code)
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}")
    error_type = _errors_by_code().get(str(problem.get("code")))
    return error_type(message) if error_type else ServiceError(message, response.status_code, problem)


def _errors_by_code() -> dict[str, type[errors.VitascopeError]]:
    # Not __subclasses__: the result must not depend on which other packages are imported.
    types = [value for value in vars(errors).values() if isinstance(value, type)]
    return {error.code: error for error in types if issubclass(error, errors.VitascopeError)}
