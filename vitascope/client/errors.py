"""What an error answer of the service becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from vitascope import errors


class ServiceError(errors.VitascopeError):
    """The service answered with an error that has no name here, or could not be reached.

    ``status`` is the HTTP status, 0 when there was no answer; ``problem`` the problem document (RFC 9457).
    """

    code = "service_error"

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


def error_of(response: httpx.Response) -> errors.VitascopeError:
    """The named error of a problem document, or a `ServiceError` with all that is known."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return ServiceError(f"HTTP {response.status_code} {response.reason_phrase}", response.status_code)
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}")
    kind = _named_errors().get(str(problem.get("code")))
    return kind(message) if kind else ServiceError(message, response.status_code, problem)


def _named_errors() -> dict[str, type[errors.VitascopeError]]:
    """The errors of `vitascope.errors` by code. Not `__subclasses__`: what a client raises must not depend on which
    other rooms the process happens to have imported."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return {kind.code: kind for kind in kinds if issubclass(kind, errors.VitascopeError)}
