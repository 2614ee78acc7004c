"""Float16 and int8 variants of a bundle for TensorRT.

Every graph is checked against TensorRT's supported operators. Its outputs are compared with those of the original graph
in ONNX Runtime. Graphs for moments, captions and grounding do not change. The folder of the variant appears only after
all checks have passed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from model_export.assemble import (
    CARD_NAME,
    PARITY_NAME,
    Log,
    check_target,
    copy_files,
    finish,
    no_log,
    replace_bundle,
)
from model_export.graphs import Arrays, ManifestSizes, random_sounds, random_streams, random_tokens
from model_export.onnx_graph import copy_model
from model_export.parity.cases import example_texts
from model_export.parity.checks import ParityError, library_versions, probability_difference
from model_export.targets.tensorrt_graphs import SOURCE, to_float16, to_int8, unsupported
from model_export.weights import store
from training.bundle_checkpoint import CHECKPOINT_KEY
from training.data.packed import PACK_NAME, Packed, open_packed
from training.evaluation.encoder import streams_of
from training.evaluation.sound import is_packed_for, packed_sounds
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import AUDIO_TOKENS
from vitascope.bundle.manifest import ADDED_GRAPHS, GraphName, Manifest
from vitascope.bundle.onnx_files import external_files, load_graph
from vitascope.bundle.parity_report import SourceBundle
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.integrations.tensorrt.onnx_rewrites import prepare_for_tensorrt
from vitascope.scoring import row_cosines

Types = Literal["float16", "int8"]

CALIBRATION_EXAMPLES = 64
"""Number of examples of each corpus for calibration ranges, and of other examples for the comparison."""
BATCH_SIZE = 4
MIN_COSINE: Mapping[Types, float] = {"float16": 0.999, "int8": 0.98}
"""Minimum cosine of embeddings, visual tokens and answer logits with those of the original graphs."""
MAX_PROBABILITY_DIFFERENCE: Mapping[Types, float] = {"float16": 0.0125, "int8": 0.05}
"""Maximum difference of the sigmoids of match logits."""


def make_variant(
    source: Path,
    out: Path,
    types: Types,
    *,
    data: Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    log: Log = no_log,
) -> dict[str, Types]:
    """Write a variant of a bundle. After an error nothing is written.

    Args:
        source: The bundle.
        out: Folder of the variant.
        types: Types of the arithmetic. With int8, a graph that would lose too much accuracy uses float16.
        data: Folder of packed corpora whose validation splits give the calibration ranges; required for int8.
        name: Name of the variant; None: the bundle's name and the types.
        seed: Seed of the random inputs of the comparison; None: random.
        log: Called with progress messages.

    Returns:
        The types of each graph.

    Raises:
        BundleError: The bundle cannot be opened.
        InvalidInput: TensorRT does not support a graph, or int8 has no data.
        ParityError: The outputs of a graph differ too much.
    """
    bundle = Bundle.open(source)
    if bundle.manifest.answer_length:
        raise InvalidInput(
            f"{source}: scores any answer, which is not available with TensorRT; other bundles were expected"
        )
    name = name or f"{bundle.manifest.name}-{types}"
    check_target(source, out, name)
    corpora = [open_packed(pack.parent) for pack in sorted(data.glob(f"*/val/{PACK_NAME}"))] if data else []
    if types == "int8" and not corpora:
        raise InvalidInput(f"data: {data}; a folder with CORPUS/val was expected: int8 needs real clips and captions")
    seed = secrets.randbits(32) if seed is None else seed
    with replace_bundle(out) as folder:
        variant = _Variant(bundle, types, corpora, seed, log)
        variant.write(folder, name)
    return variant.types


class _Variant:
    """One variant in progress."""

    def __init__(self, bundle: Bundle, types: Types, corpora: Sequence[Packed], seed: int, log: Log) -> None:
        self.bundle, self.log, self.seed, self.requested = bundle, log, seed, types
        self.paths = {graph: bundle.folder / file for graph, file in bundle.manifest.graphs.items()}
        converted = {graph: path for graph, path in self.paths.items() if graph not in ADDED_GRAPHS}
        self.graphs = {graph: prepare_for_tensorrt(path) for graph, path in converted.items()}
        self.engines = {graph: OnnxRuntimeEngine(path, device="cpu") for graph, path in converted.items()}
        halves = [_sample_halves(packed) for packed in corpora]
        self.calibration = self._real_inputs(corpora, [rows for rows, _ in halves])
        self.inputs = self._random_inputs()
        for graph, inputs in self._real_inputs(corpora, [rows for _, rows in halves]).items():
            self.inputs[graph] += inputs
        self.types: dict[str, Types] = {}
        self.checks: list[dict[str, Any]] = []

    def write(self, folder: Path, name: str) -> None:
        graphs = {graph: self._converted(graph, folder) for graph in self.graphs}
        graphs |= {graph: load_graph(path) for graph, path in self.paths.items() if graph not in graphs}
        files = store(graphs, folder, "float32")
        manifest = self.bundle.manifest
        weights = {file for path in self.paths.values() for file in external_files(path)}
        replaced = {*manifest.graphs.values(), *weights, manifest.parity_report, manifest.model_card}
        copy_files(self.bundle, sorted(set(manifest.files) - replaced), folder)
        source = SourceBundle.from_bundle(self.bundle).model_dump()
        report = {
            "variant_of": source,
            "types": self.types,
            "operators": SOURCE,
            "seed": self.seed,
            "versions": library_versions("onnx", "onnxruntime"),
            "checked": "outputs of each graph compared with the original's, both by ONNX Runtime on a CPU",
            "outputs": self.checks,
        }
        extra = {key: value for key, value in manifest.extra.items() if key not in ("provenance", CHECKPOINT_KEY)}
        fields = manifest.model_dump() | {
            "name": name,
            "graphs": files,
            "precision": self.requested,
            "model_card": CARD_NAME,
            "parity_report": PARITY_NAME,
            "extra": extra | {"variant_of": source, "types": self.types},
        }
        finish(folder, fields, json.dumps(report, indent=1) + "\n", self._card)

    def _converted(self, graph: GraphName, folder: Path) -> onnx.ModelProto:
        """Convert a graph and compare its outputs; falls back from int8 to float16."""
        attempts: list[Types] = ["int8", "float16"] if self.requested == "int8" else [self.requested]
        for types in attempts:
            original = self.graphs[graph]
            if types == "int8" and not self.calibration[graph]:
                self.log(f"{graph}: no inputs for calibration ranges in the corpora, using float16")
                continue
            model = to_int8(original, self.calibration[graph]) if types == "int8" else to_float16(original)
            if types == "int8" and all(node.op_type != "QuantizeLinear" for node in model.graph.node):
                self.log(f"{graph}: no operator to quantize, using float16")
                continue
            self.log(f"{graph}: {types}")
            if problems := unsupported(model):
                raise InvalidInput(f"{graph}: TensorRT does not support it ({SOURCE}): {'; '.join(problems)}")
            try:
                checks = self._compare(graph, model, types, folder)
            except ParityError as error:
                if types == attempts[-1]:
                    raise
                self.log(f"{error}; using {attempts[-1]}")
                continue
            self.types[graph] = types
            self.checks += checks
            return model
        raise AssertionError("the last attempt returns or raises")

    def _compare(self, graph: GraphName, model: onnx.ModelProto, types: Types, folder: Path) -> list[dict[str, Any]]:
        path = folder / f"checked-{graph}.onnx"
        onnx.save_model(
            copy_model(model),  # saving moves the weights out of the model
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=f"{path.stem}.bin",
        )
        original, converted = self.engines[graph], OnnxRuntimeEngine(path, device="cpu")
        pairs = [(original.run(inputs), converted.run(inputs)) for inputs in self.inputs[graph]]
        path.unlink()
        (folder / f"{path.stem}.bin").unlink(missing_ok=True)
        return [
            _check_output(graph, name, types, [a[name] for a, _ in pairs], [b[name] for _, b in pairs])
            for name in original.outputs
        ]

    def _random_inputs(self) -> dict[str, list[Arrays]]:
        """Return random inputs by graph: B 1 to 3, C 1 and 2, L 2 to the text length."""
        sizes = ManifestSizes(self.bundle.manifest, vocabulary=self.bundle.tokenizer().vocabulary_size)
        rng = np.random.default_rng(self.seed)
        videos = [random_streams(sizes, rng, batch, clips) for batch, clips in ((1, 1), (3, 1), (2, 2))]
        lengths = ((1, 2), (3, sizes.text_length), (2, max(2, sizes.text_length // 2)))
        texts = [random_tokens(sizes, rng, batch, length) for batch, length in lengths]
        stream = sizes.audio_stream()
        sounds = [random_sounds(stream, rng, batch) for batch in (1, 3, 2)] if stream else []
        return self._by_graph(videos, texts, sounds)

    def _real_inputs(self, corpora: Sequence[Packed], rows: Sequence[np.ndarray]) -> dict[str, list[Arrays]]:
        """Frames, sounds, captions and questions of these rows of each corpus, by graph."""
        tokenizer, manifest = self.bundle.tokenizer(), self.bundle.manifest
        videos, texts, sounds = [], [], []
        for packed, selected in zip(corpora, rows, strict=True):
            for start in range(0, len(selected), BATCH_SIZE):
                batch = selected[start : start + BATCH_SIZE]
                if manifest.streams and not packed.sound_alone:
                    videos.append(streams_of(packed, batch, manifest.streams))
                if manifest.audio and is_packed_for(packed, manifest.audio):
                    sounds.append(packed_sounds(packed, batch, manifest.audio))
                captions = [text for row in batch for text in example_texts(packed, int(row))]
                if captions:
                    ids, mask = tokenizer.encode(captions)
                    texts.append({"input_ids": ids, "attention_mask": mask})
        return self._by_graph(videos, texts, sounds)

    def _by_graph(self, videos: list[Arrays], texts: list[Arrays], sounds: list[Arrays]) -> dict[str, list[Arrays]]:
        manifest = self.bundle.manifest
        rows = [np.arange(len(text["input_ids"])) for text in texts]
        tokens = self._outputs("video", "visual_tokens", videos, (manifest.visual_tokens, manifest.visual_width))
        fused = [text | {"visual_tokens": tokens[i % len(tokens)]} for i, text in zip(rows, texts, strict=True)]
        if manifest.audio and manifest.audio.fused:
            audio = self._outputs("audio", AUDIO_TOKENS, sounds, (manifest.audio.tokens, manifest.audio.width))
            fused = [text | {AUDIO_TOKENS: audio[i % len(audio)]} for i, text in zip(rows, fused, strict=True)]
        return {"video": videos, "audio": sounds, "text": texts, "match": list(fused), "answer": list(fused)}

    def _outputs(self, graph: str, output: str, inputs: list[Arrays], shape: tuple[int, int]) -> np.ndarray:
        """Return an output (n, *shape) of a graph for all inputs; one row of zeros without any."""
        if graph not in self.engines or not inputs:
            return np.zeros((1, *shape), np.float32)
        return np.concatenate([self.engines[graph].run(batch)[output] for batch in inputs])

    def _card(self, draft: Manifest) -> str:
        manifest = self.bundle.manifest
        original = (self.bundle.folder / manifest.model_card).read_text("utf-8").rstrip()
        types = ", ".join(f"{graph} {types}" for graph, types in sorted(self.types.items()))
        return (
            f"{original}\n\n## A variant for TensorRT\n\n"
            f"Made from {manifest.name} {manifest.version}, for engines of lower precision: {types}. The numbers above "
            f"are the original's. The difference of its outputs from the original's is in {draft.parity_report}.\n"
        )


def _check_output(
    graph: GraphName, output: str, types: Types, expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Compare one output over all inputs. Raises ParityError if it differs by more than these types may."""
    check: dict[str, Any] = {
        "graph": graph,
        "output": output,
        "types": types,
        "max_difference": float(np.max([np.abs(a - b).max() for a, b in zip(expected, actual, strict=True)])),
    }
    where = f"{graph}: output {output!r} in {types}"
    # Each comparison is written so that NaN fails.
    difference, limit = probability_difference(output, expected, actual), MAX_PROBABILITY_DIFFERENCE[types]
    if difference is not None:
        if not difference <= limit:
            raise ParityError(f"{where} differs by a probability of {difference:.3g}; at most {limit:g} was expected")
        return check | {"probability_difference": difference}
    cosine = float(np.min([row_cosines(a, b).min() for a, b in zip(expected, actual, strict=True)]))
    if not cosine >= MIN_COSINE[types]:
        raise ParityError(f"{where} has a cosine of {cosine:.5f}; at least {MIN_COSINE[types]:g} was expected")
    return check | {"cosine": cosine}


def _sample_halves(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """Return disjoint rows for calibration and for the comparison, both spread evenly over the split."""
    rows = np.unique(np.linspace(0, len(packed) - 1, min(len(packed), 2 * CALIBRATION_EXAMPLES)).astype(int))
    return rows[::2], rows[1::2] if len(rows) > 1 else rows
