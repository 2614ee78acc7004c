"""A small server of the Open Inference Protocol over HTTP, written from its specification, for a model repository.

It has Triton's dialect (binary tensors, model configuration, outputs of at least two axes), or the plain one (JSON), as
MLServer.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

NUMPY = {"UINT8": "u1", "INT64": "<i8", "FP32": "<f4", "FP16": "<f2", "BOOL": "?"}
OIP = {"tensor(uint8)": "UINT8", "tensor(int64)": "INT64", "tensor(float)": "FP32"}


@dataclass
class Served:
    """A model; ``fingerprint`` is that of its configuration, None without one."""

    session: onnxruntime.InferenceSession
    fingerprint: str | None
    max_batch: int
    versions: list[str] = field(default_factory=lambda: ["1"])

    def metadata(self, name: str) -> dict[str, Any]:
        def tensors(arguments: list[Any]) -> list[dict[str, Any]]:
            sizes = [[size if isinstance(size, int) else -1 for size in tensor.shape] for tensor in arguments]
            return [
                {"name": tensor.name, "datatype": OIP[tensor.type], "shape": shape if len(shape) > 1 else [*shape, 1]}
                for tensor, shape in zip(arguments, sizes, strict=True)
            ]

        inputs, outputs = tensors(self.session.get_inputs()), tensors(self.session.get_outputs())
        return {"name": name, "versions": self.versions, "platform": "onnx", "inputs": inputs, "outputs": outputs}


Answer = tuple[int, dict[str, str], bytes]
Interfere = Callable[[str, Callable[[], Answer]], Answer | None]
"""Returns the response to a path, given a function for the regular one; None closes the connection."""


class ProtocolServer(ThreadingHTTPServer):
    """Counts requests by path, rows of each run, and connections; has the headers of the last request."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, repository: Path, port: int, *, plain: bool) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.plain = plain
        self.models = {folder.name: _read(folder) for folder in repository.iterdir()}
        self.requests: Counter[str] = Counter()
        self.rows: list[int] = []
        self.connections = 0
        self.headers: dict[str, str] = {}
        self.interfere: Interfere = lambda path, answer: answer()
        self.open: set[Any] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if path == "/v2":
            extensions = [] if self.plain else ["binary_tensor_data", "model_configuration"]
            return _json(200, {"name": "small", "version": "1", "extensions": extensions})
        if path == "/v2/health/ready":
            return 200, {}, b""
        match = re.fullmatch(r"/v2/models/([^/]+)(?:/(ready|config|infer))?", path)
        if match is None or match[1] not in self.models:
            return _json(404, {"error": f"Request for unknown model: {path}"})
        model, what = self.models[match[1]], match[2]
        if what is None:
            return _json(200, model.metadata(match[1]))
        if what == "ready":
            return 200, {}, b""
        if what == "config" and not self.plain:
            parameters = (
                {} if model.fingerprint is None else {"vitascope_fingerprint": {"string_value": model.fingerprint}}
            )
            return _json(200, {"name": match[1], "max_batch_size": model.max_batch, "parameters": parameters})
        if what == "infer" and method == "POST":
            return self._infer(model, headers, body)
        return _json(404, {"error": "not found"})

    def _infer(self, model: Served, headers: dict[str, str], body: bytes) -> Answer:
        length = headers.get("inference-header-content-length")
        if length is not None and self.plain:
            return _json(400, {"error": "binary data is not understood here"})
        end = len(body) if length is None else int(length)
        request, offset, inputs = json.loads(body[:end]), end, {}
        for tensor in request["inputs"]:
            dtype, size = np.dtype(NUMPY[tensor["datatype"]]), tensor.get("parameters", {}).get("binary_data_size")
            if size is None:
                array = np.array(tensor["data"], dtype)
            else:
                array = np.frombuffer(body[offset : offset + size], dtype)
                offset += size
            inputs[tensor["name"]] = array.reshape(tensor["shape"])
        for argument in model.session.get_inputs():
            if len(argument.shape) == 1:  # as it states it: with a second axis
                inputs[argument.name] = inputs[argument.name][:, 0]
        rows = len(next(iter(inputs.values())))
        self.rows.append(rows)
        if model.max_batch and rows > model.max_batch and not self.plain:
            return _json(400, {"error": f"inference request batch-size must be <= {model.max_batch}"})
        names = [output["name"] for output in request["outputs"]]
        try:
            arrays = model.session.run(names, inputs)
        except Exception as error:  # the library's errors share no base but Exception
            return _json(500, {"error": str(error)})
        outputs, tail = [], b""
        for name, array, output in zip(names, arrays, request["outputs"], strict=True):
            shape = array.shape if array.ndim > 1 else (*array.shape, 1)
            tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": shape}
            if output.get("parameters", {}).get("binary_data"):
                raw = struct.pack(f"<{array.size}f", *array.reshape(-1).tolist())
                tensor["parameters"] = {"binary_data_size": len(raw)}
                tail += raw
            else:
                tensor["data"] = array.reshape(-1).tolist()
            outputs.append(tensor)
        head = json.dumps({"model_name": "small", "outputs": outputs}).encode()
        if not tail:
            return 200, {"Content-Type": "application/json"}, head
        return 200, {"Inference-Header-Content-Length": str(len(head))}, head + tail


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ProtocolServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def _answer(self) -> None:
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = server.headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests[self.path] += 1
        answer = server.interfere(self.path, lambda: server.answer(self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
            return
        status, response_headers, content = answer
        self.send_response(status)
        for name, value in {**response_headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(repository: Path, *, plain: bool = False, port: int = 0) -> Iterator[ProtocolServer]:
    """Serve a repository of `vitascope triton`; at the end all connections are cut, as by a crash."""
    server = ProtocolServer(repository, port, plain=plain)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        for connection in list(server.open):
            with suppress(OSError):  # its thread may have ended
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()


def _read(folder: Path) -> Served:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    config = (folder / "config.pbtxt").read_text()
    fingerprint = re.search(r'"vitascope_fingerprint"\s+value \{\s+string_value: "([0-9a-f]+)"', config)
    max_batch = re.search(r"max_batch_size: (\d+)", config)
    assert fingerprint is not None
    assert max_batch is not None
    return Served(session, fingerprint[1], int(max_batch[1]))


def _json(status: int, value: object) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()
