"""Speech models in folders, as sherpa-onnx loads them, whose transcript is always "HELLO WORLD", repeated.

Their graphs have the inputs, outputs and metadata of real ones. Shape letters: N batch, T and U frames of features
and of outputs, V tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLANK = "<blk>"
TOKENS = ("\u2581HE", "LLO", "\u2581WOR", "LD")
_PATTERN = (BLANK, "\u2581HE", BLANK, "LLO", BLANK, BLANK, "\u2581WOR", BLANK, "LD", BLANK, BLANK, BLANK)
"""Token of each output frame, over and over."""
_LABELS = ("<|en|>", "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>")
"""Tokens of SenseVoice's first output frames."""
_FACTOR = 4
"""Frames of features for each of the output."""
_SIZE = len(TOKENS) + 1

_NEMO = {"vocab_size": str(len(TOKENS)), "subsampling_factor": str(_FACTOR), "normalize_type": "per_feature"}
METADATA: dict[str, dict[str, str]] = {
    "zipformer_ctc": {"model_type": "zipformer2_ctc"},
    "nemo_ctc": {"model_type": "EncDecCTCModelBPE", **_NEMO},
    "transducer": {"model_type": "zipformer2"},
    "nemo_transducer": {"model_type": "EncDecRNNTBPEModel", "pred_rnn_layers": "1", "pred_hidden": "4", **_NEMO},
    "sense_voice": {
        "model_type": "sense_voice_ctc",
        "lfr_window_size": "7",
        "lfr_window_shift": "6",
        "normalize_samples": "0",
        "with_itn": "14",
        "without_itn": "15",
        **{f"lang_{code}": str(number) for number, code in enumerate(("auto", "zh", "en", "ja", "ko", "yue"))},
        "vocab_size": str(_SIZE + len(_LABELS)),
        "neg_mean": ",".join(["0"] * 560),
        "inv_stddev": ",".join(["1"] * 560),
    },
}
KINDS = tuple(METADATA)


def make_speech_model(folder: Path, kind: str = "zipformer_ctc") -> Path:
    """Write a model of one of ``KINDS``, and return its folder."""
    folder.mkdir(parents=True)
    is_nemo = kind.startswith("nemo")
    labels = _LABELS if kind == "sense_voice" else ()
    tokens = [*TOKENS, BLANK] if is_nemo else [BLANK, *TOKENS, *labels]
    outputs = (*labels, *_PATTERN)
    scores = np.full((len(outputs), len(tokens)), -10, np.float32)
    scores[:, tokens.index(BLANK)] = -5
    scores[np.arange(len(outputs)), [tokens.index(token) for token in outputs]] = -0.01
    first = "encoder" if kind.endswith("transducer") else "model"
    _write_acoustic_graph(folder / f"{first}.onnx", kind, scores[: len(labels)], scores[len(labels) :])
    if first == "encoder":
        write = _write_nemo_transducer if is_nemo else _write_transducer
        write(folder)
    (folder / "tokens.txt").write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    return folder


def _write_acoustic_graph(path: Path, kind: str, labels: np.ndarray, scores: np.ndarray) -> None:
    """Write the graph that gives scores (N, U, V), or (N, V, U), for features: those of the labels first."""
    is_nemo, factor = kind.startswith("nemo"), 1 if kind == "sense_voice" else _FACTOR
    features = _value("features", ["N", 80, "T"] if is_nemo else ["N", "T", 560 if kind == "sense_voice" else 80])
    length = _value("length", ["N"], TensorProto.INT32 if kind == "sense_voice" else TensorProto.INT64)
    constants = {"axis": 2 if is_nemo else 1, "factor": factor, "zero": 0, "one": 1, "period": len(scores)}
    nodes = [
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["frames"], axis=0),
        helper.make_node("Div", ["frames", "factor"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["positions"]),
        helper.make_node("Mod", ["positions", "period"], ["phases"]),
        helper.make_node("Gather", ["scores", "phases"], ["rows"], axis=0),
        helper.make_node("Concat", ["labels", "rows"], ["outputs"], axis=0),
        helper.make_node("Unsqueeze", ["outputs", "first"], ["batch"]),
        helper.make_node("Transpose", ["batch"], ["out"], perm=[0, 2, 1] if kind == "nemo_transducer" else [0, 1, 2]),
    ]
    inputs, outputs = [features, length], [_value("out", ["N", None, None])]
    if kind == "sense_voice":
        inputs += [_value(name, ["N"], TensorProto.INT32) for name in ("language", "text_norm")]
    elif kind != "nemo_ctc":
        nodes.append(helper.make_node("Div", ["length", "factor"], ["out_length"]))
        outputs.append(_value("out_length", ["N"], TensorProto.INT64))
    arrays = {name: np.int64(value) for name, value in constants.items()}
    _save(path, nodes, inputs, outputs, METADATA[kind], **arrays, labels=labels, scores=scores, first=np.array([0]))


def _write_transducer(folder: Path) -> None:
    """Write a decoder whose output is 0, and a joiner."""
    nodes = [
        helper.make_node("Cast", ["y"], ["context"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["context", "axes"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zeros"], ["out"]),
    ]
    metadata = {"vocab_size": str(_SIZE), "context_size": "2"}
    zeros, axes = np.zeros((1, _SIZE), np.float32), np.array([1])
    inputs = [_value("y", ["N", 2], TensorProto.INT64)]
    _save(folder / "decoder.onnx", nodes, inputs, [_value("out", ["N", _SIZE])], metadata, zeros=zeros, axes=axes)
    inputs = [_value("encoder_out", ["N", _SIZE]), _value("decoder_out", ["N", _SIZE])]
    join = [helper.make_node("Add", ["encoder_out", "decoder_out"], ["logit"])]
    _save(folder / "joiner.onnx", join, inputs, [_value("logit", ["N", _SIZE])], {"joiner_dim": str(_SIZE)})


def _write_nemo_transducer(folder: Path) -> None:
    """Write a decoder that rejects the last token, so that none is repeated within a frame, and a joiner."""
    nodes = [
        helper.make_node("Gather", ["rejections", "targets"], ["rows"], axis=0),
        helper.make_node("Transpose", ["rows"], ["out"], perm=[0, 2, 1]),
        *(helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("length", "state1", "state2")),
    ]
    lengths = [_value("length", ["N"], TensorProto.INT32), _value("length_out", ["N"], TensorProto.INT32)]
    states = [_value(name, [1, "N", 4]) for name in ("state1", "state2", "state1_out", "state2_out")]
    inputs = [_value("targets", ["N", 1], TensorProto.INT32), lengths[0], *states[:2]]
    outputs = [_value("out", ["N", _SIZE, 1]), lengths[1], *states[2:]]
    rejections = np.diag([-20.0] * len(TOKENS) + [0.0]).astype(np.float32)
    _save(folder / "decoder.onnx", nodes, inputs, outputs, {}, rejections=rejections)
    nodes = [
        helper.make_node("Add", ["encoder_outputs", "decoder_outputs"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["row"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["row", "axes"], ["outputs"]),
    ]
    inputs = [_value(name, ["N", _SIZE, 1]) for name in ("encoder_outputs", "decoder_outputs")]
    _save(folder / "joiner.onnx", nodes, inputs, [_value("outputs", ["N", 1, 1, _SIZE])], {}, axes=np.array([2]))


def _value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    metadata: dict[str, str],
    **constants: Any,
) -> None:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
