"""What the manifest says of a graph: its inputs and outputs, by name.

Shape letters: B videos, C clips, F frames, H height, W width, V visual tokens, L text tokens, D vector
width, N answers, M tokens of an answer.
"""

from __future__ import annotations

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Manifest
from vitascope.engines.onnx_runtime import ArraySpec

Specs = dict[str, ArraySpec]
ANSWER_IDS, ANSWER_MASK = "answer_ids", "answer_mask"
"""Of an answer graph that is given what it weighs: each (B, N, M) int64, as the tokenizer makes them."""


def graph_of(bundle: Bundle, graph: str) -> tuple[Specs, Specs]:
    """(inputs, outputs) of a graph of ``bundle``, by its manifest and its answers."""
    manifest = bundle.manifest
    return stated_graph(manifest, graph, None if manifest.answer_length else len(bundle.answers))


def stated_graph(manifest: Manifest, graph: str, answers: int | None) -> tuple[Specs, Specs]:
    """(inputs, outputs) that the manifest implies for "text", "video", "match" or "answer" with so many answers; None:
    as many as it is given.
    """
    text = {name: ArraySpec("int64", (None, None)) for name in ("input_ids", "attention_mask")}
    tokens = ArraySpec("float32", (None, manifest.visual_tokens, manifest.visual_width))
    vector = ArraySpec("float32", (None, manifest.vector_width))
    if graph == "text":
        return text, {"vector": vector}
    if graph == "video":
        streams = {s.name: ArraySpec("uint8", (None, None, s.frames, s.height, s.width, 3)) for s in manifest.streams}
        vectors = {"vector": vector} if manifest.vector_width else {}
        return streams, {**vectors, "visual_tokens": tokens}
    if graph == "match":
        return {**text, "visual_tokens": tokens}, {"match_logit": ArraySpec("float32", (None,))}
    given = {name: ArraySpec("int64", (None, None, None)) for name in (ANSWER_IDS, ANSWER_MASK)}
    inputs = {**text, "visual_tokens": tokens, **(given if manifest.answer_length else {})}
    return inputs, {"answer_logits": ArraySpec("float32", (None, answers))}
