"""Export of a bundle's graphs: wrappers around the training model with named inputs and outputs.

Shape letters: B videos, sounds or texts, C clips, F frames, H height, W width, S samples, T audio tokens, A their
width, L text tokens, V visual tokens, K their width, D embedding dim, N answers, M answer tokens. Of captions: Y
layers, E heads, V + T visual and audio tokens, P tokens so far, L new ones, G width of a head, N vocabulary.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from model_export.simplify import simplify
from training.models.fusion import FusedModel
from training.models.grounding_head import grounding_outputs
from training.models.text import VisualCache
from vitascope.bundle.graph_specs import (
    ANSWER_IDS,
    ANSWER_MASK,
    AUDIO_TOKENS,
    BOX,
    ENTAILMENT_LOGITS,
    HEAT_LOGITS,
    LENGTHS,
    LOGITS,
    PAST_KEYS,
    PAST_VALUES,
    PRESENT_KEYS,
    PRESENT_VALUES,
    SAMPLES,
    VISUAL_KEYS,
    VISUAL_MASK,
    VISUAL_VALUES,
)
from vitascope.bundle.manifest import AudioStream, FrameStream, GraphName, Manifest

OPSET = 20
"""The first opset with Gelu; ONNX Runtime and TensorRT support it."""

Arrays = dict[str, np.ndarray]
ANSWER_AXES = {name: {0: "batch", 1: "answers", 2: "answer_tokens"} for name in (ANSWER_IDS, ANSWER_MASK)}
"""Dynamic axes of a graph that takes candidate answers."""


class Sizes(Protocol):
    """Sizes that determine the inputs of a model's graphs."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def text_length(self) -> int: ...
    @property
    def visual_tokens(self) -> int: ...
    @property
    def visual_width(self) -> int: ...
    def streams(self) -> list[FrameStream]: ...
    def audio_stream(self) -> AudioStream | None: ...


@dataclass(frozen=True)
class ManifestSizes:
    """Sizes from a manifest. frame_streams: Streams that replace those of the manifest."""

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

    def audio_stream(self) -> AudioStream | None:
        return self.manifest.audio


class _ModelGraph(nn.Module):
    """Base of the graphs of a model."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model


class TextGraph(_ModelGraph):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vector, _ = self.model.encode_text(input_ids, attention_mask)
        return vector


class VideoGraph(_ModelGraph):
    """Streams in the model's order, (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and visual_tokens (B,
    V, K)."""

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_video(dict(zip((s.name for s in self.model.cfg.streams()), streams, strict=True)))


class AudioGraph(_ModelGraph):
    """samples (B, S), lengths (B,) int64 -> vector (B, D), L2-normalized.

    If the fused layers read sound, there is also the output audio_tokens (B, T, A).
    """

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        encoded = self.model.encode_audio(samples, lengths)
        return encoded if self.model.audio_embeddings is not None else encoded[:1]


class FusedGraph(_ModelGraph):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> output of a head on the fused states: match_logit
    (B,), answer_logits (B, N) or entailment_logits (B, 3).

    If the fused layers read sound, there is also the input audio_tokens (B, T, A).
    """

    def __init__(self, model: FusedModel, head: Callable[[Tensor, Tensor, VisualCache], Tensor]) -> None:
        """head: Method of the model that takes text states, attention mask and visual cache."""
        super().__init__(model)
        self.head = head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor, audio_tokens: Tensor | None = None
    ) -> Tensor:
        states = self.model.text.encode(input_ids, attention_mask)
        return self.head(states, attention_mask, self.model.prepare_visual(visual_tokens, audio_tokens))


