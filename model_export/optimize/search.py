"""Search for the fastest variant of a bundle within an accuracy budget.

Every graph has several candidates: as stored, fused, and fused in float16 or int8. Each is timed on this machine and
evaluated on validation splits. The fastest candidates whose total loss stays within the budget are selected.
Graphs for moments, captions and grounding stay as stored.
The reported numbers are measured on the written bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import get_args

import numpy as np
import onnx

from model_export.assemble import (
    Log,
    check_target,
    copy_files,
    finish,
    no_log,
    replace_bundle,
    write_documents,
    write_manifest,
)
from model_export.calibrate import calibration_record, keep_reranking, recalibrate
from model_export.card import METRICS_KEY, model_card
from model_export.onnx_graph import fold_constants
from model_export.optimize.evaluation_cache import EvalCache, Sounds, Texts, Videos, open_corpora
from model_export.optimize.fusion import fuse
from model_export.optimize.quantize import (
    THREADS,
    QuantizableGraph,
    int8_node_sets,
    open_engine,
    prepare_for_int8,
    to_float16,
)
from model_export.optimize.report import SOURCE_KEY, VARIANT_KEY, CandidateResult, Variant, variant_section
from model_export.optimize.speed import (
    QUICK,
    THOROUGH,
    Effort,
    Speed,
    describe_cpu,
    measure_speeds,
    speedup,
    timing_inputs,
)
from model_export.optimize.validation_scores import Budget, Scores, accuracy_loss
from model_export.parity.checks import FLOAT32, ParityError, ParityReport, compare_output, library_versions
from model_export.parity.variants import compare_outputs, comparison_section, read_report
from model_export.weights import Precision, bytes_by_type, reduce, store
from training.bundle_checkpoint import CHECKPOINT_KEY
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.describe import calibration_summary, reranking_summary
from vitascope.bundle.manifest import ADDED_GRAPHS, GraphName, Manifest
from vitascope.bundle.onnx_files import load_graph
from vitascope.bundle.parity_report import SourceBundle, VariantComparison
from vitascope.engines.onnx_runtime import Engine, OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.model import Model

EMBEDDING_GRAPHS: Sequence[GraphName] = ("text", "video", "audio")
STORED, FUSED, INT8, FLOAT16 = "as stored", "fused", "int8", "float16"
"""Kinds of candidates."""
GRAPH_SPECIFIC_KEYS = ("measured", "clip_ms", "calibration", CHECKPOINT_KEY, METRICS_KEY)
"""Keys of a manifest's `extra` that describe the replaced graphs."""


@dataclass(eq=False)
class _Candidate:
    """One implementation of a graph and its measurements. model: Graph with the weights that would be stored."""

    graph: GraphName
    kind: str
    model: onnx.ModelProto
    engine: Engine
    float_nodes: int = 0
    speeds: list[Speed] = field(default_factory=list)
    videos: Videos | None = None
    texts: Texts | None = None
    sounds: Sounds | None = None
    cosines: np.ndarray | None = None
    loss: float | None = None


def optimize(
    source: Path,
    out: Path,
    budget: Budget,
    data: Path,
    *,
    name: str | None = None,
    log: Log = no_log,
) -> Path:
    """Write the fastest variant of a bundle within the budget. After an error, nothing is written or changed.

    Args:
        source: The bundle.
        out: Folder of the variant.
        budget: Maximum loss of accuracy.
        data: Folder of packed corpora whose validation splits are used.
        name: Name of the variant; None: the folder name of `out`.
        log: Called with progress messages.

    Returns:
        `out`.

    Raises:
        BundleError: The bundle cannot be opened.
        InvalidInput: The bundle is itself a variant, has no retrieval task, or no validation split fits it.
        ParityError: The written bundle loses more than the budget.
    """
    check_target(source, out, name or out.name)
    bundle = Bundle.open(source)
    if SOURCE_KEY in bundle.manifest.extra:
        raise InvalidInput(f"{source}: is a variant itself; the bundle it was made from was expected")
    if not {"retrieval", "audio_retrieval"} & set(bundle.manifest.tasks):
        raise InvalidInput(
            f"{source}: its tasks are {', '.join(bundle.manifest.tasks)}; retrieval or audio_retrieval was expected "
            "among them"
        )
    model = Model(bundle, THREADS, "cpu")
    corpora = open_corpora(model, data)
    with replace_bundle(out) as folder:
        log(f"evaluating {bundle.manifest.name} on {', '.join(c.name for c in corpora)} (val)")
        search = _Search(bundle, EvalCache(model, corpora), budget, log)
        _write_variant(search, search.select(), folder, name or out.name)
    return out


class _Search:
    """All candidates of a bundle's graphs, measured."""

    def __init__(self, bundle: Bundle, cache: EvalCache, budget: Budget, log: Log) -> None:
        self.bundle, self.cache, self.budget, self.log = bundle, cache, budget, log
        self.candidates = {
            graph: self._measured_candidates(graph) for graph in bundle.manifest.graphs if graph not in ADDED_GRAPHS
        }
        self._fastest: dict[tuple[tuple[_Candidate, ...], GraphName], _Candidate | None] = {}

    def select(self) -> dict[GraphName, _Candidate]:
        """Return the fastest candidates that together stay within the budget."""
        embedding = [graph for graph in EMBEDDING_GRAPHS if graph in self.candidates]
        choices = sorted(
            product(*(self._evaluated(graph) for graph in embedding)),
            key=lambda choice: -prod(self.speedup(candidate) for candidate in choice),
        )
        for choice in choices:
            encoded = self._encoded(choice)
            if not self._within_budget(self.cache.recall(*encoded)):
                continue
            fusion = [self._fastest_fusion(choice, graph) for graph in self.candidates if graph not in embedding]
            selected = [*choice, *(candidate for candidate in fusion if candidate is not None)]
            if len(selected) == len(self.candidates):
                return {candidate.graph: candidate for candidate in selected}
        raise AssertionError("the stored graphs lose nothing")

    def _encoded(self, choice: Sequence[_Candidate]) -> tuple[Videos, Texts, Sounds]:
        """Return the corpora embedded by the chosen candidates.

        Where no candidate replaces a graph, its embeddings are the stored graph's.
        """
        videos = next((c.videos for c in choice if c.videos is not None), self.cache.videos)
        texts = next((c.texts for c in choice if c.texts is not None), self.cache.texts)
        sounds = next((c.sounds for c in choice if c.sounds is not None), self.cache.sounds)
        return videos, texts, sounds

    def speedup(self, candidate: _Candidate, stored: _Candidate | None = None) -> float:
        """Return the speedup over the stored graph."""
        return speedup((stored or self.candidates[candidate.graph][0]).speeds, candidate.speeds)

    def _within_budget(self, scores: Scores) -> bool:
        return self.budget.allows(accuracy_loss(self.cache.scores, scores))

    def _evaluated(self, graph: GraphName) -> list[_Candidate]:
        return [candidate for candidate in self.candidates[graph] if candidate.loss is not None]

    def _fastest_fusion(self, choice: Sequence[_Candidate], graph: GraphName) -> _Candidate | None:
        """Return the fastest candidate of a match or answer graph within the budget, on `choice`'s tokens."""
        key = tuple(candidate for candidate in choice if candidate.graph != "text"), graph
        if key not in self._fastest:
            videos, _, sounds = self._encoded(choice)
            ordered = sorted(self._evaluated(graph), key=lambda candidate: -self.speedup(candidate))
            fitting = (c for c in ordered if self._within_budget(self._fusion_scores(c, videos, sounds)))
            self._fastest[key] = next(fitting, None)
        return self._fastest[key]

    def _fusion_scores(self, candidate: _Candidate, videos: Videos, sounds: Sounds) -> Scores:
        evaluate = self.cache.caption_accuracy if candidate.graph == "match" else self.cache.answer_accuracy
        return evaluate({candidate.graph: candidate.engine}, videos, sounds)

    def _measured_candidates(self, graph: GraphName) -> list[_Candidate]:
        """Build, time and evaluate the candidates of a graph, the stored one first."""
        path = self.bundle.graph_path(graph)
        assert path is not None
        engine = OnnxRuntimeEngine(path, THREADS, "cpu")
        stored = _Candidate(graph, STORED, load_graph(path), engine, loss=0.0)
        if not self.cache.can_measure(graph):
            self.log(f"{graph}: stays as stored, as no validation split has inputs of it")
            self._time([stored], THOROUGH)
            return [stored]
        self.log(f"{graph}: fusing, measuring calibration ranges for int8")
        fused = fuse(fold_constants(path))
        quantizable = prepare_for_int8(fused, self.cache.calibration_inputs(graph))
        candidates = [stored, self._fused(stored, fused), self._candidate(graph, FLOAT16, to_float16(fused))]
        if quantizable.nodes:
            candidates.append(self._candidate(graph, INT8, quantizable.to_int8(quantizable.nodes)))
        self._time(candidates, QUICK)
        for candidate in candidates[2:]:
            if self.speedup(candidate, stored) > 1.0:
                self._evaluate(candidate)
        candidates += self._partially_int8(quantizable, candidates[-1])
        self._time(candidates, THOROUGH)
        return candidates

    def _fused(self, stored: _Candidate, model: onnx.ModelProto) -> _Candidate:
        """Return the fused candidate, compared with the stored graph. Raises ParityError if its outputs differ."""
        candidate = self._candidate(stored.graph, FUSED, model)
        inputs = self.cache.sample_inputs(stored.graph)
        outputs = candidate.engine.run(inputs)
        for output, expected in stored.engine.run(inputs).items():
            compare_output(stored.graph, output, "real", [expected], [outputs[output]], "float32", FLOAT32)
        candidate.loss = 0.0
        return candidate

    def _partially_int8(self, quantizable: QuantizableGraph, full: _Candidate) -> list[_Candidate]:
        """Keep more and more of the sensitive nodes in float32, until a graph loses at most half of the budget.

        Half of the budget, because several graphs share it.
        """
        candidates: list[_Candidate] = []
        if full.kind != INT8 or full.loss is None or full.loss <= self.budget.recall / 2:
            return candidates
        self.log(f"{full.graph}: measuring the sensitivity of its nodes to int8")
        for nodes in int8_node_sets(quantizable, self.cache.sample_inputs(full.graph)):
            float_nodes = len(quantizable.nodes) - len(nodes)
            candidate = self._candidate(full.graph, INT8, quantizable.to_int8(nodes), float_nodes)
            loss = self._evaluate(candidate)
            if self.budget.allows(loss):
                candidates.append(candidate)
            if loss <= self.budget.recall / 2:
                break
        return candidates

    def _time(self, candidates: Sequence[_Candidate], effort: Effort) -> None:
        graph = candidates[0].graph
        engines = {str(index): candidate.engine for index, candidate in enumerate(candidates)}
        speeds = measure_speeds(engines, lambda batch: timing_inputs(self.bundle.manifest, graph, batch), effort)
        for index, candidate in enumerate(candidates):
            candidate.speeds = speeds[str(index)]

    def _candidate(self, graph: GraphName, kind: str, model: onnx.ModelProto, float_nodes: int = 0) -> _Candidate:
        stored_model = reduce(model, _weight_precision(self.bundle))
        return _Candidate(graph, kind, stored_model, open_engine(model), float_nodes)

    def _evaluate(self, candidate: _Candidate) -> float:
        """Measure the accuracy loss of a candidate with all other graphs as stored; keeps its embeddings."""
        cache = self.cache
        engines: dict[str, Engine] = {candidate.graph: candidate.engine}
        if candidate.graph == "video":
            candidate.videos = cache.embed_videos(engines)
            pairs = [(v.gallery.vectors, candidate.videos[n].gallery.vectors) for n, v in cache.videos.items()]
        elif candidate.graph == "text":
            candidate.texts = cache.embed_captions(engines)
            pairs = [(v, candidate.texts[n]) for n, v in cache.texts.items()]
        elif candidate.graph == "audio":
            candidate.sounds = cache.embed_sounds(engines)
            audible = {n: s.vectors.any(axis=1) for n, s in cache.sounds.items()}
            pairs = [(s.vectors[audible[n]], candidate.sounds[n].vectors[audible[n]]) for n, s in cache.sounds.items()]
        if candidate.graph in EMBEDDING_GRAPHS:
            candidate.cosines = _cosines(pairs)
            scores = cache.recall(*self._encoded([candidate]))
        else:
            scores = self._fusion_scores(candidate, cache.videos, cache.sounds)
        candidate.loss = accuracy_loss(cache.scores, scores)
        suffix = f" with {candidate.float_nodes} nodes in float32" if candidate.float_nodes else ""
        self.log(f"{candidate.graph}: {candidate.kind}{suffix} loses {candidate.loss:.2f} points")
        return candidate.loss


def _cosines(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.concatenate([(a * b).sum(axis=-1).ravel() for a, b in pairs])


def _weight_precision(bundle: Bundle) -> Precision:
    """Return the precision of stored weights, which is that of the source bundle if it is a known precision."""
    return next((known for known in get_args(Precision) if known == bundle.manifest.precision), "float32")


def _write_variant(search: _Search, selected: Mapping[GraphName, _Candidate], folder: Path, name: str) -> None:
    """Write the new bundle, measure it again as written, and calibrate it."""
    source = search.bundle.manifest
    search.log(f"writing {name}: {', '.join(f'{c.graph} {c.kind}' for c in selected.values())}")
    graphs = {graph: candidate.model for graph, candidate in selected.items()}
    kept = {
        graph: load_graph(search.bundle.folder / source.graphs[graph]) for graph in source.graphs if graph not in graphs
    }
    files = store(graphs | kept, folder, "float32")
    documents = [n for n in source.files if n.endswith(".md")]
    copy_files(search.bundle, [*source.data_files, *documents], folder)
    write_documents(folder, {source.parity_report: ""})
    precision = _describe_precision(selected)
    fields = source.model_dump() | {"name": name, "graphs": files, "precision": precision, "metrics": {}}
    write_manifest(folder, fields)
    written = _evaluate_written(search, folder)
    origin, original = SourceBundle.from_bundle(search.bundle), search.cache
    search.log("comparing it with the original bundle, and calibrating")
    comparison = _compare(search, selected, written, origin)
    report = ParityReport(
        model=name,
        precision=precision,
        seed=None,
        versions=library_versions("onnx", "onnxruntime"),
        tolerances={},
        outputs=[],
        recall=[],
        beside=comparison,
    )
    fitted = recalibrate(written.model, written.embedded(), source.calibration)
    variant = Variant(
        name=origin.label(),
        fingerprint=origin.fingerprint,
        recall=search.budget.recall,
        lost=round(accuracy_loss(original.scores, written.scores), 4),
        speedup={graph: round(search.speedup(candidate), 3) for graph, candidate in selected.items()},
        machine=describe_cpu(),
        ways=[_result(c, selected) for candidates in search.candidates.values() for c in candidates],
        shares={key: (round(original.scores[key], 4), round(score, 4)) for key, score in written.scores.items()},
    )
    fields["calibration"] = fitted.calibration
    fields["reranking"] = keep_reranking(fitted.reranking, source.reranking)
    fields["extra"] = {key: value for key, value in source.extra.items() if key not in GRAPH_SPECIFIC_KEYS} | {
        SOURCE_KEY: origin.model_dump(),
        VARIANT_KEY: variant.model_dump(mode="json"),
        "calibration": calibration_record(fitted, origin, source.tasks),
    }
    finish(folder, fields, report.to_json(), lambda draft: _card(search.bundle, draft, report, comparison, variant))


def _evaluate_written(search: _Search, folder: Path) -> EvalCache:
    """Evaluate the bundle as written. Raises ParityError if it loses more than the budget."""
    search.log("evaluating it as written")
    model = Model(Bundle.open(folder), THREADS, "cpu")
    written = EvalCache(model, search.cache.corpora, search.cache.pairs)
    loss = accuracy_loss(search.cache.scores, written.scores)
    if not search.budget.allows(loss):
        raise ParityError(f"as written it loses {loss:.2f} points; at most {search.budget.recall:g} was expected")
    return written


def _compare(
    search: _Search, selected: Mapping[GraphName, _Candidate], written: EvalCache, origin: SourceBundle
) -> VariantComparison:
    original = search.cache
    comparisons = (compare_outputs(c, original.outputs(c), written.outputs(c)) for c in original.corpora)
    return VariantComparison(
        of=origin,
        outputs=[output for outputs in comparisons for output in outputs],
        unchanged=[g for g in search.bundle.manifest.graphs if g not in selected or selected[g].kind == STORED],
        lost=round(accuracy_loss(original.scores, written.scores), 4),
        budget=search.budget.recall,
        report=read_report(search.bundle),
    )


def _card(
    source: Bundle, draft: Manifest, report: ParityReport, comparison: VariantComparison, variant: Variant
) -> str:
    """Write a new card if the manifest has a provenance; else put the variant's sections before the original card."""
    if "provenance" in draft.extra:
        return model_card(draft, report)
    original = (source.folder / source.manifest.model_card).read_text("utf-8").rstrip("\n")
    lines = [
        f"# {draft.name} {draft.version}",
        "",
        *variant_section(variant),
        "",
        *comparison_section(comparison, [*calibration_summary(draft), reranking_summary(draft)]),
        "",
        f"## The card of {variant.name}",
        "",
        f"The rest is the card of {variant.name} (fingerprint {variant.fingerprint[:12]}), with that bundle's numbers.",
        "Its uses, limitations, data and terms apply here too.",
        "",
        *(f"##{line}" if line.startswith("#") else line for line in original.splitlines()),
    ]
    return "\n".join([*lines, ""])


def _describe_precision(selected: Mapping[GraphName, _Candidate]) -> str:
    """Return the manifest's precision: the arithmetic of the graphs if it is not float32."""
    return ", ".join(sorted({candidate.kind for candidate in selected.values()} - {STORED, FUSED})) or "float32"


def _result(candidate: _Candidate, selected: Mapping[GraphName, _Candidate]) -> CandidateResult:
    cosines = candidate.cosines
    return CandidateResult(
        graph=candidate.graph,
        way=candidate.kind,
        in_float32=candidate.float_nodes,
        bytes=sum(bytes_by_type(candidate.model).values()),
        speeds=candidate.speeds,
        cosine=None if cosines is None else round(float(cosines.mean()), 6),
        least_cosine=None if cosines is None else round(float(cosines.min()), 6),
        lost=None if candidate.loss is None else round(candidate.loss, 4),
        chosen=selected.get(candidate.graph) is candidate,
    )
