"""A server of the Open Inference Protocol, asked over HTTP: what it has, whether it is ready, one run of a graph."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx

from vitascope.client.retry import RetryConfig, retry
from vitascope.engines.onnx_runtime import Array
from vitascope.errors import EngineError, EngineUnavailable, InvalidInput
from vitascope.integrations.kserve.address import TOKEN_VARIABLE
from vitascope.integrations.kserve.wire import BINARY, HEADER_LENGTH, outputs_of, request_of

CONNECT_SECONDS = 5.0
RUN_SECONDS = 120.0
"""For an answer to begin, and without a byte of it."""
READY_SECONDS = 2.0
"""For the answer to whether it is ready."""
KNOWN_SECONDS = 1.0
"""For which that answer is believed, so that many who ask cost one request."""
RETRIES = RetryConfig(max_attempts=4, max_elapsed=10.0, base_delay=0.1, max_delay=1.0)
"""A run changes nothing at the server, so it may be sent again."""
_BUSY = (429, 502, 503, 504)
_log = logging.getLogger("vitascope.integrations.kserve")

JSON = dict[str, Any]


class InferenceServer:
    """One server; safe to share between threads, which share its connections.

    Every method raises EngineUnavailable where it does not answer, in time and after some tries, and EngineError where
    it refuses or answers nonsense; both name the server and the model.
    """

    def __init__(self, url: str, *, retries: RetryConfig = RETRIES, seconds: float = RUN_SECONDS) -> None:
        """``url``: as ``server_url`` returns it. Nothing is connected yet. ``seconds``: for one run."""
        self.url = url
        self._retries = retries
        self._http = httpx.Client(
            headers=_authorization(),
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
            # As many as threads ask at a time: the lanes of a service bound them.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        weakref.finalize(self, self._http.close)
        self._looking = threading.Lock()
        self._looked: tuple[float, EngineUnavailable | None] = (-1e9, None)

    @cached_property
    def takes_bytes(self) -> bool:
        """Whether tensors may be sent and asked for as bytes, in place of JSON."""
        return BINARY in (self._get("").get("extensions") or ())

    def metadata(self, model: str) -> JSON:
        """What the server states of a model: versions, inputs, outputs."""
        return self._get(f"/models/{model}", model)

    def config(self, model: str) -> JSON:
        """The configuration of a model, from servers that tell it (Triton); else nothing."""
        try:
            return self._get(f"/models/{model}/config", model)
        except EngineUnavailable:
            raise
        except EngineError:
            return {}

    def infer(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """One run: these outputs by name."""
        headers, body = request_of(inputs, outputs, binary=self.takes_bytes)
        answer = self._ask(
            model, lambda: self._http.post(f"{self.url}/v2/models/{model}/infer", content=body, headers=headers)
        )
        try:
            found = outputs_of(answer.content, answer.headers.get(HEADER_LENGTH))
            return {name: found[name] for name in outputs}
        except KeyError as error:
            raise EngineError(f"{self._told(model)}: output {error} is missing; it gave {sorted(found)}") from error
        except ValueError as error:
            raise EngineError(f"{self._told(model)}: its answer cannot be read: {error}") from error

    def check_ready(self, models: Sequence[str]) -> None:
        """Raise EngineUnavailable unless the server and these models are ready; it is asked once a second at most."""
        with self._looking:
            at, trouble = self._looked
            if time.monotonic() - at > KNOWN_SECONDS:
                before, trouble = trouble, self._trouble(models)
                self._looked = (time.monotonic(), trouble)
                if trouble is not None and before is None:
                    _log.warning("%s", trouble)
                elif trouble is None and before is not None:
                    _log.info("%s: is ready again", self.url)
        if trouble is not None:
            raise EngineUnavailable(str(trouble))

    def _trouble(self, models: Sequence[str]) -> EngineUnavailable | None:
        for model, path in [("", "/health/ready"), *((model, f"/models/{model}/ready") for model in models)]:
            try:
                answer = self._http.get(f"{self.url}/v2{path}", timeout=READY_SECONDS)
            except httpx.HTTPError as error:
                return EngineUnavailable(f"{self._told(model)}: does not answer: {_said(error)}")
            if answer.is_error:
                return EngineUnavailable(f"{self._told(model)}: is not ready: {_reason(answer)}")
        return None

    def _get(self, path: str, model: str = "") -> JSON:
        answer = self._ask(model, lambda: self._http.get(f"{self.url}/v2{path}"))
        try:
            stated = answer.json()
        except ValueError as error:
            raise EngineError(f"{self._told(model)}: {path or '/'} is no JSON: {error}") from error
        if not isinstance(stated, dict):
            raise EngineError(f"{self._told(model)}: {path or '/'} is no JSON object")
        return stated

    def _ask(self, model: str, send: Callable[[], httpx.Response]) -> httpx.Response:
        def send_and_check() -> httpx.Response:
            answer = send()
            if answer.is_error:
                answer.raise_for_status()
            return answer

        try:
            return retry(send_and_check, self._retries, "always")
        except httpx.HTTPStatusError as error:
            kind = EngineUnavailable if error.response.status_code in _BUSY else EngineError
            raise kind(f"{self._told(model)}: {_reason(error.response)}") from error
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"{self._told(model)}: does not answer: {_said(error)}") from error

    def _told(self, model: str) -> str:
        return f"{self.url}: model {model!r}" if model else self.url


def _authorization() -> dict[str, str]:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise InvalidInput(f"{TOKEN_VARIABLE}: visible ASCII characters were expected")  # a secret: not repeated
    return {"Authorization": f"Bearer {token}"} if token else {}


def _said(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _reason(answer: httpx.Response) -> str:
    """The status, and what the server says of it in the protocol's form, or in its own."""
    try:
        said = answer.json()
        words = str(said.get("error") or said) if isinstance(said, dict) else str(said)
    except ValueError:
        words = answer.text
    return f"HTTP {answer.status_code}: {words.strip()[:500]}" if words.strip() else f"HTTP {answer.status_code}"
