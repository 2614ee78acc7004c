"""A small bundle of hand-written graphs that recognize colours, made in milliseconds.

A video is its mean colour, softly assigned to eight named colours; a text is the colours that it names. "a red thing"
is nearest to a red video, the match logit is high if text and video agree, "which colour is it" is answered from the
visual tokens, and "is it red" with yes or no. With the task "audio_retrieval", each colour is also a tone (``TONES``).
With the task "moments", a sentence is true of the windows of its colour, and a moment is a run of such windows.
With the task "captioning", a red video is "a red thing moves" word by word, and "the red thing moves" as the sentence
that is most probable as a whole (``NEXT_WORDS``).
With the task "grounding", a colour is at the right of a picture that has it.
With the task "entailment", a red video entails "a red thing", contradicts "a blue thing", and is neutral about "a dog".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from vitascope.bundle.manifest import CAPTION_GRAPHS, GRAPHS_OF_TASK

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
    "white": (1, 1, 1),
    "black": (0, 0, 0),
}
ANSWERS = [*COLOURS, "yes", "no"]
STREAMS: list[dict[str, Any]] = [
    {"name": "high", "frames": 1, "height": 64, "width": 64, "placement": "middle"},
    {"name": "low", "frames": 6, "height": 32, "width": 32, "placement": "uniform"},
]
AUDIO: dict[str, Any] = {"sample_rate": 8000, "seconds": 0.5, "fill": "silence", "tokens": 2}
MOMENTS: dict[str, Any] = {"window_seconds": 0.5, "max_windows": 16}
TONES = {colour: 250 * (number + 1) for number, colour in enumerate(COLOURS)}
"""Hz."""
GROUNDING: dict[str, Any] = {"rows": 1, "columns": 2, "cells": 2}
BOX = (0.5, 0.25, 0.875, 0.75)
"""Of the two visual tokens; the second is returned."""
CAPTIONS: dict[str, Any] = {"layers": 1, "heads": 2, "max_tokens": 8}
TEXT_LENGTH, ANSWER_LENGTH = 16, 6
SMALL_WIDTH = 12
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_WORDS = [
    *("a", "an", "the", "thing", "ball", "square", "circle", "video", "of", "on", "in", "is", "it", "moves"),
    *("left", "right", "up", "down", "and", "which", "what", "colour", "color", "shape", "big", "small"),
    *("dog", "cat", "car", "person", "there", "?", "."),
]
VOCABULARY = {word: number for number, word in enumerate([*_SPECIAL, *COLOURS, *_WORDS])}
NEXT_WORDS: dict[str, dict[str, float]] = {
    "[CLS]": {"a": 5, "the": 4},
    "a": {"big": 60, "small": 30, **dict.fromkeys(COLOURS, 1)},
    "the": dict.fromkeys(COLOURS, 1),
    "big": {"small": 60, **dict.fromkeys(COLOURS, 1)},
    "small": {"big": 60, **dict.fromkeys(COLOURS, 1)},
    **{colour: {"thing": 8, "ball": 1, "square": 1} for colour in COLOURS},
    "thing": {"moves": 6, "[SEP]": 3},
    "ball": {"moves": 1, "[SEP]": 1},
    "square": {"moves": 1, "[SEP]": 1},
    "moves": {"[SEP]": 8, "left": 1, "right": 1},
    "left": {"[SEP]": 1},
    "right": {"[SEP]": 1},
}
"""Weights of the words that may follow a word in a caption, unless they were said before. Those of colours are
multiplied by exp(``COLOUR_GAIN`` * share), by their shares in picture and sound, whose colours count half."""
COLOUR_GAIN = 5.0
_ASKING = ("which", "what")
Array = NDArray[Any]


def make_small_bundle(
    folder: Path,
    *,
    seed: int = 0,
    width: int = 16,
    tasks: Sequence[str] = ("retrieval", "matching", "answering"),
    external_data: bool = False,
    version: str = "1",
    answers: Sequence[str] | None = ANSWERS,
    free_form_answers: bool = False,
    default_rerank: int | None = None,
    sound_reranking: dict[str, Any] | None = None,
    audio: dict[str, Any] = AUDIO,
    dynamic_audio: bool = False,
) -> Path:
    """Write the bundle into ``folder``, created if missing, and return the folder.

    ``seed`` and ``width`` (D and K, at least 8) change the embeddings and so the fingerprint. With ``external_data``
    the video and text graphs share a ``weights.bin``, and the caption graphs a ``captions.bin``. With
    ``free_form_answers`` the answer graph scores candidates by the colours that they name. Without the task "retrieval"
    and with ``free_form_answers`` there are no embeddings.
    Embeddings may be truncated to ``SMALL_WIDTH`` dimensions.
    ``default_rerank``: the number of reranked results that the manifest states; None: it states none.
    ``sound_reranking``: the same of searches by pictures and sound, beside ``default_rerank``. ``audio``: the audio
    stream of bundles with the task "audio_retrieval", without ``width``; with that task alone there is no video.
    With ``fused``, matching, answers and captions see the colours of pictures and sound. ``dynamic_audio``: captions
    take any number of audio tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("weights.bin", "captions.bin", "grounding.bin"):
        (folder / name).unlink(missing_ok=True)
    weights = _weights(seed, width)
    fuses_audio = "audio_retrieval" in tasks and audio.get("fused", False)
    makers = _graph_makers(audio, fuses_audio, dynamic_audio, free_form_answers)
    graphs = sorted({graph for task in tasks for graph in GRAPHS_OF_TASK[task]})
    for graph in graphs:
        model = makers[graph](weights)
        if external_data and graph != "entailment":  # keeps its weights inside
            own = {**dict.fromkeys(CAPTION_GRAPHS, "captions.bin"), "grounding": "grounding.bin"}
            _move_outside(model, folder / own.get(graph, "weights.bin"))
        (folder / f"{graph}.onnx").write_bytes(model.SerializeToString())
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "MODEL_CARD.md").write_text("# Small bundle\n\nKnows eight colours. For tests.\n")
    (folder / "parity.json").write_text("{}\n")
    parts = _manifest_parts(graphs, external_data, dynamic_audio)
    manifest = {**_manifest(graphs, width, tasks), **parts, "version": version}
    if "answering" in tasks and answers is not None:
        (folder / "answers.json").write_text(json.dumps(answers))
        manifest["answers"] = "answers.json"
    if free_form_answers:
        manifest["answer_length"] = ANSWER_LENGTH
        manifest["vector_width"] = width if "retrieval" in tasks else 0
        manifest["matryoshka_dimensions"] = []
    if "audio" in graphs:
        manifest["audio"] = {**audio, "width": width if audio["tokens"] else 0}
    if default_rerank is not None:
        manifest["reranking"] = {"candidates": default_rerank}
        manifest["reranking"] |= {} if sound_reranking is None else {"sound": sound_reranking}
    write_manifest(folder, manifest)
    return folder


