"""What every part of the client does: send a request, read the answer, raise the error that the service raised."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from vitascope import errors

JSON = dict[str, Any]


class ServiceError(errors.VitascopeError):
    """The service answered with an error that has no name here, or could not be reached.

    ``status`` is the HTTP status, 0 when there was no answer; ``problem`` the problem document (RFC 9457).
    """

    code = "service_error"

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class Caller:
    """A connection to one service."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``url`` without a path; ``api_key`` as `vitascope keys create` printed it, by default the environment's
        VITASCOPE_API_KEY; ``timeout`` in seconds per request; ``transport`` replaces the network.
        """
        key = os.environ.get("VITASCOPE_API_KEY") if api_key is None else api_key
        headers = {"Authorization": f"Bearer {header_value(key)}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport, headers=headers)
        self.url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _upload(
        self, path: str, file: str | Path, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> JSON:
        source = Path(file)
        try:
            with source.open("rb") as stream:
                form = {"file": (source.name, stream)}
                return self._call("POST", path, data=fields, files=form, headers=headers)
        except OSError as error:
            raise errors.InvalidInput(f"file: {str(source)!r} cannot be read ({error.strerror})") from error

    def _call(self, method: str, path: str, **request: Any) -> JSON:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TimeoutException as error:
            raise ServiceError(f"the service at {self.url} did not answer {method} {path} in time") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the service at {self.url} cannot be reached: {error}") from error
        if response.is_error:
            raise error_of(response)
        if not response.content:
            return {}
        answer: JSON = response.json()
        return answer


def field(value: Any) -> str:
    """A value as a field of a form: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def header_value(text: str) -> str:
    """``text`` if a header can carry it. The error does not repeat it: it may be a secret."""
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise errors.InvalidInput("api_key, idempotency_key: visible ASCII characters were expected")
    return text


def given(**values: Any) -> JSON:
    return {name: value for name, value in values.items() if value is not None}


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
