"""Speech models in folders, as sherpa-onnx loads them, that write down "HELLO WORLD" whatever they hear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

TOKENS = ("<blk>", "\u2581HE", "LLO", "\u2581WOR", "LD")
_PATTERN = (0, 1, 0, 2, 0, 0, 3, 0, 4, 0, 0, 0)
"""Token of each output frame, over and over; 0 is blank."""
_FACTOR = 4
"""Frames of the features for each of the output."""

_KINDS: dict[str, dict[str, str]] = {
    "zipformer_ctc": {"model_type": "zipformer2_ctc"},
    "nemo_ctc": {
        "model_type": "EncDecCTCModelBPE",
        "vocab_size": str(len(TOKENS) - 1),
        "subsampling_factor": str(_FACTOR),
        "normalize_type": "per_feature",
    },
    "sense_voice": {
        "model_type": "sense_voice_ctc",
        "lfr_window_size": "7",
        "lfr_window_shift": "6",
        "normalize_samples": "0",
        "with_itn": "14",
        "without_itn": "15",
        **{f"lang_{code}": str(number) for number, code in enumerate(("auto", "zh", "en", "ja", "ko", "yue"))},
        "vocab_size": str(len(TOKENS)),
        "neg_mean": ",".join(["0"] * 560),
        "inv_stddev": ",".join(["1"] * 560),
    },
}


def make_ctc_model(folder: Path, kind: str = "zipformer_ctc") -> Path:
    """Write a model of one graph: "zipformer_ctc", "nemo_ctc" or "sense_voice"."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = list(TOKENS)
    pattern = np.array(_PATTERN)
    features, length, time_axis = "x", "x_lens", 1
    inputs = [_value("x", ["N", "T", 80 if kind == "zipformer_ctc" else 560]), _value("x_lens", ["N"], whole=True)]
    factor = _FACTOR
    if kind == "nemo_ctc":  # blank is the last token
        features, length, time_axis = "audio_signal", "length", 2
        inputs = [_value(features, ["N", 80, "T"]), _value(length, ["N"], whole=True)]
        tokens, pattern = [*TOKENS[1:], TOKENS[0]], (pattern - 1) % len(TOKENS)
    elif kind == "sense_voice":  # the first four outputs are language, emotion, event and text normalisation
        factor = 1
        inputs = [
            _value("x", ["N", "T", 560]),
            *(_value(name, ["N"], whole=True, narrow=True) for name in ("x_length", "language", "text_norm")),
        ]
        length = "x_length"
    scores = np.full((len(pattern), len(tokens)), -10, np.float32)
    scores[np.arange(len(pattern)), pattern] = -0.01
    nodes = [
        helper.make_node("Shape", [features], ["shape"]),
        helper.make_node("Gather", ["shape", "time_axis"], ["frames"], axis=0),
        helper.make_node("Div", ["frames", "factor"], ["outputs"]),
        helper.make_node("Range", ["zero", "outputs", "one"], ["positions"]),
        helper.make_node("Mod", ["positions", "period"], ["phases"]),
        helper.make_node("Gather", ["scores", "phases"], ["rows"], axis=0),
        helper.make_node("Unsqueeze", ["rows", "first"], ["log_probs"]),
    ]
    outputs = [_value("log_probs", ["N", "U", len(tokens)])]
    if kind == "zipformer_ctc":
        nodes.append(helper.make_node("Div", [length, "factor"], ["log_probs_len"]))
        outputs.append(_value("log_probs_len", ["N"], whole=True))
    constants = {"time_axis": time_axis, "factor": factor, "zero": 0, "one": 1, "period": len(pattern), "first": [0]}
    graph = helper.make_graph(
        nodes,
        kind,
        inputs,
        outputs,
        [
            *(onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()),
            onnx.numpy_helper.from_array(scores, "scores"),
        ],
    )
    _save(graph, folder / "model.onnx", _KINDS[kind])
    (folder / "tokens.txt").write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    return folder


def _value(name: str, shape: list[Any], *, whole: bool = False, narrow: bool = False) -> onnx.ValueInfoProto:
    kind = TensorProto.INT32 if narrow else TensorProto.INT64 if whole else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, shape)


def _save(graph: onnx.GraphProto, path: Path, metadata: dict[str, str]) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
