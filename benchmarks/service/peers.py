"""Comparison with a plain FastAPI handler, infinity and CLIP-as-service, all with the text graph of the bundle.

infinity uses the bundle's tokenizer as well, so its embeddings equal ours. CLIP-as-service tokenizes as CLIP does;
nodes before the graph map its token ids into our vocabulary, so that texts of equal length cost it the same work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from benchmarks.service.load import Checks, Outcome, closed_loop, milliseconds, open_loop, post_bytes, sentences
from benchmarks.service.servers import START_SECONDS, free_port, plain_server, server_process, service
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.onnx_files import external_files

OURS = "ours"
PLAIN = "plain FastAPI handler"
_MODEL = "text"
_CLIP = "ViT-B-32::openai"
_CLIP_LENGTH = 77
_PRIVATE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "JINA_OPTOUT_TELEMETRY": "1",
}


Body = Callable[[list[str]], bytes]


class Peer(NamedTuple):
    """Another service.

    Attributes:
        name: Its name in the results.
        variable: The environment variable with its command; for CLIP-as-service with its Python interpreter.
        path: Path of its route for texts.
        body: Function that returns the request body for texts.
        server: Context manager that runs the command with a bundle and a number of threads, and yields the URL.
    """

    name: str
    variable: str
    path: str
    body: Body
    server: Callable[[str, Path, int], AbstractContextManager[str]]


@contextmanager
def infinity_server(command: str, bundle: Path, threads: int) -> Iterator[str]:
    """Run infinity with its ONNX engine; yield its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        write_for_infinity(bundle, Path(folder))
        # It runs in its folder, since the name of the graph must be relative.
        arguments = ["v2", "--model-id", ".", "--served-model-name", _MODEL, "--engine", "optimum", "--device", "cpu"]
        arguments += ["--pooling-method", "cls", "--batch-size", "32", "--no-model-warmup", "--log-level", "warning"]
        arguments += ["--host", "127.0.0.1", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        with server_process([os.path.abspath(command), *arguments], _variables(threads), url, "/health", Path(folder)):
            yield url


@contextmanager
def clip_server(python: str, bundle: Path, threads: int) -> Iterator[str]:
    """Run CLIP-as-service with its ONNX executor in the environment of ``python``; yield its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_for_clip(bundle, folder)
        executor = {"name": _CLIP, "device": "cpu", "model_path": name}
        uses = {"jtype": "CLIPEncoder", "with": executor, "metas": {"py_modules": ["clip_server.executors.clip_onnx"]}}
        flow: dict[str, Any] = {"jtype": "Flow", "version": "1", "executors": [{"name": "clip", "uses": uses}]}
        flow["with"] = {"port": port, "protocol": "http", "host": "127.0.0.1"}
        _write(folder / "flow.yml", flow)  # JSON is YAML
        command = [os.path.abspath(python), "-m", "clip_server", "flow.yml"]
        url = f"http://127.0.0.1:{port}"
        with server_process(command, _variables(threads), url, "/docs", folder):
            _wait_for_response(f"{url}/post", clip_body(["a dog runs"]))
            yield url


def _wait_for_response(url: str, body: bytes) -> None:
    """Wait until a request is answered, as the gateway starts before the model. Raises TimeoutError."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"{url}: no response: {error}") from error
            time.sleep(0.5)


def infinity_body(texts: list[str]) -> bytes:
    return json.dumps({"model": _MODEL, "input": texts}).encode()


def clip_body(texts: list[str]) -> bytes:
    return json.dumps({"data": [{"text": text} for text in texts], "execEndpoint": "/"}).encode()


PEERS = (
    Peer("infinity", "INFINITY", "/embeddings", infinity_body, infinity_server),
    Peer("CLIP-as-service", "CLIP_SERVER", "/post", clip_body, clip_server),
)


def write_for_infinity(bundle: Path, folder: Path) -> None:
    """Write the text graph as a Transformers model whose first hidden state is our embedding, and the tokenizer.

    Raises:
        ImportError: The package onnx is not installed.
    """
    onnx: Any = importlib.import_module("onnx")
    opened = Bundle.open(bundle)
    manifest, model = opened.manifest, _text_graph(onnx, opened, folder)
    floats, helper = onnx.TensorProto.FLOAT, onnx.helper
    model.graph.initializer.append(helper.make_tensor("token_axis", onnx.TensorProto.INT64, [1], [1]))
    model.graph.node.append(helper.make_node("Unsqueeze", ["vector", "token_axis"], ["last_hidden_state"]))
    del model.graph.output[:]
    shape = ["batch", 1, manifest.vector_width]
    model.graph.output.append(helper.make_tensor_value_info("last_hidden_state", floats, shape))
    onnx.save(model, folder / "model.onnx")
    assert manifest.tokenizer is not None
    tokenizer = json.loads((opened.folder / manifest.tokenizer).read_text())
    _write(folder / "tokenizer.json", tokenizer | {"padding": None, "truncation": None})
    length = manifest.text_length
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "pad_token": _pad(tokenizer),
    }
    _write(folder / "tokenizer_config.json", tokenizer_config | {"model_input_names": ["input_ids", "attention_mask"]})
    # The model type is not used; the maximum length is.
    _write(folder / "config.json", {"model_type": "bert", "max_position_embeddings": length})


