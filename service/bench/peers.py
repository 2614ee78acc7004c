"""Other embedding services with the text graph of our bundle, each from an environment of its own."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.bench.servers import free_port, running
from vitascope.bundle import Bundle
from vitascope.external_data import external_files

INFINITY = "INFINITY"
"""The environment variable that names infinity's command."""
_MODEL = "text"
_PRIVATE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


@contextmanager
def infinity_server(command: str, bundle: Path, threads: int) -> Iterator[str]:
    """The URL of infinity with its ONNX engine, ready; its vectors are ours. ``threads``: 0 for one a core."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        write_for_infinity(bundle, Path(folder))
        # Its folder is where it runs: it looks for the graph by a name that must be relative.
        asked = ["v2", "--model-id", ".", "--served-model-name", _MODEL, "--engine", "optimum", "--device", "cpu"]
        asked += ["--pooling-method", "cls", "--batch-size", "32", "--no-model-warmup", "--log-level", "warning"]
        asked += ["--host", "127.0.0.1", "--port", str(port)]
        variables = _PRIVATE | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        url = f"http://127.0.0.1:{port}"
        with running([os.path.abspath(command), *asked], variables, url, "/health", Path(folder)):
            yield url


def infinity_body(texts: list[str]) -> bytes:
    """What infinity is asked at /embeddings."""
    return json.dumps({"model": _MODEL, "input": texts}).encode()


def write_for_infinity(bundle: Path, folder: Path) -> None:
    """The text graph as a model of transformers whose first hidden state is our vector, and the same tokenizer.

    Raises ImportError without the package onnx.
    """
    onnx: Any = importlib.import_module("onnx")
    opened = Bundle.open(bundle)
    source, manifest = opened.graph_path("text"), opened.manifest
    assert source is not None
    for weights in external_files(source):
        shutil.copy(source.parent / weights, folder / weights)
    model = onnx.load(source, load_external_data=False)
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


def _pad(tokenizer: dict[str, Any]) -> str:
    stated = tokenizer.get("padding") or {}
    return str(stated.get("pad_token", "[PAD]"))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))
