"""What every part of the client does: send a request, read the answer, raise the error that the service raised."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from vitascope import errors
from vitascope.client_retries import Repeatable, Retries, repeated
from vitascope.download import fetch

JSON = dict[str, Any]
T = TypeVar("T")

IDEMPOTENCY_KEY = "Idempotency-Key"


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
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``url`` without a path; ``api_key`` as `vitascope keys create` printed it, by default the environment's
        VITASCOPE_API_KEY; ``timeout`` in seconds per try; ``retries``: `Retries()`; ``transport`` replaces the network.
        """
        key = os.environ.get("VITASCOPE_API_KEY") if api_key is None else api_key
        headers = {"Authorization": f"Bearer {header_value(key)}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport, headers=headers)
        self._retries = retries or Retries()
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
        self,
        path: str,
        file: str | Path,
        fields: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
    ) -> JSON:
        """POST a form with a file, which is opened anew for every try. ``reads``: it changes nothing at the service."""
        source = Path(file)

        def send() -> httpx.Response:
            with source.open("rb") as stream:
                form = {"file": (source.name, stream)}
                return self._http.request("POST", path, data=dict(fields), files=form, headers=headers)

        try:
            return self._answer("POST", path, send, _repeatable("POST", headers, reads))
        except OSError as error:
            raise errors.InvalidInput(f"file: {str(source)!r} cannot be read ({error.strerror})") from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
    ) -> JSON:
        """``reads``: a POST that changes nothing at the service."""

        def send() -> httpx.Response:
            return self._http.request(method, path, json=json, params=params, headers=headers)

        return self._answer(method, path, send, _repeatable(method, headers, reads))

    def _fetch(self, path: str, target: Path) -> None:
        """Write what is at ``path`` to ``target``, as `fetch`."""
        self._try("GET", path, lambda: fetch(self._http, path, target), "always")

    def _answer(self, method: str, path: str, send: Callable[[], httpx.Response], repeatable: Repeatable) -> JSON:
        def send_and_check() -> httpx.Response:
            response = send()
            if response.is_error:
                response.raise_for_status()
            return response

        response = self._try(method, path, send_and_check, repeatable)
        if not response.content:
            return {}
        answer: JSON = response.json()
        return answer

    def _try(
        self, method: str, path: str, send: Callable[[], T], repeatable: Repeatable, retries: Retries | None = None
    ) -> T:
        """What ``send`` gives in the end, or the error that the service raised. ``retries``: others than usual."""
        try:
            return repeated(send, retries or self._retries, repeatable)
        except httpx.HTTPStatusError as error:
            raise error_of(error.response) from error
        except httpx.TimeoutException as error:
            raise ServiceError(f"the service at {self.url} did not answer {method} {path} in time") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the service at {self.url} cannot be reached: {error}") from error


def _repeatable(method: str, headers: Mapping[str, str] | None, reads: bool) -> Repeatable:
    if reads or method in ("GET", "PATCH") or IDEMPOTENCY_KEY in (headers or {}):
        return "always"
    # Deleted by a try whose answer was lost, it would not be found by the next.
    return "refused" if method == "DELETE" else "never"


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