class CaptionPrefillGraph(_ModelGraph):
    """visual_tokens (B, V, K) -> visual_keys, visual_values (B, Y, E, V + T, G), visual_mask (B, V + T) int64.

    If the fused layers read sound, there is also the input audio_tokens (B, T, A).
    """

    def forward(self, visual_tokens: Tensor, audio_tokens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.prepare_captions(visual_tokens, audio_tokens)


class CaptionStepGraph(_ModelGraph):
    """input_ids (B, L) int64, past_keys, past_values (B, Y, E, P, G) and the outputs of caption_prefill -> logits (B,
    N) of the next token, present_keys, present_values (B, Y, E, P + L, G)."""

    def forward(
        self,
        input_ids: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        visual_keys: Tensor,
        visual_values: Tensor,
        visual_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.next_word_logits(input_ids, past_keys, past_values, visual_keys, visual_values, visual_mask)


class GroundingGraph(_ModelGraph):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> heat_logits (B, Y, X) and boxes (B, V, 4), 0 to
    1."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return grounding_outputs(self.model, input_ids, attention_mask, visual_tokens)


@dataclass(frozen=True)
class GraphSpec:
    """A graph to export: module, outputs, and the dynamic axes of each input, {input: {axis: name}}."""

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
    """Return the spec of a video graph with dynamic numbers of videos and of clips per video."""
    return GraphSpec("video", module, {stream.name: {0: "batch", 1: "clips"} for stream in streams}, outputs)


def graph_specs(model: FusedModel) -> list[GraphSpec]:
    """Return the specs of a model's graphs: video, text, match, and those of the model's optional parts (audio, answer,
    entailment, grounding, captions)."""
    text = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}
    pictures = fused = text | {"visual_tokens": {0: "batch"}}
    specs = [
        video_spec(VideoGraph(model), model.cfg.streams()),
        GraphSpec("text", TextGraph(model), text, ("vector",)),
    ]
    if model.audio is not None:
        sounds = {SAMPLES: {0: "batch"}, LENGTHS: {0: "batch"}}
        tokens = {AUDIO_TOKENS: {0: "batch"}} if model.audio_embeddings is not None else {}
        specs.append(GraphSpec("audio", AudioGraph(model), sounds, ("vector", *tokens)))
        fused = fused | tokens
    specs.append(GraphSpec("match", FusedGraph(model, model.match_logits), fused, ("match_logit",)))
    if model.cfg.answers:
        specs.append(GraphSpec("answer", FusedGraph(model, model.answer_logits), fused, ("answer_logits",)))
    if model.cfg.entailment == "video":
        specs.append(GraphSpec("entailment", FusedGraph(model, model.entailment_logits), fused, (ENTAILMENT_LOGITS,)))
    if model.caption_decoder is not None:
        tokens = {name: axes for name, axes in fused.items() if name not in text}
        if AUDIO_TOKENS in tokens:
            tokens = tokens | {AUDIO_TOKENS: {0: "batch", 1: "audio_tokens"}}
        specs += caption_specs(CaptionPrefillGraph(model), CaptionStepGraph(model), tokens)
    if model.grounding_head is not None:
        specs.append(GraphSpec("grounding", GroundingGraph(model), pictures, (HEAT_LOGITS, BOX)))
    return specs


def caption_specs(prefill: nn.Module, step: nn.Module, tokens: Mapping[str, Mapping[int, str]]) -> list[GraphSpec]:
    """Return the specs of the two caption graphs. tokens: Dynamic axes of the inputs of caption_prefill."""
    visual = {name: {0: "batch"} for name in (VISUAL_KEYS, VISUAL_VALUES, VISUAL_MASK)}
    if AUDIO_TOKENS in tokens:
        visual = {name: axes | {1 if name == VISUAL_MASK else 3: "context"} for name, axes in visual.items()}
    past = {name: {0: "batch", 3: "past"} for name in (PAST_KEYS, PAST_VALUES)}
    axes = {"input_ids": {0: "batch", 1: "length"}} | past | visual
    return [
        GraphSpec("caption_prefill", prefill, tokens, tuple(visual)),
        GraphSpec("caption_step", step, axes, (LOGITS, PRESENT_KEYS, PRESENT_VALUES)),
    ]


def random_streams(cfg: Sizes, rng: np.random.Generator, batch: int, clips: int) -> Arrays:
    """Return random streams by name, uint8 (B, C, F, H, W, 3): a coarse random image with fine noise.

    Pure noise would average out after a few strides, and the model would see no difference between clips.
    """
    streams = {}
    for s in cfg.streams():
        if s.shows == "cover":
            random_cover = _random_tile_cover if s.fit == "tiles" else _random_mask
            streams[s.name] = random_cover(s, rng, (batch, clips, s.frames))
            continue
        coarse = rng.integers(0, 256, (batch, clips, s.frames, 4, 4, 3))
        image = coarse.repeat(-(-s.height // 4), axis=3).repeat(-(-s.width // 4), axis=4)
        image = image[:, :, :, : s.height, : s.width]
        streams[s.name] = np.clip(image + rng.integers(-40, 41, image.shape), 0, 255).astype(np.uint8)
    return streams


def _random_mask(stream: FrameStream, rng: np.random.Generator, frames: tuple[int, ...]) -> np.ndarray:
    """Return masks of images of random shapes, which are in the top left corner of the frame."""
    short, side = (stream.shortest_edge or 1) // stream.multiple, stream.height
    rows, columns = rng.integers(1, short + 1, frames), rng.integers(1, side + 1, frames)
    is_portrait = rng.random(frames) < 0.5
    rows, columns = np.where(is_portrait, columns, rows), np.where(is_portrait, rows, columns)
    positions = np.arange(side)
    inside = (positions < rows[..., None])[..., None] & (positions < columns[..., None])[..., None, :]
    return np.repeat(np.where(inside, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)


def _random_tile_cover(stream: FrameStream, rng: np.random.Generator, frames: tuple[int, ...]) -> np.ndarray:
    """Return covers, for the fit "tiles", of frames of random shapes."""
    size = stream.height * stream.width
    columns = rng.integers(1, math.isqrt(size) + 1, (*frames, 1))
    rows = rng.integers(1, size // columns + 1)
    tiles = np.arange(size)
    values = np.where(tiles % columns == columns - 1, 255, 128) * (tiles < rows * columns)
    pixels = values.astype(np.uint8).reshape(*frames, stream.height, stream.width, 1)
    return np.repeat(pixels, 3, axis=-1)


def random_sounds(stream: AudioStream, rng: np.random.Generator, batch: int) -> Arrays:
    """Return random samples (B, S) float32 and lengths (B,) int64: tones in noise, the first of full length.

    Pure noise would sound the same in all rows, so there are tones of several levels. Rows are 0 after their lengths.
    """
    lengths = rng.integers(stream.samples // 20, stream.samples + 1, batch)
    lengths[0] = stream.samples
    seconds = np.arange(stream.samples) / stream.sample_rate
    hertz, level = rng.uniform(100, stream.sample_rate / 4, (batch, 3, 1)), 10 ** rng.uniform(-3, -0.5, (batch, 3, 1))
    samples = (level * np.sin(2 * np.pi * hertz * seconds)).sum(axis=1)
    samples += 10 ** rng.uniform(-4, -1, (batch, 1)) * rng.standard_normal(samples.shape)
    samples[np.arange(stream.samples) >= lengths[:, None]] = 0.0
    return {SAMPLES: samples.clip(-1.0, 1.0).astype(np.float32), LENGTHS: lengths}


def random_tokens(cfg: Sizes, rng: np.random.Generator, batch: int, length: int) -> Arrays:
    """Return random input_ids and attention_mask (B, L) int64; the first row has full length, the others are padded."""
    ids = rng.integers(0, cfg.vocabulary, (batch, length))
    lengths = rng.integers(2, length + 1, batch)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids.astype(np.int64), "attention_mask": mask}


def random_answers(cfg: Sizes, rng: np.random.Generator, batch: int, answers: int, length: int) -> Arrays:
    """Return random answer_ids and answer_mask (B, N, M) int64."""
    tokens = random_tokens(cfg, rng, batch * answers, length)
    shape = (batch, answers, length)
    return {
        ANSWER_IDS: tokens["input_ids"].reshape(shape),
        ANSWER_MASK: tokens["attention_mask"].reshape(shape),
    }


def export_graph(spec: GraphSpec, cfg: Sizes, example_inputs: Arrays | None = None) -> onnx.ModelProto:
    """Export one graph in float32 with its weights inside, simplified. Puts the module into evaluation mode.

    example_inputs: Inputs whose dynamic sizes are above 1, since torch.export specializes on 1; None: random inputs.
    """
    arrays = example_inputs or _example_inputs(spec, cfg)
    example = tuple(torch.from_numpy(arrays[name]) for name in spec.inputs)
    names = {name for axes in spec.axes.values() for name in axes.values()}
    tokens = {"min": 2, "max": cfg.text_length}
    stream = cfg.audio_stream()
    limits = {"length": tokens, "answer_tokens": tokens, "audio_tokens": {"max": stream.tokens if stream else 0}}
    dims = {name: torch.export.Dim(name, **limits.get(name, {})) for name in names}
    shapes: tuple[Any, ...] = tuple({axis: dims[name] for axis, name in axes.items()} for axes in spec.axes.values())
    if spec.name == "video":
        shapes = (shapes,)  # *streams is one argument
    with torch.no_grad(), _silenced():
        program = torch.onnx.export(
            simplify(spec.module.eval().float()),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"{spec.name}: torch.onnx.export returned None; an ONNX program was expected")
    return _strip_metadata(program.model_proto)


def export_graphs(model: FusedModel) -> dict[GraphName, onnx.ModelProto]:
    """Export all graphs of a model in float32, by name."""
    return export_specs(graph_specs(model), model.cfg)


def export_specs(specs: Sequence[GraphSpec], cfg: Sizes) -> dict[GraphName, onnx.ModelProto]:
    """Export the graphs of a model in float32, by name."""
    has_captions = any(spec.name == "caption_step" for spec in specs)
    examples = {"caption_step": _example_captions(specs, cfg)} if has_captions else {}
    return {spec.name: export_graph(spec, cfg, examples.get(spec.name)) for spec in specs}


def caption_inputs(
    specs: Sequence[GraphSpec], tokens: Arrays, input_ids: np.ndarray, past: int
) -> tuple[Arrays, Arrays]:
    """Return inputs of caption_prefill, and inputs of caption_step that torch computes from them.

    Args:
        specs: Specs of the graphs of a model with captions.
        tokens: Visual tokens (B, V, K) and, if the model reads sound, audio tokens (B, T, A) by name.
        input_ids: (B, P + L) int64.
        past: Number P of ids that are already decoded.
    """
    by_name = {spec.name: spec for spec in specs}
    prefill, step = by_name["caption_prefill"], by_name["caption_step"]
    tokens = {name: tokens[name] for name in prefill.inputs}
    visual = run_torch(prefill, tokens)
    empty = visual[VISUAL_KEYS][:, :, :, :0]
    cache = {PAST_KEYS: empty, PAST_VALUES: empty}
    if past:
        outputs = run_torch(step, {"input_ids": input_ids[:, :past]} | cache | visual)
        cache = {PAST_KEYS: outputs[PRESENT_KEYS], PAST_VALUES: outputs[PRESENT_VALUES]}
    return tokens, {"input_ids": input_ids[:, past:]} | cache | visual


def _example_captions(specs: Sequence[GraphSpec], cfg: Sizes) -> Arrays:
    prefill = next(spec for spec in specs if spec.name == "caption_prefill")
    tokens = _example_inputs(prefill, cfg)
    rng = np.random.default_rng(0)
    return caption_inputs(specs, tokens, rng.integers(0, cfg.vocabulary, (3, 9)), 4)[1]


def run_torch(spec: GraphSpec, inputs: Arrays) -> Arrays:
    """Run the torch module of a graph in float32."""
    module = spec.module.eval()
    with torch.no_grad():
        result = module(*(torch.from_numpy(inputs[name]) for name in spec.inputs))
    results = result if isinstance(result, tuple) else (result,)
    return {name: r.numpy() for name, r in zip(spec.outputs, results, strict=True)}


def _example_inputs(spec: GraphSpec, cfg: Sizes) -> Arrays:
    rng = np.random.default_rng(0)
    stream = cfg.audio_stream()
    if spec.name == "video":
        arrays = random_streams(cfg, rng, 2, 2)
    elif spec.name == "audio":
        assert stream is not None
        arrays = random_sounds(stream, rng, 2)
    else:
        arrays = random_tokens(cfg, rng, 3, min(7, cfg.text_length))
        arrays["visual_tokens"] = rng.normal(size=(3, cfg.visual_tokens, cfg.visual_width)).astype(np.float32)
        if stream is not None and stream.fused:
            arrays[AUDIO_TOKENS] = rng.normal(size=(3, stream.tokens, stream.width)).astype(np.float32)
        if ANSWER_IDS in spec.inputs:
            arrays |= random_answers(cfg, rng, 3, 5, 4)
    return arrays


def _strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's metadata (stack traces contain local paths) and intermediate shapes."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the exporter's progress output and deprecation warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
