"""`config.pbtxt` of one graph: how Triton loads it, batches for it and warms it up (model_config.proto)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitascope.bundle.graph_spec import ANSWER_IDS, ANSWER_MASK
from vitascope.engines.onnx_runtime import ArraySpec
from vitascope.errors import BundleUnsupported, InvalidInput
from vitascope.integrations.kserve.engine import FINGERPRINT

VERSION = 1
"""Of the model, in Triton's counting: another bundle is another model, since its name holds the fingerprint."""
ONES = "ones"
"""The file in `warmup` that an attention mask is filled from: a mask of zeros would leave nothing to attend to."""
_ANSWERS = 3
"""How many that are given to a graph, and of how many tokens each: no answer has fewer."""
_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32", "float16": "TYPE_FP16"}
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}


@dataclass(frozen=True)
class Serving:
    """How Triton runs every graph of a bundle.

    ``max_batch``: rows in one run. ``device``: auto is each GPU, and the CPU where there is none. ``instances``: that
    run at a time, on each GPU or on the CPU. ``threads``: of one instance on the CPU, 0: one per core.
    """

    max_batch: int = 32
    device: Literal["auto", "cpu", "gpu"] = "auto"
    instances: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("instances", 1), ("threads", 0)):
            if (value := getattr(self, name)) < least:
                raise InvalidInput(f"{name}: {value}; at least {least} was expected")


class Word(str):
    """A value that is no string in the text format: the name of an enumerator."""


def model_config(
    name: str,
    inputs: Mapping[str, ArraySpec],
    outputs: Mapping[str, ArraySpec],
    text_length: int,
    fingerprint: str,
    serving: Serving,
) -> str:
    """The text of the file. ``inputs`` as the manifest states them, ``outputs`` as the graph does: Triton compares.

    Raises BundleUnsupported for an output whose shape the graph does not state.
    """
    parameters = {FINGERPRINT: fingerprint}
    if serving.threads:
        parameters["intra_op_thread_count"] = str(serving.threads)
    if serving.instances > 1:
        parameters["share_session_between_instances"] = "true"  # one copy of the weights for all of a device
    return _text(
        {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": serving.max_batch,
            "input": [_tensor(key, spec) for key, spec in inputs.items()],
            "output": [_output(name, key, spec) for key, spec in outputs.items()],
            "version_policy": {"specific": {"versions": VERSION}},
            # A preferred size below the largest would cut what waits down to it; nothing waits for a batch to fill.
            "dynamic_batching": {"preferred_batch_size": serving.max_batch, "max_queue_delay_microseconds": 0},
            "instance_group": {"count": serving.instances, "kind": Word(_KINDS[serving.device])},
            "model_warmup": [
                {
                    "name": f"rows-{rows}",
                    "batch_size": rows,
                    "inputs": [
                        {"key": key, "value": _warm_input(key, spec, text_length)} for key, spec in inputs.items()
                    ],
                }
                for rows in sorted({1, serving.max_batch})
            ],
            "response_cache": {"enable": False},
            "parameters": [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()],
        }
    )


def _tensor(name: str, spec: ArraySpec) -> dict[str, Any]:
    """Without the first size, B, which Triton adds."""
    return {
        "name": name,
        "data_type": Word(_TYPES[spec.dtype]),
        "dims": [-1 if s is None else s for s in spec.shape[1:]],
    }


def _output(model: str, name: str, spec: ArraySpec) -> dict[str, Any]:
    if not spec.shape or spec.shape[0] is not None:
        raise BundleUnsupported(
            f"{model}: output {name!r} states the shape {spec.shape}; one that begins with any number "
            "of rows was expected, which Triton needs"
        )
    stated = _tensor(name, spec)
    # Triton knows no output with nothing but rows.
    return stated if stated["dims"] else stated | {"dims": [1], "reshape": {"shape": []}}


def _warm_input(name: str, spec: ArraySpec, text_length: int) -> dict[str, Any]:
    """One row: a text of full length, one clip, or a few short answers."""
    if name in (ANSWER_IDS, ANSWER_MASK):
        free = _ANSWERS
    else:
        free = text_length if name in ("input_ids", "attention_mask") else 1
    dims = [free if size is None else size for size in spec.shape[1:]]
    filled = {"input_data_file": ONES} if name == "attention_mask" else {"zero_data": True}
    return {"data_type": Word(_TYPES[spec.dtype]), "dims": dims, **filled}


def _text(fields: Mapping[str, Any], indent: str = "") -> str:
    """Protocol buffers' text format. A list is a field that is repeated."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name} {{\n{_text(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
            lines += [_text({name: one}, indent) for one in value]
        else:
            lines.append(f"{indent}{name}: {_value(value)}\n")
    return "".join(lines)


def _value(value: str | int | bool | Sequence[int]) -> str:
    if isinstance(value, Word):
        return str(value)
    # JSON writes numbers, true, false, lists of numbers and strings as the text format does.
    return json.dumps(value)
