"""Initialization from a bundle: the weights of its graphs, loaded into the model they were exported from.

The exporter folds norms into convolutions, joins linear layers, transposes them and stores equal tensors once; here
each is undone by rule, and the result is checked against the bundle's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, numpy_helper
from torch import Tensor, nn

from training.checkpoint import ONLY_IN_TRAINING, InitialModel
from training.evaluation.encoder import TorchEncoder
from training.models.architectures import read_config
from training.models.batch_norm import normalised_convolutions
from training.models.hd_vila import HdVila, HdVilaConfig
from vitascope.bundle.bundle import Bundle
from vitascope.errors import InvalidInput
from vitascope.model import Model

TOLERANCE = 1e-3
"""Largest difference of an output from the bundle's, relative to 1 or to the output's largest value."""

Weights = dict[str, Tensor]


def model_of_bundle(folder: Path) -> InitialModel:
    """Return the model of a bundle written by `vitascope export`.

    Weights are those of the bundle, in float32: reduced precision stays lost. Heads used only in training (masked
    words, objects) are initialized again.

    Raises InvalidInput where the bundle does not name its architecture, or where the model does not reproduce its
    outputs.
    """
    bundle = Bundle.open(folder)
    _check_trained_here(bundle)
    provenance: Any = bundle.manifest.extra.get("provenance", {})
    try:
        config = read_config(provenance["config"])
        lineage = tuple(str(source["name"]) for source in provenance["sources"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{folder}: no provenance with config and sources in its manifest ({type(error).__name__}); "
            "a bundle of `vitascope export` was expected"
        ) from error
    if not isinstance(config, HdVilaConfig):
        raise InvalidInput(
            f"{folder}: holds a model of {config.system}; its checkpoint was expected, or one of hd-vila"
        )
    if config.audio is not None:
        raise InvalidInput(f"{folder}: holds a model with sound; its checkpoint was expected")
    if not config.frozen_norm:
        raise InvalidInput(f"{folder}: frozen_norm is false in its config; the statistics of norms are not in a bundle")
    model = HdVila(config)
    weights: Weights = {}
    for name in ("video", "match", "answer"):  # the match graph has all that the text graph has
        if (path := bundle.graph_path(name)) is not None:
            weights = _weights(onnx.load(path).graph, model) | weights
    _complete(weights, model)
    missing = [name for name in model.state_dict() if name not in weights]
    if wrong := [name for name in missing if not name.startswith(ONLY_IN_TRAINING)]:
        raise InvalidInput(f"{folder}: no weights found for {wrong[:3]} ({len(wrong)} in all) in its graphs")
    model.load_state_dict(weights, strict=False)
    _check(model, bundle)
    return InitialModel(model, bundle.answers, folder / bundle.manifest.tokenizer, lineage)


def _check_trained_here(bundle: Bundle) -> None:
    """Raise InvalidInput for a bundle whose graphs are not those of a model in `training.models`."""
    extra, expected = bundle.manifest.extra, "a checkpoint, or the bundle of one, was expected"
    if "public_model" in extra:
        raise InvalidInput(
            f"{bundle.folder}: is a public model ({bundle.manifest.architecture}), whose graphs are its authors' "
            f"program and not a model of this one; {expected}. `vitascope distil` teaches a student by it"
        )
    for key in ("variant_of", "distilled_from"):
        if isinstance(origin := extra.get(key), dict):
            raise InvalidInput(
                f"{bundle.folder}: was made of {origin.get('name')} {origin.get('version')} ({key.replace('_', ' ')}), "
                f"and has graphs of another kind; {expected}"
            )


def _weights(graph: GraphProto, model: HdVila) -> Weights:
    """Return the parameters that can be identified in one graph, by name."""
    values = _float_values(graph)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    own = {name.removeprefix("model."): value for name, value in values.items() if name.startswith("model.")}
    weights_by_name = {name: value for name, value in own.items() if shapes.get(name) == value.shape}
    for weight, bias in _linear_layers(graph):
        name = bias.removeprefix("model.").removesuffix("bias") + "weight"
        if weight in values and shapes.get(name) == values[weight].T.shape:
            weights_by_name[name] = values[weight].T
    weights_by_name |= _attentions(graph, values)
    for convolution, norm in normalised_convolutions(model):  # the exporter folds the norm into the convolution
        if (shift := own.get(f"{convolution}.weight_bias")) is not None:
            weights_by_name[f"{norm}.bias"] = shift
    multiplied = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    loose = [value for name, value in values.items() if not name.startswith("model.") and name not in multiplied]
    weights_by_name |= _folded_places(loose, model)
    return {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in weights_by_name.items()}


def _float_values(graph: GraphProto) -> dict[str, np.ndarray]:
    """Return the graph's floating-point constants in float32, by the names that its nodes read."""
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    out = {}
    for name, value in stored.items():
        if name.endswith("__int8"):
            name = name.removesuffix("__int8")
            out[name] = value.astype(np.float32) * stored[f"{name}__scale"]
            if (shape := stored.get(f"{name}__shape")) is not None:
                out[name] = out[name].reshape(shape)
        elif value.dtype in (np.float16, np.float32):
            out[name.removesuffix("__float16")] = value.astype(np.float32)
    return out


def _linear_layers(graph: GraphProto) -> list[tuple[str, str]]:
    """Return (weight, bias) of every product with a constant and an added bias, which keeps its parameter name."""
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    pairs = []
    for node in graph.node:
        if node.op_type == "Add":
            weights = [products[name] for name in node.input if name in products]
            biases = [name for name in node.input if name.startswith("model.") and name.endswith(".bias")]
            pairs += [(w, b) for w in weights for b in biases]
    return pairs