def _graph_makers(
    audio: dict[str, Any], fuses_audio: bool, dynamic_audio: bool, free_form_answers: bool
) -> dict[str, Callable[[dict[str, Array]], onnx.ModelProto]]:
    """Return the functions that make each graph of the weights."""
    return {
        "text": _text_graph,
        "video": _video_graph,
        "audio": partial(_audio_graph, audio),
        "moments": _moments_graph,
        "caption_prefill": partial(_caption_prefill_graph, fuses_audio, dynamic_audio),
        "caption_step": partial(_caption_step_graph, fuses_audio, dynamic_audio),
        "grounding": _grounding_graph,
        "match": partial(_match_graph, fuses_audio),
        "entailment": partial(_entailment_graph, fuses_audio),
        "answer": partial(_free_form_answer_graph if free_form_answers else _answer_graph, fuses_audio),
    }


def _manifest_parts(graphs: Sequence[str], external_data: bool, dynamic_audio: bool) -> dict[str, Any]:
    """Return the fields of the manifest that describe heads and decoders."""
    parts = {}
    if "moments" in graphs:
        parts["moments"] = MOMENTS
    if "grounding" in graphs:
        parts["grounding"] = GROUNDING | ({"weights": "grounding.bin"} if external_data else {})
    if "caption_step" in graphs:
        size, start, end = len(VOCABULARY), VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
        parts["captions"] = CAPTIONS | {"head_width": size, "vocabulary": size, "start_ids": [start], "end_id": end}
        parts["captions"] |= {"weights": "captions.bin"} if external_data else {}
        parts["captions"] |= {"dynamic_audio": True} if dynamic_audio else {}
    return parts


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest`` with the hashes of the present files."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}, indent=1))


