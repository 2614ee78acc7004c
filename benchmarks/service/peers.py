"""Other embedding services with the text graph of our bundle, each from an environment of its own.

infinity takes the bundle's tokenizer, too: its vectors are ours. CLIP-as-service tokenises as CLIP does: a few nodes
before the graph make its token numbers fit, so that it does the same work for texts of the same length.
"""

from __future__ import annotations

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

from benchmarks.service.servers import START_SECONDS, free_port, running
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.onnx_files import external_files

_MODEL = "text"
_CLIP = "ViT-B-32::openai"
_CLIP_LENGTH = 77
_PRIVATE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "JINA_OPTOUT_TELEMETRY": "1",
}


class Peer(NamedTuple):
    """``variable``: of the environment, naming the command, a Python in the second case. ``path`` and ``body``: how it
    is asked about texts. ``server``: (command, bundle, threads) -> a context that runs it and has its URL.
    """

    name: str
    variable: str
    path: str
    body: Callable[[list[str]], bytes]
    server: Callable[[str, Path, int], AbstractContextManager[str]]


@contextmanager
def infinity_server(command: str, bundle: Path, threads: int) -> Iterator[str]:
    """The URL of infinity with its ONNX engine, ready; its vectors are ours. ``threads``: 0 for one a core."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        write_for_infinity(bundle, Path(folder))
        # Its folder is where it runs: it looks for the graph by a name that must be relative.
        arguments = ["v2", "--model-id", ".", "--served-model-name", _MODEL, "--engine", "optimum", "--device", "cpu"]
        arguments += ["--pooling-method", "cls", "--batch-size", "32", "--no-model-warmup", "--log-level", "warning"]
        arguments += ["--host", "127.0.0.1", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        with running([os.path.abspath(command), *arguments], _variables(threads), url, "/health", Path(folder)):
            yield url


@contextmanager
def clip_server(python: str, bundle: Path, threads: int) -> Iterator[str]:
    """The URL of CLIP-as-service with its ONNX executor, ready. ``python``: of an environment that has it."""
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
        with running(command, _variables(threads), url, "/docs", folder):
            _await_answer(f"{url}/post", clip_body(["is the model there?"]))
            yield url


def _await_answer(url: str, body: bytes) -> None:
    """Return when a question is answered: the gateway is there before the model. Raises TimeoutError."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"{url}: no answer: {error}") from error
            time.sleep(0.5)


def infinity_body(texts: list[str]) -> bytes:
    """What infinity is asked."""
    return json.dumps({"model": _MODEL, "input": texts}).encode()


def clip_body(texts: list[str]) -> bytes:
    """What CLIP-as-service is asked."""
    return json.dumps({"data": [{"text": text} for text in texts], "execEndpoint": "/"}).encode()


PEERS = (
    Peer("infinity", "INFINITY", "/embeddings", infinity_body, infinity_server),
    Peer("CLIP-as-service", "CLIP_SERVER", "/post", clip_body, clip_server),
)


def write_for_infinity(bundle: Path, folder: Path) -> None:
    """The text graph as a model of transformers whose first hidden state is our vector, and the same tokenizer.

    Raises ImportError without the package onnx.
    """
    onnx: Any = importlib.import_module("onnx")
    opened = Bundle.open(bundle)
    manifest, model = opened.manifest, _text_graph(onnx, opened, folder)
    floats, helper = onnx.TensorProto.FLOAT, onnx.helper
    model.graph.initializer.append(helper.make_tensor("place_of_tokens", onnx.TensorProto.INT64, [1], [1]))
    model.graph.node.append(helper.make_node("Unsqueeze", ["vector", "place_of_tokens"], ["last_hidden_state"]))
    del model.graph.output[:]
    shape = ["batch", 1, manifest.vector_width]
    model.graph.output.append(helper.make_tensor_value_info("last_hidden_state", floats, shape))
    onnx.save(model, folder / "model.onnx")
    assert manifest.tokenizer is not None
    written = json.loads((opened.folder / manifest.tokenizer).read_text())
    _write(folder / "tokenizer.json", written | {"padding": None, "truncation": None})
    length = manifest.text_length
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, "pad_token": _pad(written)}
    _write(folder / "tokenizer_config.json", tokenizer | {"model_input_names": ["input_ids", "attention_mask"]})
    # What kind of model it is matters to nobody; how long a text may be does.
    _write(folder / "config.json", {"model_type": "bert", "max_position_embeddings": length})


def write_for_clip(bundle: Path, folder: Path) -> None:
    """The text graph behind nodes that cut CLIP's 77 places to the longest text and bring its token numbers into our
    vocabulary, and a visual graph that nobody asks.

    Raises ImportError without the package onnx.
    """
    onnx: Any = importlib.import_module("onnx")
    opened = Bundle.open(bundle)
    model, node, kind = _text_graph(onnx, opened, folder), onnx.helper.make_node, onnx.TensorProto
    for step in model.graph.node:
        for index, name in enumerate(step.input):
            if name in ("input_ids", "attention_mask"):
                step.input[index] = f"our_{name}"
    words = opened.tokenizer().vocabulary_size
    numbers = {"first": 0, "one": 1, "most": opened.manifest.text_length, "words": words}
    for name, value in numbers.items():
        model.graph.initializer.append(onnx.helper.make_tensor(f"fit_{name}", kind.INT64, [1], [value]))
    before = [
        node("Cast", ["input_ids"], ["long_ids"], to=kind.INT64),
        node("Cast", ["attention_mask"], ["long_mask"], to=kind.INT64),
        node("ReduceSum", ["long_mask", "fit_one"], ["lengths"], keepdims=0),
        node("ReduceMax", ["lengths"], ["longest"], keepdims=1),
        node("Min", ["longest", "fit_most"], ["cut"]),
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
    """The text graph, to be changed; its weights are copied to the folder."""
    source = bundle.graph_path("text")
    assert source is not None
    for weights in external_files(source):
        shutil.copy(source.parent / weights, folder / weights)
    return onnx.load(source, load_external_data=False)


def _variables(threads: int) -> dict[str, str]:
    """Of the environment. ``threads``: 0 for one a core."""
    return _PRIVATE | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def _pad(tokenizer: dict[str, Any]) -> str:
    padding = tokenizer.get("padding") or {}
    return str(padding.get("pad_token", "[PAD]"))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))