def _attentions(graph: GraphProto, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the joint weights and biases of attentions whose queries, keys and values are separate products.

    Only queries have a bias (`model_export.simplify`), the two other products follow it.
    """
    weights_by_name = {}
    for weight, bias in _linear_layers(graph):
        if not bias.endswith("_attention.query.bias"):
            continue
        (source,) = {node.input[0] for node in graph.node if node.op_type == "MatMul" and node.input[1] == weight}
        parts = [values[n.input[1]].T for n in graph.node if n.op_type == "MatMul" and n.input[0] == source]
        name = bias.removeprefix("model.").replace(".query.bias", ".qkv")
        weights_by_name[f"{name}.weight"] = np.concatenate(parts)
        weights_by_name[f"{name}.bias"] = np.pad(values[bias], (0, 2 * len(values[bias])))
    return weights_by_name


def _folded_places(constants: Sequence[np.ndarray], model: HdVila) -> dict[str, np.ndarray]:
    """Return the time and position embeddings, which the exporter reshapes or adds to one another."""
    cfg = model.cfg
    weights_by_name = {}
    for constant in constants:
        value = constant.squeeze()
        if value.shape == (cfg.frames, cfg.hybrid_width):
            weights_by_name["video.hybrid.time"] = value[None]
        if value.shape == (cfg.grid_tokens, cfg.hybrid_width):
            weights_by_name["video.hybrid.position"] = value[None]
        if value.shape == (cfg.frames, cfg.grid_tokens, cfg.hybrid_width):  # time + position: any split serves
            position = value.mean(axis=0, keepdims=True)
            weights_by_name["video.hybrid.position"] = position
            weights_by_name["video.hybrid.time"] = (value - position).mean(axis=1)[None]
        if value.size == cfg.grid_tokens * cfg.text_width and value.shape[-1] == cfg.text_width:
            value = value.reshape(cfg.grid_height, cfg.grid_width, cfg.text_width)  # row + column: any split serves
            column = value.mean(axis=0, keepdims=True)
            weights_by_name["visual_embeddings.column"] = column
            weights_by_name["visual_embeddings.row"] = (value - column).mean(axis=1, keepdims=True)
    return weights_by_name


def _complete(weights: Weights, model: HdVila) -> None:
    """Add derived parameters: those shared by both encoders, and folded norms."""
    for name in model.state_dict():
        for prefix, twin_prefix in (("video.low.", "video.high."), ("video.high.", "video.low.")):
            # Frozen stages are equal in both encoders and stored once.
            if (
                name not in weights
                and name.startswith(prefix)
                and (twin := name.replace(prefix, twin_prefix)) in weights
            ):
                weights[name] = weights[twin]
    for name, value in model.state_dict().items():
        if name not in weights and ".temporal_out." in name:  # part of the layer before it
            weights[name] = torch.eye(len(value)) if value.ndim == 2 else torch.zeros_like(value)
    # Two biases that are added to one another are trained alike, and equal tensors are stored once.
    alike = "video.branch.linear.bias", "video.branch.nonlinear.2.bias"
    for name, twin in (alike, alike[::-1]):
        if name in model.state_dict() and name not in weights and twin in weights:
            weights[name] = weights[twin]
    for norm, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):  # scale 1 and mean 0: the convolution has them already
            weights[f"{norm}.weight"] = torch.ones_like(module.weight)
            weights[f"{norm}.running_mean"] = torch.zeros(module.num_features)
            weights[f"{norm}.running_var"] = torch.full((module.num_features,), 1.0 - module.eps)
            weights[f"{norm}.num_batches_tracked"] = torch.zeros((), dtype=torch.long)


def _check(model: HdVila, bundle: Bundle) -> None:
    """Raise InvalidInput where an output of `model` is not that of the bundle."""
    runtime = Model(bundle)
    rebuilt = TorchEncoder(model, bundle.tokenizer(), bundle.answers, bundle.manifest.calibration)
    rng = np.random.default_rng(0)
    streams = {}
    for stream in bundle.manifest.streams:
        coarse = rng.integers(0, 256, (2, 1, stream.frames, 4, 4, 3), dtype=np.uint8)
        rows, columns = (np.linspace(0, 3, n).round().astype(int) for n in (stream.height, stream.width))
        streams[stream.name] = coarse[:, :, :, rows][:, :, :, :, columns]
    texts = ["a red square moves left", "which color is it?"]
    expected, actual = (_outputs(encoder, streams, texts) for encoder in (runtime, rebuilt))
    for name, output in expected.items():
        difference = float(np.abs(actual[name] - output).max() / max(1.0, float(np.abs(output).max())))
        if not difference <= TOLERANCE:
            raise InvalidInput(
                f"{bundle.folder}: {name} of the model rebuilt from its graphs differs by {difference:.2g}; "
                f"at most {TOLERANCE:g} was expected. Was it exported by another version?"
            )


def _outputs(encoder: Model | TorchEncoder, streams: Mapping[str, np.ndarray], texts: list[str]) -> dict[str, Any]:
    video = encoder.embed_video(streams)
    out: dict[str, Any] = {
        "vector of a text": encoder.embed_text(texts),
        "vector of a video": video.vectors,
        "visual tokens": video.visual_tokens,
        "match logit": encoder.match(texts, video.visual_tokens).logits,
    }
    if "answering" in encoder.tasks:
        answers = encoder.answer(texts, video.visual_tokens, top=1)
        out["probability of an answer"] = np.array([best.probability for (best,) in answers])
    return out
