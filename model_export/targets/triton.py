"""Triton model repository of a bundle: one model per graph, with hard links to the bundle's files if possible."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model_export.assemble import swap_folder
from vitascope.bundle.bundle import Bundle, file_sha256
from vitascope.bundle.graph_specs import ANSWER_IDS, ANSWER_MASK, ArraySpec
from vitascope.bundle.manifest import CAPTION_GRAPHS
from vitascope.bundle.onnx_files import external_files
from vitascope.engines.graphs import Graphs
from vitascope.errors import BundleUnsupported, InvalidInput, StorageError
from vitascope.integrations.kserve import served_name
from vitascope.integrations.kserve.engine import FINGERPRINT

GRAPH_NAME = "model.onnx"
CHECKSUMS_NAME = "SHA256SUMS"
VERSION = 1
"""Triton's model version. It is always 1, since the model's name contains the bundle's fingerprint."""
ONES_NAME = "ones"
"""File in `warmup` with an attention mask of ones; with zeros, there would be no token to attend to."""
WARM_UP_ANSWERS = 3
"""Number of candidate answers, and of tokens of each, in warm-up requests. The shortest answers have 3 tokens."""
_DATA_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32", "float16": "TYPE_FP16"}
_INSTANCE_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_LINK_ERRORS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class TritonOptions:
    """Settings with which Triton runs every graph of a bundle.

    Attributes:
        max_batch: Maximum batch size.
        device: "auto" uses all GPUs, or the CPU if there is no GPU.
        instances: Number of concurrent instances per GPU, or on the CPU.
        threads: Number of threads of a CPU instance; 0: one per core.
    """

    max_batch: int = 32
    device: Literal["auto", "cpu", "gpu"] = "auto"
    instances: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (("max_batch", 1), ("instances", 1), ("threads", 0)):
            if (value := getattr(self, name)) < minimum:
                raise InvalidInput(f"{name}: {value}; at least {minimum} was expected")


@dataclass(frozen=True)
class WrittenModel:
    """A model in the repository: its size in bytes, and whether its files are hard links to the bundle's files."""

    graph: str
    name: str
    bytes: int
    linked: bool


def write_repository(bundle: Bundle, out: Path, options: TritonOptions, *, copy: bool = False) -> list[WrittenModel]:
    """Write one model per graph of a bundle, except the caption graphs, into a model repository.

    Each model is written atomically and replaces a model of the same name. Other models in the repository are kept.

    Args:
        bundle: The bundle to serve.
        out: Folder of the repository, which may not exist yet.
        options: Settings of all models.
        copy: Whether to copy files instead of hard-linking them. Copies are verified. Files are also copied if the
            file system does not allow hard links.

    Returns:
        The models that were written.

    Raises:
        BundleUnsupported, BundleCorrupt, EngineError: A graph cannot be served.
        InvalidInput: `out` is not a folder.
        StorageError: The repository cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"out: {str(out)!r} is not a folder; a model repository, or nothing, was expected")
    graphs = Graphs(bundle, threads=1, device="cpu")
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [
            _write_model(bundle, graphs, graph, out, options, copy)
            for graph in graphs.names
            if graph not in CAPTION_GRAPHS
        ]
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error}") from error


def _write_model(
    bundle: Bundle, graphs: Graphs, graph: str, out: Path, options: TritonOptions, copy: bool
) -> WrittenModel:
    manifest = bundle.manifest
    name = served_name(manifest, graph)
    inputs, outputs = bundle.graph_spec(graph)
    actual = graphs.engine(graph).outputs
    config = model_config(
        name, inputs, {key: actual[key] for key in outputs}, manifest.text_length, bundle.fingerprint, options
    )
    # Not inside the repository, since Triton may be polling it.
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.resolve().parent))
    try:
        entries, linked = {}, True
        for source, target in _graph_files(bundle, graph).items():
            path = f"{VERSION}/{target}"
            entries[path] = manifest.files[source]
            linked &= _link_or_copy(bundle.folder / source, folder / path, entries[path].sha256, copy)
        if "attention_mask" in inputs:
            (folder / "warmup").mkdir()
            (folder / "warmup" / ONES_NAME).write_bytes(np.ones(manifest.text_length, "<i8").tobytes())
        checksums = "".join(f"{entry.sha256}  {path}\n" for path, entry in sorted(entries.items()))
        (folder / CHECKSUMS_NAME).write_text(checksums)
        comment = f"# {manifest.name} {manifest.version}, graph {graph}. Written by `vitascope triton`.\n"
        (folder / "config.pbtxt").write_text(comment + config, "utf-8")
        folder.chmod(0o755)
        swap_folder(folder, out / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return WrittenModel(graph, name, sum(entry.bytes for entry in entries.values()), linked)


def _graph_files(bundle: Bundle, graph: str) -> dict[str, str]:
    """Return {file of the bundle: path in the version folder} of a graph and its external weights."""
    name = bundle.manifest.graphs[graph]  # type: ignore[index]
    files = {name: GRAPH_NAME}
    for location in sorted(external_files(bundle.folder / name)):
        path = posixpath.normpath(location)
        if path.startswith("..") or path == GRAPH_NAME:
            raise BundleUnsupported(
                f"{name}: reads weights from {location!r}; a file below its own folder was expected"
            )
        files[posixpath.normpath(posixpath.join(posixpath.dirname(name), location))] = path
    return files


def _link_or_copy(source: Path, target: Path, sha256: str, copy: bool) -> bool:
    """Hard-link or copy a file; return whether it was hard-linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    resolved = source.resolve()
    if not copy:
        try:
            os.link(resolved, target)
            return True
        except OSError as error:
            if error.errno not in _LINK_ERRORS:
                raise
    shutil.copyfile(resolved, target)
    if file_sha256(target) != sha256:
        raise StorageError(f"{target.name}: the SHA-256 of the copy differs from the manifest's; nothing was written")
    return False


class _Enumerator(str):
    """Name of an enum value, which is not quoted in the protobuf text format."""


def model_config(
    name: str,
    inputs: Mapping[str, ArraySpec],
    outputs: Mapping[str, ArraySpec],
    text_length: int,
    fingerprint: str,
    options: TritonOptions,
) -> str:
    """Return the content of config.pbtxt: how Triton loads, batches and warms up a graph (model_config.proto).

    Args:
        name: Name of the model.
        inputs: Inputs, from the manifest.
        outputs: Outputs, from the graph, since Triton compares them with the graph.
        text_length: Number of tokens of a text in warm-up requests.
        fingerprint: The bundle's fingerprint.
        options: Settings of the model.

    Raises:
        BundleUnsupported: An output has no batch axis.
    """
    parameters = {FINGERPRINT: fingerprint}
    if options.threads:
        parameters["intra_op_thread_count"] = str(options.threads)
    if options.instances > 1:
        parameters["share_session_between_instances"] = "true"  # one copy of the weights per device
    return _text_format(
        {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": options.max_batch,
            "input": [_tensor(key, spec) for key, spec in inputs.items()],
            "output": [_output(name, key, spec) for key, spec in outputs.items()],
            "version_policy": {"specific": {"versions": VERSION}},
            # A smaller preferred size would split waiting requests; a delay of 0 does not wait for a full batch.
            "dynamic_batching": {"preferred_batch_size": options.max_batch, "max_queue_delay_microseconds": 0},
            "instance_group": {"count": options.instances, "kind": _Enumerator(_INSTANCE_KINDS[options.device])},
            "model_warmup": [
                {
                    "name": f"rows-{rows}",
                    "batch_size": rows,
                    "inputs": [
                        {"key": key, "value": _warm_up_input(key, spec, text_length)} for key, spec in inputs.items()
                    ],
                }
                for rows in sorted({1, options.max_batch})
            ],
            "response_cache": {"enable": False},
            "parameters": [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()],
        }
    )


def _tensor(name: str, spec: ArraySpec) -> dict[str, Any]:
    """Return the configuration of an input or output, without the batch axis, which Triton adds."""
    data_type, dims = _Enumerator(_DATA_TYPES[spec.dtype]), [-1 if size is None else size for size in spec.shape[1:]]
    # Triton does not support tensors with a batch axis only.
    reshape: dict[str, Any] = {} if dims else {"reshape": {"shape": []}}
    return {"name": name, "data_type": data_type, "dims": dims or [1], **reshape}


def _output(model: str, name: str, spec: ArraySpec) -> dict[str, Any]:
    if not spec.shape or spec.shape[0] is not None:
        raise BundleUnsupported(
            f"{model}: output {name!r} has the shape {spec.shape}; a free batch axis was expected, as Triton requires"
        )
    return _tensor(name, spec)


def _warm_up_input(name: str, spec: ArraySpec, text_length: int) -> dict[str, Any]:
    """Return one row of a warm-up request: a text of maximum length, one clip, or a few short answers."""
    if name in (ANSWER_IDS, ANSWER_MASK):
        free_size = WARM_UP_ANSWERS
    else:
        free_size = text_length if name in ("input_ids", "attention_mask") else 1
    dims = [free_size if size is None else size for size in spec.shape[1:]] or [1]
    content = {"input_data_file": ONES_NAME} if name == "attention_mask" else {"zero_data": True}
    return {"data_type": _Enumerator(_DATA_TYPES[spec.dtype]), "dims": dims, **content}


def _text_format(fields: Mapping[str, Any], indent: str = "") -> str:
    """Return fields in protobuf text format; a list of messages is a repeated field."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name} {{\n{_text_format(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            lines += [_text_format({name: item}, indent) for item in value]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: str | int | bool | Sequence[int]) -> str:
    # JSON and the text format agree on numbers, booleans, lists of numbers and strings.
    return str(value) if isinstance(value, _Enumerator) else json.dumps(value)
