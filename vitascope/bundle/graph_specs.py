"""Types and shapes of the inputs and outputs of a bundle's graphs, derived from its manifest.

Shape letters: B videos, texts or windows of sound, C clips, F frames, H height, W width (pixels), V visual tokens, K
their width, S samples, T audio tokens or windows of a video, A width of audio tokens, L text tokens, D embedding dim,
N answers, M tokens of an answer. For a caption decoder: Y layers, H heads, d their width, T visual and audio tokens,
P tokens so far, L new tokens, N vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.manifest import CAPTION_GRAPHS, Manifest

Array = NDArray[Any]

_PATCHES = 4
"""Uniform patches of a random image along each side. Noise alone would be averaged out by the strides of a network."""
_CANDIDATES = 3
"""Free-form candidates per question, and tokens of each."""


class ArraySpec(NamedTuple):
    """Type and shape of an input or output of a graph."""

    dtype: str
    """NumPy's name."""
    shape: tuple[int | None, ...]
    """None: a dynamic dimension."""

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes})"


ArraySpecs = dict[str, ArraySpec]
ANSWER_IDS, ANSWER_MASK = "answer_ids", "answer_mask"
"""Inputs of an answer graph with free-form candidates: token ids and attention mask, each (B, N, M) int64."""
SAMPLES, LENGTHS = "samples", "lengths"
"""Inputs of an audio graph: windows of sound (B, S) float32, and their lengths in samples without fill (B,) int64."""
AUDIO_TOKENS = "audio_tokens"
"""Output of an audio graph, and input of the match and answer graphs that read it, (B, T, A) float32."""
WINDOWS, WINDOW_MASK, WINDOW_TEXT = "windows", "window_mask", "text"
"""Inputs of a moments graph: embeddings of the windows of a video (B, T, D) float32; 1 where there is a window (B, T)
int64; the embedding of the text (B, D) float32."""
SALIENCY, SPANS, SPAN_SCORES = "saliency", "spans", "span_scores"
"""Outputs of a moments graph, all float32: probability that the text describes each window (B, T); the span that each
window proposes, start and end counted in windows (B, T, 2); and the score of that span, 0 to 1 (B, T)."""

ENTAILMENT_LOGITS = "entailment_logits"
"""Output of an entailment graph: logits of entailed, neutral and contradicted (B, 3) float32."""
HEAT_LOGITS, BOX = "heat_logits", "box"
"""Outputs of a grounding graph, both float32: for each cell of a heat map, the logit that it contains the centre of the
object that the text names (B, rows, columns); and the box of that object (B, 4): left, top, right and bottom, as
fractions of the picture's width and height."""
VISUAL_KEYS, VISUAL_VALUES, VISUAL_MASK = "visual_keys", "visual_values", "visual_mask"
"""Outputs of a caption_prefill graph, and inputs of caption_step: keys and values of the visual and audio tokens in
each layer (B, Y, H, T, d) float32; 1 where there is a token (B, T) int64."""
PAST_KEYS, PAST_VALUES = "past_keys", "past_values"
"""Inputs of a caption_step graph: keys and values of the tokens so far in each layer (B, Y, H, P, d) float32; P may be
0."""
PRESENT_KEYS, PRESENT_VALUES, LOGITS = "present_keys", "present_values", "logits"
"""Outputs of a caption_step graph: ``past_keys`` and ``past_values`` with the new tokens (B, Y, H, P + L, d) float32;
the logits of the token that comes next (B, N) float32."""


def graph_spec(
    manifest: Manifest, graph: str, answers: int | None, length: int | None = None
) -> tuple[ArraySpecs, ArraySpecs]:
    """Return the types and shapes of a graph's inputs and outputs, derived from the manifest.

    Args:
        manifest: Manifest of the bundle.
        graph: Name of the graph. The field of the manifest that describes it must be set.
        answers: Number of answers N; None: dynamic.
        length: Size of a dynamic dimension: windows T of a moments graph, audio tokens of caption_prefill, or P + L of
            the outputs of caption_step. None: dynamic.

    Returns:
        (inputs, outputs), each by name.
    """
    audio = manifest.audio
    text = {name: ArraySpec("int64", (None, None)) for name in ("input_ids", "attention_mask")}
    tokens = ArraySpec("float32", (None, manifest.visual_tokens, manifest.visual_width))
    audio_tokens = {AUDIO_TOKENS: ArraySpec("float32", (None, audio.tokens, audio.width))} if audio else {}
    fused = {**text, "visual_tokens": tokens, **(audio_tokens if audio and audio.fused else {})}
    embedding = ArraySpec("float32", (None, manifest.vector_width))
    if graph == "text":
        return text, {"vector": embedding}
    if graph == "video":
        streams = {s.name: ArraySpec("uint8", (None, None, s.frames, s.height, s.width, 3)) for s in manifest.streams}
        embeddings = {"vector": embedding} if manifest.vector_width else {}
        return streams, {**embeddings, "visual_tokens": tokens}
    if graph == "audio":
        assert audio is not None
        sounds = {SAMPLES: ArraySpec("float32", (None, audio.samples)), LENGTHS: ArraySpec("int64", (None,))}
        return sounds, {"vector": embedding, **(audio_tokens if audio.tokens else {})}
    if graph == "moments":
        curve = ArraySpec("float32", (None, length))
        sequence = {
            WINDOWS: ArraySpec("float32", (None, length, manifest.vector_width)),
            WINDOW_MASK: ArraySpec("int64", (None, length)),
            WINDOW_TEXT: embedding,
        }
        return sequence, {SALIENCY: curve, SPANS: ArraySpec("float32", (None, length, 2)), SPAN_SCORES: curve}
    if graph in CAPTION_GRAPHS:
        tokens_by_name = {name: spec for name, spec in fused.items() if name not in text}
        return _caption_spec(manifest, graph, tokens_by_name, length)
    if graph == "grounding":
        grid = manifest.grounding
        assert grid is not None
        heat = ArraySpec("float32", (None, grid.rows * grid.cells, grid.columns * grid.cells))
        outputs = {HEAT_LOGITS: heat, BOX: ArraySpec("float32", (None, 4))}
        return {**text, "visual_tokens": tokens}, outputs
    if graph == "match":
        return fused, {"match_logit": ArraySpec("float32", (None,))}
    if graph == "entailment":
        return fused, {ENTAILMENT_LOGITS: ArraySpec("float32", (None, 3))}
    candidates = {name: ArraySpec("int64", (None, None, None)) for name in (ANSWER_IDS, ANSWER_MASK)}
    inputs = {**fused, **(candidates if manifest.answer_length else {})}
    return inputs, {"answer_logits": ArraySpec("float32", (None, answers))}


