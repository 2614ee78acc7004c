# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""What every part of the client does: send a request, read the answer, raise the error that the service raised."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar

import httpx

from vitascope.client.compat import blocking
from vitascope.client.errors import ServiceError, error_of
from vitascope.client.paging import Cursors
from vitascope.client.progress import UploadProgress, shown_upload
from vitascope.client.request_building import header_value, repeatable
from vitascope.client.retries import Repeatable, Retries
from vitascope.client.synchronous.download import fetch
from vitascope.client.synchronous.repeating import repeated
from vitascope.client.synchronous.sending import Sending, opened
from vitascope.client.transfer import Transfer


class Page(TypedDict):
    next_cursor: str | None


T = TypeVar("T")
P = TypeVar("P", bound=Page)


class Caller:
    """Connections to one service."""

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
        # A call that waits for one of the connections has not been refused by anybody: it may wait.
        patience = httpx.Timeout(timeout, pool=None)
        self._http = httpx.Client(base_url=url, timeout=patience, transport=transport, headers=headers)
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
        kind: type[T],
        path: str,
        file: str | Path,
        fields: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
        progress: UploadProgress = False,
    ) -> T:
        """POST a form with a file, which is opened anew for every try. Else as `_call`."""
        source = Path(file)

        def send(on_progress: Callable[[int, int], None]) -> httpx.Response:
            with blocking(opened, source) as stream:
                form = {"file": (source.name, stream)}
                request = self._http.build_request("POST", path, data=dict(fields), files=form, headers=headers)
                request.stream = Sending(request, source, on_progress)
                return self._http.send(request)

        with shown_upload(source.name, progress) as on_progress:
            response = self._answered("POST", path, lambda: send(on_progress), repeatable("POST", headers, reads))
        answer: T = self._json(response)
        return answer

    def _call(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
    ) -> T:
        """What the service answers, which is a ``kind``. ``reads``: a POST that changes nothing at the service."""
        answer: T = self._json(self._sent(method, path, json, params, headers, reads))
        return answer

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:  # of something in between, such as a page to log in
            asked = f"{response.request.method} {response.request.url.path}"
            raise ServiceError(f"{self.url} did not answer {asked} with JSON", response.status_code) from error

    def _do(self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None) -> None:
        """A call that is answered without words."""
        self._sent(method, path, json, params)

    def _sent(
        self,
        method: str,
        path: str,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
    ) -> httpx.Response:
        def send() -> httpx.Response:
            return self._http.request(method, path, json=json, params=params, headers=headers)

        return self._answered(method, path, send, repeatable(method, headers, reads))

    def _pages(self, page: Callable[[str | None], P]) -> Generator[P, None, None]:
        """All pages, each asked for by the cursor of the one before; the first one's is None."""
        cursors = Cursors()
        found = page(None)
        yield found
        while (cursor := cursors.next_of(found)) is not None:
            found = page(cursor)
            yield found

    def _open(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        retries: Retries | None = None,
        read_seconds: float | None = None,
    ) -> httpx.Response:
        """Send a GET and return the response with its body unread, for the caller to close.

        Args:
            path: of the service.
            headers: of the request, besides those of every request.
            retries: others than usual.
            read_seconds: how long a part of the body may take, if not as long as usual.
        Raises:
            VitascopeError: as other calls do.
        """
        usual = self._http.timeout
        read = usual.read if read_seconds is None else read_seconds
        timeout = httpx.Timeout(connect=usual.connect, read=read, write=usual.write, pool=usual.pool)

        def send() -> httpx.Response:
            request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
                response.raise_for_status()
            return response

        return self._try("GET", path, send, "always", retries)

    def _fetch(self, path: str, target: Path) -> None:
        """Write what is at ``path`` to ``target``, as `fetch`."""
        fetch(lambda headers: self._open(path, headers), Transfer(f"{self.url}: GET {path}"), target)

    def _answered(
        self, method: str, path: str, send: Callable[[], httpx.Response], may_repeat: Repeatable
    ) -> httpx.Response:
        def send_and_check() -> httpx.Response:
            response = send()
            if response.is_error:
                response.raise_for_status()
            return response

        return self._try(method, path, send_and_check, may_repeat)

    def _try(
        self,
        method: str,
        path: str,
        send: Callable[[], T],
        may_repeat: Repeatable,
        retries: Retries | None = None,
    ) -> T:
        """What ``send`` gives in the end, or the error that the service raised. ``retries``: others than usual."""
        try:
            return repeated(send, retries or self._retries, may_repeat)
        except httpx.HTTPStatusError as error:
            raise error_of(error.response) from error
        except httpx.TimeoutException as error:
            raise ServiceError(f"the service at {self.url} did not answer {method} {path} in time") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the service at {self.url} cannot be reached: {error}") from error
