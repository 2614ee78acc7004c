"""HTTP client of a server with the Open Inference Protocol, version 2: metadata, readiness, inference, tensors."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx
import numpy as np
import orjson

from vitascope.bundle.graph_specs import ArraySpec
from vitascope.client.retry import RetryConfig, retry
from vitascope.engines.onnx_runtime import Array
from vitascope.errors import EngineError, EngineUnavailable, InvalidInput
from vitascope.integrations.kserve import TOKEN_VARIABLE

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header of messages with binary tensors: length in bytes of the JSON that precedes them."""
BINARY = "binary_tensor_data"
"""Name of the protocol extension for binary tensors."""

_DTYPE_OF = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}

CONNECT_SECONDS = 5.0
RUN_SECONDS = 120.0
"""Timeout of an inference request: until the response begins, and between its bytes."""
READY_SECONDS = 2.0
"""Timeout of a readiness request."""
READY_CACHE_SECONDS = 1.0
"""Seconds for which readiness is cached, so that concurrent checks cost one request."""
RETRIES = RetryConfig(max_attempts=4, max_elapsed=10.0, base_delay=0.1, max_delay=1.0)
"""Inference has no side effects, so it can be retried."""
_UNAVAILABLE_STATUSES = (429, 502, 503, 504)
_log = logging.getLogger("vitascope.integrations.kserve")

JSON = dict[str, Any]