def _caption_spec(
    manifest: Manifest, graph: str, tokens: ArraySpecs, length: int | None
) -> tuple[ArraySpecs, ArraySpecs]:
    """Return the inputs and outputs of a caption graph; ``tokens``: visual and audio tokens that the decoder reads."""
    decoder = manifest.captions
    assert decoder is not None
    all_tokens = decoder.context_tokens or sum(spec.shape[1] or 0 for spec in tokens.values())
    count: int | None = all_tokens
    if decoder.dynamic_audio and AUDIO_TOKENS in tokens:
        assert manifest.audio is not None
        sound = length if graph == "caption_prefill" else None
        count = None if sound is None else all_tokens - manifest.audio.tokens + sound
        tokens = tokens | {AUDIO_TOKENS: ArraySpec("float32", (None, sound, manifest.audio.width))}

    def cache(size: int | None) -> ArraySpec:
        return ArraySpec("float32", (None, decoder.layers, decoder.heads, size, decoder.head_width))

    visual = {VISUAL_KEYS: cache(count), VISUAL_VALUES: cache(count), VISUAL_MASK: ArraySpec("int64", (None, count))}
    if graph == "caption_prefill":
        return tokens, visual
    past = {PAST_KEYS: cache(None), PAST_VALUES: cache(None)}
    present = {PRESENT_KEYS: cache(length), PRESENT_VALUES: cache(length)}
    logits = ArraySpec("float32", (None, decoder.vocabulary))
    return {"input_ids": ArraySpec("int64", (None, None)), **past, **visual}, {LOGITS: logits, **present}


def random_inputs(
    specs: ArraySpecs, rng: np.random.Generator, vocabulary: int, rows: int = 1, clips: int = 1, length: int = 2
) -> dict[str, Array]:
    """Return random inputs of a graph by name.

    Args:
        specs: Inputs as ``graph_spec`` returns them.
        rng: Source of the values.
        vocabulary: Number of tokens of the tokenizer.
        rows: B.
        clips: C.
        length: Size of other dynamic dimensions: L, T of windows of a video, and P of a caption.

    Returns:
        Streams (B, C, F, H, W, 3) uint8; token ids (B, L) int64, which include the largest id of the vocabulary; masks
        (B, L) int64 with rows of different lengths; windows of sound (B, S) float32, full and partly filled; others
        float32.
    """
    inputs: dict[str, Array] = {}
    for name, spec in specs.items():
        sizes = spec.shape[1:]
        if spec.dtype == "uint8":
            inputs[name] = _random_images(rng, (rows, *(size or clips for size in sizes)))
        elif name == SAMPLES:
            inputs[name] = rng.uniform(-1, 1, (rows, *(size or 1 for size in sizes))).astype(spec.dtype)
        elif name == LENGTHS:
            length_of_window = inputs[SAMPLES].shape[1]
            inputs[name] = np.linspace(length_of_window, length_of_window // 2 + 1, rows).astype(np.int64)
            inputs[SAMPLES] *= np.arange(length_of_window) < inputs[name][:, None]
        elif spec.dtype == "int64":
            shape = (rows, sizes[0] or length) if len(sizes) == 1 else (rows, *(size or _CANDIDATES for size in sizes))
            inputs[name] = _mask(shape) if name.endswith("mask") else _random_ids(rng, shape, vocabulary)
        else:
            inputs[name] = rng.standard_normal((rows, *(size or length for size in sizes))).astype(spec.dtype)
    return inputs


def _random_ids(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Array:
    ids = rng.integers(0, vocabulary, shape, dtype=np.int64)
    ids.flat[0] = vocabulary - 1
    return ids


def _mask(shape: tuple[int, ...]) -> Array:
    """Return a mask whose first row is full and whose last row has two tokens."""
    rows, length = shape[0], shape[-1]
    lengths = np.linspace(length, min(2, length), rows).astype(np.int64)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return np.ascontiguousarray(np.broadcast_to(mask.reshape(rows, *[1] * (len(shape) - 2), length), shape))


def _random_images(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    *leading, height, width, channels = shape
    patches = rng.integers(0, 256, (*leading, _PATCHES, _PATCHES, channels), dtype=np.int16)
    scaled = patches.repeat(-(-height // _PATCHES), axis=-3).repeat(-(-width // _PATCHES), axis=-2)
    image = scaled[..., :height, :width, :]
    noisy: Array = np.clip(image + rng.integers(-40, 41, image.shape, dtype=np.int16), 0, 255)
    return noisy.astype(np.uint8)