def write_for_clip(bundle: Path, folder: Path) -> None:
    """Write the text graph for CLIP-as-service, and an unused visual graph.

    Nodes before the graph truncate CLIP's 77 positions to the longest text and map its token ids into our vocabulary.

    Raises:
        ImportError: The package onnx is not installed.
    """
    onnx: Any = importlib.import_module("onnx")
    opened = Bundle.open(bundle)
    model, node, kind = _text_graph(onnx, opened, folder), onnx.helper.make_node, onnx.TensorProto
    for step in model.graph.node:
        for index, name in enumerate(step.input):
            if name in ("input_ids", "attention_mask"):
                step.input[index] = f"our_{name}"
    numbers = {"first": 0, "one": 1, "max": opened.manifest.text_length, "words": opened.tokenizer().vocabulary_size}
    for name, value in numbers.items():
        model.graph.initializer.append(onnx.helper.make_tensor(f"fit_{name}", kind.INT64, [1], [value]))
    before = [
        node("Cast", ["input_ids"], ["long_ids"], to=kind.INT64),
        node("Cast", ["attention_mask"], ["long_mask"], to=kind.INT64),
        node("ReduceSum", ["long_mask", "fit_one"], ["lengths"], keepdims=0),
        node("ReduceMax", ["lengths"], ["longest"], keepdims=1),
        node("Min", ["longest", "fit_max"], ["cut"]),
        node("Slice", ["long_ids", "fit_first", "cut", "fit_one"], ["short_ids"]),
        node("Slice", ["long_mask", "fit_first", "cut", "fit_one"], ["our_attention_mask"]),
        node("Mod", ["short_ids", "fit_words"], ["our_input_ids"]),
    ]
    after = list(model.graph.node)
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(before + after)
    shape: list[str | int] = ["batch", _CLIP_LENGTH]
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, kind.INT32, shape) for name in ("input_ids", "attention_mask")
    )
    onnx.save(model, folder / "textual.onnx")
    ends = [onnx.helper.make_tensor_value_info(name, kind.FLOAT, ["batch"]) for name in ("pixels", "nothing")]
    graph = onnx.helper.make_graph([node("Identity", ["pixels"], ["nothing"])], "visual", ends[:1], ends[1:])
    onnx_model = onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)
    onnx.save(onnx_model, folder / "visual.onnx")


def _text_graph(onnx: Any, bundle: Bundle, folder: Path) -> Any:
    """Load the text graph without its weights, which are copied to the folder."""
    source = bundle.graph_path("text")
    assert source is not None
    for weights in external_files(source):
        shutil.copy(source.parent / weights, folder / weights)
    return onnx.load(source, load_external_data=False)


def _variables(threads: int) -> dict[str, str]:
    """Return environment variables; with 0 threads, each library uses its default."""
    return _PRIVATE | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def _pad(tokenizer: dict[str, Any]) -> str:
    padding = tokenizer.get("padding") or {}
    return str(padding.get("pad_token", "[PAD]"))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def run_peers(args: argparse.Namespace, checks: Checks) -> None:
    """Compare the maximum rate of requests with a 99th percentile of the latency within ``args.bound``."""
    texts = sentences(1000, seed=2)
    max_rates: dict[str, float] = {}
    print(f"\n## One text per request, maximum rate with p99 <= {milliseconds(args.bound)} ms\n")
    for name, path, server, body in _servers(args.bundle, args.threads):
        with server as url:
            requests = [post_bytes(f"{url}{path}", body([text])) for text in texts]
            uvloop.run(closed_loop(url, requests, 8, 2.0))
            top = uvloop.run(closed_loop(url, requests, 64, args.seconds)).rate

            def is_within(rate: float, url: str = url, requests: list[bytes] = requests) -> bool:
                outcome: Outcome = uvloop.run(open_loop(url, requests, rate, args.seconds))
                return not outcome.failed and not outcome.refused and outcome.quantile(0.99) <= args.bound

            max_rates[name] = _bisect(is_within, top * 1.2)
            print(f"- {name}: {max_rates[name]:,.0f} requests/s (closed loop of 64: {top:,.0f})")
    for peer in PEERS:
        if peer.variable not in os.environ:
            print(f"- {peer.name}: not measured; {peer.variable} does not name its command")
    print()
    ours = max_rates.pop(OURS)
    for name, rate in max_rates.items():
        ratio = ours / rate if rate else float("inf")
        if name == PLAIN and len(max_rates) > 1:
            print(f"      {ratio:.2f} times the {name} at equal p99")
        else:
            checks.check(f"{ratio:.2f} >= 1.5 times {name} at equal p99", ratio >= 1.5)


def _servers(bundle: Path, threads: int) -> Iterator[tuple[str, str, AbstractContextManager[str], Body]]:
    """Yield the name, path, context and request body of this service, the plain handler and available peers."""

    def body(texts: list[str]) -> bytes:
        return json.dumps({"input": texts}).encode()

    yield OURS, "/v1/embeddings", _our_service(bundle, threads), body
    yield PLAIN, "/v1/embeddings", plain_server(bundle, threads), body
    for peer in PEERS:
        if peer.variable in os.environ:
            yield peer.name, peer.path, peer.server(os.environ[peer.variable], bundle, threads), peer.body


@contextmanager
def _our_service(bundle: Path, threads: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as data, service(bundle, Path(data), threads) as (url, _):
        yield url


def _bisect(is_within: Callable[[float], bool], upper: float, steps: int = 6) -> float:
    """Return the highest rate that is within bounds."""
    low, high = 0.0, upper
    for _ in range(steps):
        middle = (low + high) / 2
        if is_within(middle):
            low = middle
        else:
            high = middle
    return low