class InferenceServer:
    """Client of one server. Thread-safe; all threads share a connection pool.

    Methods raise EngineUnavailable if the server does not respond in time after retries, and EngineError if it rejects
    the request or sends an invalid response; both name the server and the model.
    """

    def __init__(self, url: str, *, seconds: float = RUN_SECONDS) -> None:
        """Create a client without connecting.

        Args:
            url: URL of the server, as ``server_url`` returns it.
            seconds: timeout of one inference request.
        """
        self.url = url
        self._http = httpx.Client(
            headers=_authorization(),
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
            # Bounded by the number of inference threads.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        weakref.finalize(self, self._http.close)
        self._ready_lock = threading.Lock()
        self._last_check: tuple[float, EngineUnavailable | None] = (-1e9, None)

    @cached_property
    def supports_binary(self) -> bool:
        """Whether tensors can be sent and received as bytes instead of JSON."""
        return BINARY in (self._get("").get("extensions") or ())

    def metadata(self, model: str) -> JSON:
        """Return versions, inputs and outputs of a model."""
        return self._get(f"/models/{model}", model)

    def config(self, model: str) -> JSON:
        """Return the configuration of a model; empty if the server has no such extension (Triton has)."""
        try:
            return self._get(f"/models/{model}/config", model)
        except EngineUnavailable:
            raise
        except EngineError:
            return {}

    def infer(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a model.

        Args:
            model: name of the model.
            inputs: inputs by name.
            outputs: names of the outputs to return.

        Returns:
            Outputs by name.
        """
        headers, body = encode_request(inputs, outputs, binary=self.supports_binary)
        response = self._send(
            model, lambda: self._http.post(f"{self.url}/v2/models/{model}/infer", content=body, headers=headers)
        )
        try:
            arrays = decode_response(response.content, response.headers.get(HEADER_LENGTH))
            return {name: arrays[name] for name in outputs}
        except KeyError as error:
            raise EngineError(
                f"{self._label(model)}: output {error} is missing; the response has {sorted(arrays)}"
            ) from error
        except ValueError as error:
            raise EngineError(f"{self._label(model)}: the response cannot be read: {error}") from error

    def check_ready(self, models: Sequence[str]) -> None:
        """Raise EngineUnavailable unless the server and these models are ready. Results are cached for a second."""
        with self._ready_lock:
            checked_at, error = self._last_check
            if time.monotonic() - checked_at > READY_CACHE_SECONDS:
                previous, error = error, self._readiness_error(models)
                self._last_check = (time.monotonic(), error)
                if error is not None and previous is None:
                    _log.warning("%s", error)
                elif error is None and previous is not None:
                    _log.info("%s: is ready again", self.url)
        if error is not None:
            raise EngineUnavailable(str(error))

    def _readiness_error(self, models: Sequence[str]) -> EngineUnavailable | None:
        for model, path in [("", "/health/ready"), *((model, f"/models/{model}/ready") for model in models)]:
            try:
                response = self._http.get(f"{self.url}/v2{path}", timeout=READY_SECONDS)
            except httpx.HTTPError as error:
                return EngineUnavailable(f"{self._label(model)}: does not respond: {_describe_error(error)}")
            if response.is_error:
                return EngineUnavailable(f"{self._label(model)}: is not ready: {_describe_response(response)}")
        return None

    def _get(self, path: str, model: str = "") -> JSON:
        response = self._send(model, lambda: self._http.get(f"{self.url}/v2{path}"))
        try:
            content = response.json()
        except ValueError as error:
            raise EngineError(f"{self._label(model)}: {path or '/'} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise EngineError(f"{self._label(model)}: {path or '/'} is not a JSON object")
        return content

    def _send(self, model: str, send: Callable[[], httpx.Response]) -> httpx.Response:
        def send_and_check() -> httpx.Response:
            response = send()
            if response.is_error:
                response.raise_for_status()
            return response

        try:
            return retry(send_and_check, RETRIES, "always")
        except httpx.HTTPStatusError as error:
            kind = EngineUnavailable if error.response.status_code in _UNAVAILABLE_STATUSES else EngineError
            raise kind(f"{self._label(model)}: {_describe_response(error.response)}") from error
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"{self._label(model)}: does not respond: {_describe_error(error)}") from error

    def _label(self, model: str) -> str:
        return f"{self.url}: model {model!r}" if model else self.url


def _authorization() -> dict[str, str]:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise InvalidInput(f"{TOKEN_VARIABLE}: visible ASCII characters were expected")  # a secret: not repeated
    return {"Authorization": f"Bearer {token}"} if token else {}


def _describe_error(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _describe_response(response: httpx.Response) -> str:
    """Return the status and the error message; its JSON need not have the protocol's format."""
    try:
        content = response.json()
        message = str(content.get("error") or content) if isinstance(content, dict) else str(content)
    except ValueError:
        message = response.text
    message = message.strip()[:500]
    return f"HTTP {response.status_code}: {message}" if message else f"HTTP {response.status_code}"


def encode_request(
    inputs: Mapping[str, Array], outputs: Sequence[str], *, binary: bool
) -> tuple[dict[str, str], bytes]:
    """Return (headers, body) of an inference request.

    Args:
        inputs: inputs by name.
        outputs: names of the outputs to request.
        binary: send and request bytes instead of JSON; requires a server with the extension ``BINARY``.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    tensors: list[dict[str, Any]] = [
        {"name": name, "shape": array.shape, "datatype": _NAME_OF[array.dtype.name]} for name, array in arrays.items()
    ]
    if not binary:
        for tensor, array in zip(tensors, arrays.values(), strict=True):
            tensor["data"] = array.reshape(-1)
        message = {"inputs": tensors, "outputs": [{"name": name} for name in outputs]}
        return {"Content-Type": "application/json"}, orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    for tensor, array in zip(tensors, arrays.values(), strict=True):
        tensor["parameters"] = {"binary_data_size": array.nbytes}
    requested = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = orjson.dumps({"inputs": tensors, "outputs": requested})
    little_endian = (array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays.values())
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return headers, b"".join([head, *(array.data.cast("B") for array in little_endian if array.size)])


def decode_response(body: bytes, header_length: str | None) -> dict[str, Array]:
    """Decode the tensors of an inference response; return writable arrays by name.

    Args:
        body: body of the response.
        header_length: value of the header ``HEADER_LENGTH``; None without it.

    Raises ValueError for a malformed response.
    """
    try:
        end = len(body) if header_length is None else int(header_length)
        arrays, offset = {}, end
        for tensor in orjson.loads(body[:end])["outputs"]:
            shape = tuple(int(size) for size in tensor["shape"])
            dtype = np.dtype(_DTYPE_OF[tensor["datatype"]])
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = np.array(tensor["data"], dtype)
            else:
                _check_size(tensor["name"], shape, dtype, size, len(body) - offset)
                array = np.frombuffer(body, dtype.newbyteorder("<"), math.prod(shape), offset).astype(dtype)
                offset += size
            arrays[str(tensor["name"])] = array.reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return arrays


def parse_spec(tensor: Mapping[str, Any]) -> ArraySpec:
    """Parse type and shape of an input or output in a model's metadata. Raises ValueError."""
    try:
        shape = tuple(None if size < 0 else int(size) for size in tensor["shape"])
        return ArraySpec(_DTYPE_OF.get(tensor["datatype"], str(tensor["datatype"])), shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_size(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], size: int, remaining: int) -> None:
    if not (min(shape, default=0) >= 0 and size == math.prod(shape) * dtype.itemsize <= remaining):
        raise ValueError(f"{name}: {size} of {remaining} bytes are stated for {dtype} of shape {shape}")