def _manifest(graphs: Sequence[str], width: int, tasks: Sequence[str]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": "small-colours",
        "version": "1",
        "architecture": "mean-colour",
        "tasks": list(tasks),
        "streams": STREAMS if "video" in graphs else [],
        "graphs": {graph: f"{graph}.onnx" for graph in graphs},
        "vector_width": width,
        "matryoshka_dimensions": [SMALL_WIDTH] if width > SMALL_WIDTH else [],
        "visual_tokens": len(STREAMS) if "video" in graphs else 0,
        "visual_width": width if "video" in graphs else 0,
        "text_length": TEXT_LENGTH,
        "temperature": 0.05,
        "answers": None,
        "calibration": {"match_scale": 1.0, "fused_similarity": 4.0, "fused_match": 0.5, "fused_bias": -2.0},
        "training_data": ["none"],
        "licence": "MIT",
    }


def _weights(seed: int, width: int) -> dict[str, Array]:
    """directions (K, D): orthogonal, one per colour; words (vocabulary, D); named (vocabulary, K + 1)."""
    count = len(COLOURS)
    if width < count:
        raise ValueError(f"width: {width}; at least {count} was expected")
    random = np.random.default_rng(seed)
    orthogonal, _ = np.linalg.qr(random.normal(size=(width, width)))
    directions = orthogonal[:count].astype(np.float32)
    words = 0.03 * random.normal(size=(len(VOCABULARY), width))
    named = np.zeros((len(VOCABULARY), count + 1), np.float32)
    for number, colour in enumerate(COLOURS):
        words[VOCABULARY[colour]] = directions[number]
        named[VOCABULARY[colour], number] = 1
    for word in _ASKING:
        named[VOCABULARY[word], count] = 1
    palette = np.array(list(COLOURS.values()), np.float32)
    return {"directions": directions, "words": words.astype(np.float32), "named": named, "palette": palette}


def _model(
    name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Array]
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _text_inputs() -> list[Any]:
    return [_value(name, TensorProto.INT64, ["B", "L"]) for name in ("input_ids", "attention_mask")]


def _video_graph(weights: dict[str, Array]) -> onnx.ModelProto:
    node = helper.make_node
    width = weights["directions"].shape[1]
    nodes, inputs, tokens = [], [], []
    for stream in STREAMS:
        name = stream["name"]
        shape = ["B", "C", stream["frames"], stream["height"], stream["width"], 3]
        inputs.append(_value(name, TensorProto.UINT8, shape))
        nodes += [
            node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
            node("ReduceMean", [f"{name}_float"], [f"{name}_sum"], axes=[1, 2, 3, 4], keepdims=0),
            node("Div", [f"{name}_sum", "full"], [f"{name}_mean"]),  # (B, 3)
            node("Unsqueeze", [f"{name}_mean", "axis1"], [f"{name}_row"]),
            node("Sub", [f"{name}_row", "palette"], [f"{name}_gap"]),  # (B, K, 3)
            node("ReduceSumSquare", [f"{name}_gap"], [f"{name}_far"], axes=[2], keepdims=0),
            node("Mul", [f"{name}_far", "sharpness"], [f"{name}_near"]),
            node("Softmax", [f"{name}_near"], [f"{name}_colours"], axis=1),
            node("MatMul", [f"{name}_colours", "directions"], [f"{name}_vector"]),  # (B, D)
            node("Unsqueeze", [f"{name}_vector", "axis1"], [f"{name}_token"]),
        ]
        tokens.append(f"{name}_token")
    nodes += [
        node("Concat", tokens, ["visual_tokens"], axis=1),
        node("ReduceMean", ["visual_tokens"], ["pooled"], axes=[1], keepdims=0),
        node("LpNormalization", ["pooled"], ["vector"], axis=1, p=2),
    ]
    outputs = [
        _value("vector", TensorProto.FLOAT, ["B", width]),
        _value("visual_tokens", TensorProto.FLOAT, ["B", len(STREAMS), width]),
    ]
    constants = {
        "full": np.float32(255),
        "sharpness": np.float32(-8),
        "axis1": np.array([1], np.int64),
        "palette": weights["palette"],
        "directions": weights["directions"],
    }
    return _model("video", nodes, inputs, outputs, {k: np.asarray(v) for k, v in constants.items()})


