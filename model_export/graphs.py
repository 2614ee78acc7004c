"""The four graphs of a bundle, each a small wrapper around the training model with named inputs and outputs.

Shape letters: B videos or texts, C clips, F frames, H W pixels, L text tokens, V visual tokens, K their
width, D vector width, N answers.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from training.models.fusion import FusedModel
from vitascope.bundle.graph_spec import ANSWER_IDS, ANSWER_MASK
from vitascope.bundle.manifest import FrameStream, GraphName, Manifest

OPSET = 20
"""The first with Gelu; ONNX Runtime and TensorRT both read it."""

Arrays = dict[str, np.ndarray]
ANSWER_AXES = {name: {0: "batch", 1: "answers", 2: "answer_tokens"} for name in (ANSWER_IDS, ANSWER_MASK)}
"""Of a graph that is given the answers it weighs."""


class Sizes(Protocol):
    """What inputs of a model's graphs are drawn by."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def text_length(self) -> int: ...
    @property
    def visual_tokens(self) -> int: ...
    @property
    def visual_width(self) -> int: ...
    def streams(self) -> list[FrameStream]: ...


@dataclass(frozen=True)
class StatedSizes:
    """Those of a bundle, by its manifest; ``frame_streams`` where its pictures are others than the manifest's."""

    manifest: Manifest
    frame_streams: list[FrameStream] | None = None
    vocabulary: int = 2

    @property
    def text_length(self) -> int:
        return self.manifest.text_length

    @property
    def visual_tokens(self) -> int:
        return self.manifest.visual_tokens

    @property
    def visual_width(self) -> int:
        return self.manifest.visual_width

    def streams(self) -> list[FrameStream]:
        return self.manifest.streams if self.frame_streams is None else self.frame_streams


class TextGraph(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vector, _ = self.model.encode_text(input_ids, attention_mask)
        return vector


class VideoGraph(nn.Module):
    """The model's streams, in their order, (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and
    visual_tokens (B, V, K)."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_video(dict(zip((s.name for s in self.model.cfg.streams()), streams, strict=True)))


class MatchGraph(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> match_logit (B,)."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        states = self.model.text.encode(input_ids, attention_mask)
        return self.model.match_logits(states, attention_mask, self.model.see(visual_tokens))


class AnswerGraph(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> answer_logits (B, N)."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        states = self.model.text.encode(input_ids, attention_mask)
        return self.model.answer_logits(states, attention_mask, self.model.see(visual_tokens))


@dataclass(frozen=True)
class GraphSpec:
    """What is exported under one name. `axes`: per input, which axes are free and what they are called."""

    name: GraphName
    module: nn.Module
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.axes)


def video_spec(
    module: nn.Module, streams: Sequence[FrameStream], outputs: tuple[str, ...] = ("vector", "visual_tokens")
) -> GraphSpec:
    """The graph that sees: frame streams of any number of videos, of any number of clips each."""
    return GraphSpec("video", module, {stream.name: {0: "batch", 1: "clips"} for stream in streams}, outputs)


def graph_specs(model: FusedModel) -> list[GraphSpec]:
    """The graphs that this model can fill: all four, or three where it has no answer head."""
    text = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}
    fused = text | {"visual_tokens": {0: "batch"}}
    specs = [
        video_spec(VideoGraph(model), model.cfg.streams()),
        GraphSpec("text", TextGraph(model), text, ("vector",)),
        GraphSpec("match", MatchGraph(model), fused, ("match_logit",)),
    ]
    if model.cfg.answers:
        specs.append(GraphSpec("answer", AnswerGraph(model), fused, ("answer_logits",)))
    return specs


def random_streams(cfg: Sizes, rng: np.random.Generator, batch: int, clips: int) -> Arrays:
    """Frame streams by name, uint8 (B, C, F, H, W, 3): a coarse random picture under fine noise.

    Noise alone is flat after a few strides, and every clip would look the same to the model.
    """
    out = {}
    for s in cfg.streams():
        if s.shows == "cover":
            out[s.name] = _random_cover(s, rng, (batch, clips, s.frames))
            continue
        coarse = rng.integers(0, 256, (batch, clips, s.frames, 4, 4, 3))
        picture = coarse.repeat(-(-s.height // 4), axis=3).repeat(-(-s.width // 4), axis=4)
        picture = picture[:, :, :, : s.height, : s.width]
        out[s.name] = np.clip(picture + rng.integers(-40, 41, picture.shape), 0, 255).astype(np.uint8)
    return out


def _random_cover(stream: FrameStream, rng: np.random.Generator, frames: tuple[int, ...]) -> np.ndarray:
    """Pictures of all shapes that lie in the corner."""
    short, side = (stream.shortest_edge or 1) // stream.multiple, stream.height
    rows, columns = rng.integers(1, short + 1, frames), rng.integers(1, side + 1, frames)
    turned = rng.random(frames) < 0.5
    rows, columns = np.where(turned, columns, rows), np.where(turned, rows, columns)
    numbers = np.arange(side)
    lies = (numbers < rows[..., None])[..., None] & (numbers < columns[..., None])[..., None, :]
    return np.repeat(np.where(lies, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)


def random_tokens(cfg: Sizes, rng: np.random.Generator, batch: int, length: int) -> Arrays:
    """input_ids and attention_mask (B, L) int64; the first row is full, the others are padded at random."""
    ids = rng.integers(0, cfg.vocabulary, (batch, length))
    kept = rng.integers(2, length + 1, batch)
    kept[0] = length
    mask = (np.arange(length) < kept[:, None]).astype(np.int64)
    return {"input_ids": ids.astype(np.int64), "attention_mask": mask}


def random_answers(cfg: Sizes, rng: np.random.Generator, batch: int, answers: int, length: int) -> Arrays:
    """answer_ids and answer_mask (B, N, M) int64; as ``random_tokens``."""
    tokens = random_tokens(cfg, rng, batch * answers, length)
    shape = (batch, answers, length)
    return {
        ANSWER_IDS: tokens["input_ids"].reshape(shape),
        ANSWER_MASK: tokens["attention_mask"].reshape(shape),
    }


def export_graph(spec: GraphSpec, cfg: Sizes) -> onnx.ModelProto:
    """One graph in float32, weights inside. The module is left in evaluation mode."""
    example = _example(spec, cfg)
    names = {name for axes in spec.axes.values() for name in axes.values()}
    tokens = {"min": 2, "max": cfg.text_length}
    limits = {"length": tokens, "answer_tokens": tokens}
    dims = {name: torch.export.Dim(name, **limits.get(name, {})) for name in names}
    shapes: tuple[Any, ...] = tuple({axis: dims[name] for axis, name in axes.items()} for axes in spec.axes.values())
    if spec.name == "video":
        shapes = (shapes,)  # any number of streams is one argument
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            spec.module.eval().float(),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"{spec.name}: the exporter returned nothing; an ONNX program was expected")
    return _without_traces(program.model_proto)


def export_graphs(model: FusedModel) -> dict[GraphName, onnx.ModelProto]:
    """All graphs of a model, float32, by name."""
    return {spec.name: export_graph(spec, model.cfg) for spec in graph_specs(model)}


def _example(spec: GraphSpec, cfg: Sizes) -> tuple[Tensor, ...]:
    # No axis is 1: torch.export takes a 1 for a constant.
    rng = np.random.default_rng(0)
    if spec.name == "video":
        arrays = random_streams(cfg, rng, 2, 2)
    else:
        arrays = random_tokens(cfg, rng, 3, min(7, cfg.text_length))
        arrays["visual_tokens"] = rng.normal(size=(3, cfg.visual_tokens, cfg.visual_width)).astype(np.float32)
        if ANSWER_IDS in spec.inputs:
            arrays |= random_answers(cfg, rng, 3, 5, 4)
    return tuple(torch.from_numpy(arrays[name]) for name in spec.inputs)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes (stack traces name paths of this machine) and intermediate shapes."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own deprecations; neither concerns the model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
