# Generated from vitascope/client/_async: change that, then run python -m tests.vitascope.client.test_generated
"""Base of the client: sends requests, retries them, parses responses and raises errors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar

import httpx

from vitascope.client._sync.transfers import UploadStream, download, open_for_upload
from vitascope.client.api import (
    PageCursors,
    ServiceError,
    error_from_response,
    map_encoding_errors,
    validate_header_value,
    validate_url,
)
from vitascope.client.compat import run_blocking, sleep
from vitascope.client.progress import UploadProgress, upload_progress
from vitascope.client.retry import RetryConfig, RetryPolicy, retry, retry_policy
from vitascope.errors import InvalidInput


class Page(TypedDict):
    next_cursor: str | None


MAX_OUTAGE = 300.0
"""Seconds for which a wait goes on while the service cannot be reached, because it may restart."""
RECONNECT_SECONDS = 1.0
UNAVAILABLE_STATUSES = (0, 502, 503, 504)
"""Statuses of a service that stops or starts, possibly behind a proxy; 0: it did not respond."""

T = TypeVar("T")
P = TypeVar("P", bound=Page)


class BaseClient:
    """Connections to one service."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: RetryConfig | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Create a client; connections are opened when they are needed.

        Args:
            url: base URL of the service, without a path.
            api_key: key that `vitascope keys create` has printed; None: the environment variable VITASCOPE_API_KEY.
            timeout: timeout of an attempt in seconds.
            retries: limits and delays of retries; None: `RetryConfig()`.
            transport: transport to use instead of the network, for tests.
        Raises:
            InvalidInput: the URL cannot be parsed, or has a user name beside a key; the key cannot be sent in a header;
                or the environment has an invalid proxy or certificate file.
        """
        key = os.environ.get("VITASCOPE_API_KEY") if api_key is None else api_key
        headers = {"Authorization": f"Bearer {validate_header_value('api_key', key)}"} if key else {}
        # No timeout for a free connection of the pool, as the calls that use the connections have timeouts.
        timeouts = httpx.Timeout(timeout, pool=None)
        self.url, has_credentials = validate_url(url)
        if key and has_credentials:
            raise InvalidInput("url: has a user name, and there is an API key; only one of them can be sent")
        try:
            self._http = httpx.Client(base_url=url, timeout=timeouts, transport=transport, headers=headers)
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            raise InvalidInput(
                f"the environment's proxy or certificates cannot be used ({error}); see HTTP_PROXY, HTTPS_PROXY, "
                "ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            ) from error
        self._retries = retries or RetryConfig()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _call(
        self,
        response_type: type[T],
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        is_read_only: bool = False,
    ) -> T:
        """Send a request and return the JSON of the response, typed as ``response_type``.

        ``is_read_only``: a POST without side effects, which may be retried.
        """
        response = self._send(method, path, json, params, headers, is_read_only)
        result: T = self._parse_json(response)
        return result

    def _upload(
        self,
        response_type: type[T],
        path: str,
        file: str | Path,
        fields: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        is_read_only: bool = False,
        progress: UploadProgress = False,
    ) -> T:
        """POST a form with a file, which is opened again for every attempt; otherwise as `_call`."""
        source = Path(file)

        def send(on_progress: Callable[[int, int], None]) -> httpx.Response:
            with run_blocking(open_for_upload, source) as stream:
                form = {"file": (os.fsencode(source.name).decode("utf-8", "replace"), stream)}
                with map_encoding_errors(f"POST {path}", dict(fields)):
                    request = self._http.build_request("POST", path, data=dict(fields), files=form, headers=headers)
                request.stream = UploadStream(request, source, on_progress)
                return self._http.send(request)

        policy = retry_policy("POST", headers, is_read_only)
        with upload_progress(source.name, progress) as on_progress:
            response = self._send_checked("POST", path, lambda: send(on_progress), policy)
        result: T = self._parse_json(response)
        return result

    def _delete(self, path: str, params: Mapping[str, Any] | None = None) -> None:
        self._send("DELETE", path, params=params)

    def _send(
        self,
        method: str,
        path: str,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        is_read_only: bool = False,
    ) -> httpx.Response:
        def send() -> httpx.Response:
            with map_encoding_errors(f"{method} {path}", json if params is None else dict(params)):
                request = self._http.build_request(method, path, json=json, params=params, headers=headers)
            return self._http.send(request)

        return self._send_checked(method, path, send, retry_policy(method, headers, is_read_only))

    def _open_stream(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        retries: RetryConfig | None = None,
        read_timeout: float | None = None,
    ) -> httpx.Response:
        """GET ``path`` and return the response with its body unread, for the caller to close.

        Args:
            path: path of the request.
            headers: headers in addition to those of every request.
            retries: used instead of the client's retries.
            read_timeout: timeout in seconds between two parts of the body; None: the client's timeout.
        Raises:
            VitascopeError: the service returned an error, or cannot be reached.
        """
        default = self._http.timeout
        read = default.read if read_timeout is None else read_timeout
        timeout = httpx.Timeout(connect=default.connect, read=read, write=default.write, pool=default.pool)

        def send() -> httpx.Response:
            with map_encoding_errors(f"GET {path}", None):
                request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
            response = self._http.send(request, stream=True)
            if not response.is_success:
                response.read()
                response.raise_for_status()
            return response

        return self._send_with_retries("GET", path, send, "always", retries)

    def _download(self, path: str, target: Path) -> None:
        """Write the file at ``path`` of the service to ``target``; see `download`."""
        download(lambda headers: self._open_stream(path, headers), f"{self.url}: GET {path}", target)

    def _pages(self, get_page: Callable[[str | None], P]) -> Generator[P, None, None]:
        """Yield all pages of a list. ``get_page`` is called with the cursor of a page, None for the first."""
        cursors = PageCursors()
        page = get_page(None)
        yield page
        while (cursor := cursors.next_of(page)) is not None:
            page = get_page(cursor)
            yield page

    def _call_during_outage(self, call: Callable[[], T], reached_at: float) -> T:
        """Return the result of ``call``, which is repeated while the service is unavailable.

        Raises its error for other reasons, and `MAX_OUTAGE` after ``reached_at``, a time of `time.monotonic`.
        """
        while True:
            try:
                return call()
            except ServiceError as error:
                if error.status not in UNAVAILABLE_STATUSES or time.monotonic() > reached_at + MAX_OUTAGE:
                    raise
            sleep(RECONNECT_SECONDS)

    def _parse_json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:  # for example the login page of a proxy
            request = f"{response.request.method} {response.request.url.path}"
            raise ServiceError(f"{self.url} did not answer {request} with JSON", response.status_code) from error

    def _send_checked(
        self, method: str, path: str, send: Callable[[], httpx.Response], policy: RetryPolicy
    ) -> httpx.Response:
        def send_and_check() -> httpx.Response:
            return (send()).raise_for_status()

        return self._send_with_retries(method, path, send_and_check, policy)

    def _send_with_retries(
        self,
        method: str,
        path: str,
        send: Callable[[], T],
        policy: RetryPolicy,
        retries: RetryConfig | None = None,
    ) -> T:
        """Return the result of ``send``, or raise the error of the service."""
        try:
            return retry(send, retries or self._retries, policy)
        except httpx.HTTPStatusError as error:
            raise error_from_response(error.response) from error
        except httpx.TimeoutException as error:
            raise ServiceError(f"the service at {self.url} did not answer {method} {path} in time") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the service at {self.url} cannot be reached: {error}") from error