def _audio_graph(stream: dict[str, Any], weights: dict[str, Array]) -> onnx.ModelProto:
    """Each half of a window is softly assigned to the tones by its energy at their frequencies."""
    node = helper.make_node
    width, samples = weights["directions"].shape[1], round(stream["sample_rate"] * stream["seconds"])
    times = np.arange(samples // 2) / stream["sample_rate"]
    phases = 2 * np.pi * times[:, None] * np.array(list(TONES.values()))
    nodes = [
        node("Reshape", ["samples", "halves"], ["rows"]),  # (B, 2, S / 2)
        node("MatMul", ["rows", "cosines"], ["real"]),
        node("MatMul", ["rows", "sines"], ["imaginary"]),
        node("Mul", ["real", "real"], ["real_squared"]),
        node("Mul", ["imaginary", "imaginary"], ["imaginary_squared"]),
        node("Add", ["real_squared", "imaginary_squared"], ["energy"]),  # (B, 2, K)
        node("ReduceSum", ["energy", "axis2"], ["total"], keepdims=1),
        node("Cast", ["lengths"], ["lengths_float"], to=TensorProto.FLOAT),
        node("Reshape", ["lengths_float", "column"], ["silence"]),  # silence of any length is no tone
        node("Add", ["total", "silence"], ["positive"]),
        node("Div", ["energy", "positive"], ["share"]),
        node("Mul", ["share", "sharpness"], ["near"]),
        node("Softmax", ["near"], ["colours"], axis=2),
        node("MatMul", ["colours", "directions"], ["audio_tokens"]),
        node("ReduceMean", ["audio_tokens"], ["pooled"], axes=[1], keepdims=0),
        node("LpNormalization", ["pooled"], ["vector"], axis=1, p=2),
    ]
    inputs = [_value("samples", TensorProto.FLOAT, ["B", samples]), _value("lengths", TensorProto.INT64, ["B"])]
    outputs = [_value("vector", TensorProto.FLOAT, ["B", width])]
    outputs += [_value("audio_tokens", TensorProto.FLOAT, ["B", 2, width])] if stream["tokens"] else []
    constants = {
        "halves": np.array([0, 2, samples // 2]),
        "column": np.array([-1, 1, 1]),
        "axis2": np.array([2]),
        "cosines": np.cos(phases).astype(np.float32),
        "sines": np.sin(phases).astype(np.float32),
        "sharpness": np.array(8, np.float32),
        "directions": weights["directions"],
    }
    return _model("audio", nodes, inputs, outputs, constants)


def _masked_sum(table: str, result: str) -> list[Any]:
    node = helper.make_node
    return [
        node("Gather", [table, "input_ids"], ["rows"], axis=0),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axis2"], ["mask_column"]),
        node("Mul", ["rows", "mask_column"], ["shown_rows"]),
        node("ReduceSum", ["shown_rows", "axis1"], [result], keepdims=0),
    ]


def _text_graph(weights: dict[str, Array]) -> onnx.ModelProto:
    width = weights["words"].shape[1]
    nodes = [
        *_masked_sum("words", "total"),
        helper.make_node("LpNormalization", ["total"], ["vector"], axis=1, p=2),
    ]
    constants = {"words": weights["words"], "axis1": np.array([1]), "axis2": np.array([2])}
    outputs = [_value("vector", TensorProto.FLOAT, ["B", width])]
    return _model("text", nodes, _text_inputs(), outputs, constants)


def _agreement(fuses_audio: bool, weights: dict[str, Array]) -> tuple[list[Any], list[Any], dict[str, Array]]:
    """Nodes that give seen (B, K), asked (B, K + 1), agree (B, 1) and mentioned (B, 1)."""
    node = helper.make_node
    width, count = weights["directions"].shape[1], len(COLOURS)
    nodes = [
        *_masked_sum("named", "asked"),
        *[node("Concat", ["visual_tokens", "audio_tokens"], ["tokens"], axis=1)] * fuses_audio,
        node("ReduceMean", ["tokens" if fuses_audio else "visual_tokens"], ["pooled"], axes=[1], keepdims=0),
        node("MatMul", ["pooled", "to_colours"], ["seen"]),
        node("Slice", ["asked", "zero", "count", "axis1"], ["colours"]),
        node("Mul", ["colours", "seen"], ["both"]),
        node("ReduceSum", ["both", "axis1"], ["agree"], keepdims=1),
        node("ReduceMax", ["colours"], ["mentioned"], axes=[1], keepdims=1),
    ]
    inputs = [*_text_inputs(), _value("visual_tokens", TensorProto.FLOAT, ["B", len(STREAMS), width])]
    inputs += [_value("audio_tokens", TensorProto.FLOAT, ["B", 2, width])] * fuses_audio
    constants = {
        "named": weights["named"],
        "to_colours": weights["directions"].T,
        "axis1": np.array([1]),
        "axis2": np.array([2]),
        "zero": np.array([0]),
        "count": np.array([count]),
    }
    return nodes, inputs, constants


def _match_graph(fuses_audio: bool, weights: dict[str, Array]) -> onnx.ModelProto:
    node = helper.make_node
    nodes, inputs, constants = _agreement(fuses_audio, weights)
    nodes += [
        node("Mul", ["agree", "twice"], ["double"]),
        node("Sub", ["double", "mentioned"], ["balance"]),
        node("Mul", ["balance", "strength"], ["column"]),
        node("Squeeze", ["column", "axis1"], ["match_logit"]),
    ]
    constants |= {"twice": np.array(2, np.float32), "strength": np.array(6, np.float32)}
    return _model("match", nodes, inputs, [_value("match_logit", TensorProto.FLOAT, ["B"])], constants)


def _grounding_graph(weights: dict[str, Array]) -> onnx.ModelProto:
    """Return a graph whose heat map is largest at x 0.625, y 0.75, the more the colours of text and picture agree."""
    node = helper.make_node
    nodes, inputs, constants = _agreement(False, weights)
    nodes += [
        node("Mul", ["agree", "twice"], ["double"]),
        node("Sub", ["double", "mentioned"], ["balance"]),
        node("Mul", ["balance", "strength"], ["level"]),
        node("Add", ["level", "pattern"], ["cells"]),
        node("Reshape", ["cells", "shape"], ["heat_logits"]),
        node("Mul", ["balance", "nothing"], ["zeros"]),
        node("Add", ["zeros", "place"], ["box"]),
    ]
    pattern = np.array([[-9, -7, -6, -6, -7, -5, 1, -3]], np.float32)
    constants |= {"twice": np.array(2, np.float32), "strength": np.array(5, np.float32), "pattern": pattern}
    constants["shape"] = np.array([-1, 2, 4])
    constants |= {"nothing": np.array(0, np.float32), "place": np.array([BOX], np.float32)}
    outputs = [_value("heat_logits", TensorProto.FLOAT, ["B", 2, 4]), _value("box", TensorProto.FLOAT, ["B", 4])]
    return _model("grounding", nodes, inputs, outputs, constants)


def _entailment_graph(fuses_audio: bool, weights: dict[str, Array]) -> onnx.ModelProto:
    """A sentence is entailed by its colours, contradicted if others are seen, and neutral if it names none."""
    node = helper.make_node
    nodes, inputs, constants = _agreement(fuses_audio, weights)
    nodes += [
        node("Sub", ["one", "mentioned"], ["unmentioned"]),
        node("Sub", ["mentioned", "agree"], ["missing"]),
        node("Concat", ["agree", "unmentioned", "missing"], ["shares"], axis=1),
        node("Mul", ["shares", "ten"], ["entailment_logits"]),
    ]
    constants |= {"one": np.array(1, np.float32), "ten": np.array(10, np.float32)}
    outputs = [_value("entailment_logits", TensorProto.FLOAT, ["B", 3])]
    return _model("entailment", nodes, inputs, outputs, constants)


def _answer_graph(fuses_audio: bool, weights: dict[str, Array]) -> onnx.ModelProto:
    node = helper.make_node
    nodes, inputs, constants = _agreement(fuses_audio, weights)
    nodes += [
        node("Mul", ["seen", "ten"], ["colour_logits"]),
        node("Mul", ["agree", "twenty"], ["yes"]),
        node("Sub", ["mentioned", "agree"], ["missing"]),
        node("Mul", ["missing", "twenty"], ["no"]),
        node("Concat", ["colour_logits", "yes", "no"], ["answer_logits"], axis=1),
    ]
    constants |= {"ten": np.array(10, np.float32), "twenty": np.array(20, np.float32)}
    outputs = [_value("answer_logits", TensorProto.FLOAT, ["B", len(ANSWERS)])]
    return _model("answer", nodes, inputs, outputs, constants)


def _free_form_answer_graph(fuses_audio: bool, weights: dict[str, Array]) -> onnx.ModelProto:
    """Return an answer graph that scores candidates by the visible colours that they name."""
    node = helper.make_node
    nodes, inputs, constants = _agreement(fuses_audio, weights)
    nodes += [
        node("Gather", ["named", "answer_ids"], ["answer_rows"], axis=0),  # (B, N, M, K + 1)
        node("Cast", ["answer_mask"], ["answer_shown"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["answer_shown", "axis3"], ["answer_column"]),
        node("Mul", ["answer_rows", "answer_column"], ["answer_words"]),
        node("ReduceSum", ["answer_words", "axis2"], ["answer_names"], keepdims=0),
        node("Slice", ["answer_names", "zero", "count", "axis2"], ["answer_colours"]),  # (B, N, K)
        node("Mul", ["seen", "ten"], ["strong"]),
        node("Unsqueeze", ["strong", "axis2"], ["strong_column"]),
        node("MatMul", ["answer_colours", "strong_column"], ["answer_scores"]),
        node("Squeeze", ["answer_scores", "axis2"], ["answer_logits"]),
    ]
    constants |= {"ten": np.array(10, np.float32), "axis3": np.array([3])}
    inputs += [_value(name, TensorProto.INT64, ["B", "N", "M"]) for name in ("answer_ids", "answer_mask")]
    return _model("answer", nodes, inputs, [_value("answer_logits", TensorProto.FLOAT, ["B", "N"])], constants)


def _moments_graph(weights: dict[str, Array]) -> onnx.ModelProto:
    """saliency = sigmoid(20 * (cosine - 0.5)); a window proposes the run of windows above 0.5 that it is in.

    Two windows above it are in one run if as many windows that are not precede them. Others propose themselves.
    """
    node = helper.make_node
    width = weights["words"].shape[1]
    nodes = [
        node("Unsqueeze", ["text", "axis2"], ["column"]),
        node("MatMul", ["windows", "column"], ["products"]),
        node("Squeeze", ["products", "axis2"], ["cosines"]),
        node("Sub", ["cosines", "half"], ["centred"]),
        node("Mul", ["centred", "steepness"], ["logits"]),
        node("Sigmoid", ["logits"], ["probabilities"]),
        node("Cast", ["window_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["probabilities", "mask"], ["saliency"]),
        node("Identity", ["saliency"], ["span_scores"]),
        node("Greater", ["saliency", "half"], ["is_above"]),
        node("Cast", ["is_above"], ["above"], to=TensorProto.FLOAT),
        node("Sub", ["one", "above"], ["gap"]),
        node("CumSum", ["gap", "axis1_scalar"], ["gaps"]),
        node("Unsqueeze", ["gaps", "axis1"], ["gaps_row"]),
        node("Unsqueeze", ["gaps", "axis2"], ["gaps_column"]),
        node("Equal", ["gaps_row", "gaps_column"], ["same_gap"]),
        node("Unsqueeze", ["is_above", "axis1"], ["above_row"]),
        node("And", ["same_gap", "above_row"], ["in_run"]),  # (B, T, T)
        node("Add", ["above", "gap"], ["ones"]),
        node("CumSum", ["ones", "axis1_scalar"], ["numbers"]),  # 1 to T
        node("Sub", ["numbers", "one"], ["positions"]),
        node("Unsqueeze", ["positions", "axis1"], ["positions_row"]),
        node("Unsqueeze", ["numbers", "axis1"], ["numbers_row"]),
        node("Where", ["in_run", "positions_row", "far"], ["run_positions"]),
        node("ReduceMin", ["run_positions"], ["run_start"], axes=[2], keepdims=0),
        node("Where", ["in_run", "numbers_row", "zero"], ["run_numbers"]),
        node("ReduceMax", ["run_numbers"], ["run_end"], axes=[2], keepdims=0),
        node("Where", ["is_above", "run_start", "positions"], ["start"]),
        node("Where", ["is_above", "run_end", "numbers"], ["end"]),
        node("Unsqueeze", ["start", "axis2"], ["start_column"]),
        node("Unsqueeze", ["end", "axis2"], ["end_column"]),
        node("Concat", ["start_column", "end_column"], ["spans"], axis=2),
    ]
    inputs = [
        _value("windows", TensorProto.FLOAT, ["B", "T", width]),
        _value("window_mask", TensorProto.INT64, ["B", "T"]),
        _value("text", TensorProto.FLOAT, ["B", width]),
    ]
    outputs = [
        _value("saliency", TensorProto.FLOAT, ["B", "T"]),
        _value("spans", TensorProto.FLOAT, ["B", "T", 2]),
        _value("span_scores", TensorProto.FLOAT, ["B", "T"]),
    ]
    constants = {
        **{"axis1": np.array([1]), "axis2": np.array([2]), "axis1_scalar": np.array(1)},
        **{"half": np.float32(0.5), "steepness": np.float32(20), "one": np.float32(1), "zero": np.float32(0)},
        "far": np.float32(1e6),
    }
    return _model("moments", nodes, inputs, outputs, {key: np.asarray(value) for key, value in constants.items()})


def _caption_inputs(fuses_audio: bool, dynamic_audio: bool) -> list[Any]:
    """Return visual_keys, visual_values and visual_mask."""
    count = "T" if dynamic_audio else len(STREAMS) + 2 * fuses_audio
    shape = ["B", CAPTIONS["layers"], CAPTIONS["heads"], count, len(VOCABULARY)]
    caches = [_value(name, TensorProto.FLOAT, shape) for name in ("visual_keys", "visual_values")]
    return [*caches, _value("visual_mask", TensorProto.INT64, ["B", count])]


def _caption_prefill_graph(fuses_audio: bool, dynamic_audio: bool, weights: dict[str, Array]) -> onnx.ModelProto:
    """visual_keys are the shares of the colours of each token, in the columns of their words; those of sound halved.

    A token of zeros is masked. Both heads and the values are the same.
    """
    node = helper.make_node
    width = weights["directions"].shape[1]
    to_words = np.zeros((width, len(VOCABULARY)), np.float32)
    for number, colour in enumerate(COLOURS):
        to_words[:, VOCABULARY[colour]] = weights["directions"][number]
    nodes = [
        *[node("Mul", ["audio_tokens", "half"], ["quiet"])] * fuses_audio,
        *[node("Concat", ["visual_tokens", "quiet"], ["tokens"], axis=1)] * fuses_audio,
        *[node("Identity", ["visual_tokens"], ["tokens"])] * (not fuses_audio),
        node("MatMul", ["tokens", "to_words"], ["words"]),  # (B, T, N)
        node("Unsqueeze", ["words", "axes"], ["head"]),
        node("Concat", ["head", "head"], ["visual_keys"], axis=2),
        node("Identity", ["visual_keys"], ["visual_values"]),
        node("Abs", ["tokens"], ["sizes"]),
        node("ReduceMax", ["sizes"], ["largest"], axes=[2], keepdims=0),
        node("Greater", ["largest", "nothing"], ["is_present"]),
        node("Cast", ["is_present"], ["visual_mask"], to=TensorProto.INT64),
    ]
    inputs = [_value("visual_tokens", TensorProto.FLOAT, ["B", len(STREAMS), width])]
    audio_count = "A" if dynamic_audio else 2
    inputs += [_value("audio_tokens", TensorProto.FLOAT, ["B", audio_count, width])] * fuses_audio
    constants: dict[str, Array] = {
        "to_words": to_words,
        **{"axes": np.array([1, 2]), "half": np.array(0.5, np.float32), "nothing": np.array(1e-6, np.float32)},
    }
    return _model("caption_prefill", nodes, inputs, _caption_inputs(fuses_audio, dynamic_audio), constants)


def _caption_step_graph(fuses_audio: bool, dynamic_audio: bool, weights: dict[str, Array]) -> onnx.ModelProto:
    """Keys are the words, values the logarithms of ``NEXT_WORDS``; both heads are the same.

    logits = values of the last word + COLOUR_GAIN * colours where these may follow - 30 * words said.
    """
    node = helper.make_node
    size = len(VOCABULARY)
    following = np.full((size, size), -30.0, np.float32)
    takes_colour = np.zeros((size, 1), np.float32)
    for word, nexts in NEXT_WORDS.items():
        for other, weight in nexts.items():
            following[VOCABULARY[word], VOCABULARY[other]] = np.log(weight)
        takes_colour[VOCABULARY[word]] = "red" in nexts
    nodes = [
        *(
            new
            for name, table in (("keys", "identity"), ("values", "following"))
            for new in (
                node("Gather", [table, "input_ids"], [f"{name}_rows"], axis=0),  # (B, L, N)
                node("Unsqueeze", [f"{name}_rows", "axes"], [f"{name}_head"]),
                node("Concat", [f"{name}_head", f"{name}_head"], [f"new_{name}"], axis=2),
                node("Concat", [f"past_{name}", f"new_{name}"], [f"present_{name}"], axis=3),
            )
        ),
        node("Slice", ["present_values", "minus_one", "end", "axis3"], ["last_values"]),
        node("ReduceMean", ["last_values"], ["transitions"], axes=[1, 2, 3], keepdims=0),  # (B, N)
        node("ReduceSum", ["present_keys", "axis3"], ["said_by_head"], keepdims=0),
        node("ReduceMean", ["said_by_head"], ["said"], axes=[1, 2], keepdims=0),
        node("Mul", ["said", "penalty"], ["repetition"]),
        node("Cast", ["visual_mask"], ["mask"], to=TensorProto.FLOAT),
        node("ReduceMean", ["visual_keys"], ["visual"], axes=[1, 2], keepdims=0),  # (B, T, N)
        node("Unsqueeze", ["mask", "axis2"], ["mask_column"]),
        node("Mul", ["visual", "mask_column"], ["shown"]),
        node("ReduceSum", ["shown", "axis1"], ["total"], keepdims=0),
        node("ReduceSum", ["total", "axis1"], ["sum"], keepdims=1),
        node("Max", ["sum", "tiny"], ["positive"]),
        node("Div", ["total", "positive"], ["shares"]),
        node("Slice", ["present_keys", "minus_one", "end", "axis3"], ["last_keys"]),
        node("ReduceMean", ["last_keys"], ["last_word"], axes=[1, 2, 3], keepdims=0),
        node("MatMul", ["last_word", "takes_colour"], ["gain"]),  # (B, 1)
        node("Mul", ["shares", "gain"], ["colours"]),
        node("Add", ["transitions", "colours"], ["new"]),
        node("Sub", ["new", "repetition"], ["logits"]),
    ]
    past = ["B", CAPTIONS["layers"], CAPTIONS["heads"], "P", size]
    present = [*past[:3], "Q", size]
    inputs = [_value("input_ids", TensorProto.INT64, ["B", "L"])]
    inputs += [_value(name, TensorProto.FLOAT, past) for name in ("past_keys", "past_values")]
    inputs += _caption_inputs(fuses_audio, dynamic_audio)
    outputs = [_value("logits", TensorProto.FLOAT, ["B", size])]
    outputs += [_value(name, TensorProto.FLOAT, present) for name in ("present_keys", "present_values")]
    constants = {
        **{"axis1": np.array([1]), "axis2": np.array([2]), "axis3": np.array([3]), "axes": np.array([1, 2])},
        **{"minus_one": np.array([-1]), "end": np.array([np.iinfo(np.int64).max])},
        **{"identity": np.eye(size, dtype=np.float32), "following": following},
        **{"takes_colour": COLOUR_GAIN * takes_colour, "penalty": np.array(30, np.float32)},
        "tiny": np.array(1e-6, np.float32),
    }
    return _model("caption_step", nodes, inputs, outputs, constants)


def _move_outside(model: onnx.ModelProto, path: Path) -> None:
    """Move large tensors to the external file ``path``."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < 128:
            continue
        start = path.stat().st_size if path.exists() else 0
        with path.open("ab") as file:
            file.write(tensor.raw_data)
        for key, value in (("location", path.name), ("offset", start), ("length", len(tensor.raw_data))):
            tensor.external_data.add(key=key, value=str(value))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer
