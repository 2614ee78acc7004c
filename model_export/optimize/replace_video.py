"""Export of a bundle with another video graph. All other graphs, the tokenizer and the answers do not change.

Width of embeddings, and number and width of visual tokens, are the same, so that the other graphs can read them.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from torch import nn

from model_export.assemble import (
    CARD_NAME,
    NOTICE_NAME,
    PARITY_NAME,
    Log,
    check_target,
    copy_files,
    finish,
    markdown_table,
    no_log,
    replace_bundle,
    write_documents,
    write_manifest,
)
from model_export.calibrate import FittedCalibration, calibration_record, keep_reranking, recalibrate
from model_export.card import describe_size, describe_streams, parity_table
from model_export.graphs import ManifestSizes, export_graph, random_streams, video_spec
from model_export.optimize.speed import clip_call, measure_latency
from model_export.optimize.validation_scores import Corpus, EmbeddedVideos
from model_export.parity.cases import Case
from model_export.parity.checks import (
    FLOAT32,
    REDUCED,
    Embedded,
    ParityReport,
    check_outputs,
    export_versions,
    export_with_fallback,
    tolerances_for,
)
from model_export.parity.variants import BundleOutputs, compare_outputs, comparison_section, read_report
from model_export.sources import Source, licence_of, notice
from model_export.weights import Precision, reduce, store
from training.data.other_streams import stream_adapter
from training.distillation.losses import Agreement, compare_embeddings
from training.distillation.teacher import TeacherOutputs
from training.evaluation.encoder import embed_corpus, streams_of
from training.evaluation.retrieval import Gallery
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.describe import calibration_summary, reranking_summary
from vitascope.bundle.manifest import FrameStream, GraphName, Manifest
from vitascope.bundle.onnx_files import load_graph
from vitascope.bundle.parity_report import Bounds, OutputComparison, SourceBundle, VariantComparison
from vitascope.model import Model

TIMING_ROUNDS = 20
"""Number of clips for timing both video graphs."""


@dataclass(frozen=True)
class VideoReplacement:
    """A video graph that replaces a bundle's own.

    Attributes:
        module: Maps streams, uint8 (B, C, F, H, W, 3), in the order of `streams`, to embeddings and visual tokens.
        streams: Frame streams of the module.
        name, version: Name and version of the new bundle.
        precision: Precision of the stored weights of the video graph.
        extra: `extra` of the manifest; measurements are added.
        description: Sentences for the card.
        sources: Training data in addition to that of the bundle.
        seed: Seed of the random parity inputs; None: random.
    """

    module: nn.Module
    streams: list[FrameStream]
    name: str
    version: str
    precision: Precision
    extra: dict[str, Any]
    description: list[str]
    sources: Sequence[Source] = ()
    seed: int | None = None


class VideoExport(NamedTuple):
    """Results of an export."""

    measured: dict[str, Agreement]
    """Agreement with the source bundle by corpus, on held-out clips."""
    precision: Precision
    """Precision of the weights: larger than requested if a check failed."""
    clip_ms: dict[str, float]
    """Median milliseconds per clip on one thread, of the source bundle (`before`) and of this one (`after`)."""


@dataclass(frozen=True)
class _Job:
    """One export at one precision."""

    bundle: Bundle
    replacement: VideoReplacement
    held_out: Mapping[str, TeacherOutputs]
    log: Log
    precision: Precision
    report: ParityReport
    comparison: VariantComparison
    measured: dict[str, Agreement] = field(default_factory=dict)
    clip_ms: dict[str, float] = field(default_factory=dict)


def export_with_video(
    bundle: Bundle,
    replacement: VideoReplacement,
    out: Path,
    *,
    held_out: Mapping[str, TeacherOutputs] | None = None,
    log: Log = no_log,
) -> VideoExport:
    """Write a bundle with another video graph. After an error no bundle is written; an existing one is unchanged.

    Args:
        bundle: The source bundle.
        replacement: The video graph.
        out: Folder of the new bundle.
        held_out: Outputs of the source bundle for held-out clips, by corpus: for parity on real inputs, for measuring
            the agreement, and for calibration.
        log: Called with progress messages.

    Raises:
        ParityError: The outputs of the graph differ from those of its module.
        InvalidInput: The name or the target folder is invalid.
    """
    check_target(bundle.folder, out, replacement.name)
    log("exporting the video graph (torch to ONNX)")
    sizes = ManifestSizes(bundle.manifest, replacement.streams)
    graph = export_graph(video_spec(replacement.module, replacement.streams), sizes)
    seed = secrets.randbits(32) if replacement.seed is None else replacement.seed

    def export(precision: Precision) -> VideoExport:
        return _export(_prepare(bundle, replacement, held_out or {}, log, precision, seed), graph, out)

    return export_with_fallback(replacement.precision, export, log)


def _prepare(
    bundle: Bundle,
    replacement: VideoReplacement,
    held_out: Mapping[str, TeacherOutputs],
    log: Log,
    precision: Precision,
    seed: int,
) -> _Job:
    comparison = VariantComparison(
        of=SourceBundle.from_bundle(bundle),
        outputs=[],
        unchanged=[name for name in bundle.manifest.graphs if name != "video"],
        report=read_report(bundle),
    )
    report = ParityReport(
        model=replacement.name,
        precision=precision,
        seed=seed,
        versions=export_versions(),
        tolerances=tolerances_for(precision),
        outputs=[],
        recall=[],
        beside=comparison,
    )
    return _Job(bundle, replacement, held_out, log, precision, report, comparison)


def _export(job: _Job, graph: onnx.ModelProto, out: Path) -> VideoExport:
    manifest, precision = job.bundle.manifest, job.precision
    with replace_bundle(out) as folder:
        if precision != "float32":
            with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as float_folder:
                path = Path(float_folder)
                _check_parity(job, store({"video": graph}, path, "float32"), path, "float32", FLOAT32)
        graphs: dict[GraphName, onnx.ModelProto] = {"video": reduce(graph, precision)}
        for name, file in manifest.graphs.items():
            if name != "video":
                graphs[name] = load_graph(job.bundle.folder / file)
        files = store(graphs, folder, "float32")  # weights of the other graphs keep their types
        _check_parity(job, files, folder, precision, FLOAT32 if precision == "float32" else REDUCED)
        _write_files(job, files, folder)
    return VideoExport(job.measured, precision, job.clip_ms)


def _check_parity(
    job: _Job, files: Mapping[GraphName, str], folder: Path, precision: Precision, tolerance: Bounds
) -> None:
    """Compare the stored video graph with its module. Raises ParityError."""
    job.log(f"checking the video graph with {precision}")
    paths: dict[GraphName, Path] = {"video": folder / files["video"]}
    specs = [video_spec(job.replacement.module, job.replacement.streams)]
    job.report.outputs.extend(check_outputs(specs, paths, {"video": _parity_cases(job)}, precision, tolerance))


def _parity_cases(job: _Job) -> list[Case]:
    rng = np.random.default_rng(job.report.seed)
    streams = job.replacement.streams
    sizes = ManifestSizes(job.bundle.manifest, streams)
    cases = [Case("random", random_streams(sizes, rng, b, c)) for b, c in ((1, 1), (3, 2), (2, 1))]
    for outputs in job.held_out.values():
        rows = np.arange(min(6, len(outputs)))
        adapter = stream_adapter(outputs.packed, streams)
        cases.append(Case("real", adapter(streams_of(outputs.packed, rows, streams))))
    return cases


def _write_files(job: _Job, files: Mapping[GraphName, str], folder: Path) -> None:
    """Write everything but the graphs."""
    manifest = job.bundle.manifest
    copy_files(job.bundle, manifest.data_files, folder)
    write_documents(folder, {CARD_NAME: "", PARITY_NAME: "", NOTICE_NAME: _notices(job)})
    write_manifest(folder, _manifest_fields(job, files, FittedCalibration(manifest.calibration)))
    runtime = Model.open(folder, device="cpu")
    fitted = _measure(job, runtime)
    job.clip_ms.update(_measure_clip_ms(job, runtime.bundle))
    fields = _manifest_fields(job, files, fitted)
    finish(folder, fields, job.report.to_json(), lambda draft: _card(job, draft))


def _measure(job: _Job, runtime: Model) -> FittedCalibration:
    """Measure agreement with the source bundle on held-out clips, and calibrate on them."""
    embedded, original = {}, Model(job.bundle, device="cpu")
    for corpus, outputs in job.held_out.items():
        packed = outputs.packed
        job.log(f"measuring on {len(packed)} held-out clips of {corpus}")
        vectors, tokens = embed_corpus(runtime, packed, alter=stream_adapter(packed, runtime.streams))
        job.measured[corpus] = {name: round(value, 4) for name, value in compare_embeddings(vectors, outputs).items()}
        videos = EmbeddedVideos(Gallery(vectors), tokens)
        job.comparison.outputs.extend(_compare(original, runtime, corpus, outputs, videos))
        embedded[corpus] = Embedded(packed, vectors, tokens, None)
    if embedded and "matching" in runtime.tasks:
        job.log("calibrating on held-out clips")
    return recalibrate(runtime, embedded, job.bundle.manifest.calibration)


def _compare(
    original: Model, runtime: Model, name: str, outputs: TeacherOutputs, videos: EmbeddedVideos
) -> list[OutputComparison]:
    captions = [caption for example in outputs.packed.examples for caption in example.captions]
    corpus, texts = Corpus(name, outputs.packed, captions, outputs.of), outputs.texts if captions else None
    tokens = np.zeros((len(outputs), 0, 0)) if outputs.tokens is None else outputs.tokens
    source = BundleOutputs(original, EmbeddedVideos(Gallery(np.asarray(outputs.vectors)), tokens), texts)
    return compare_outputs(corpus, source, BundleOutputs(runtime, videos, texts))


def _measure_clip_ms(job: _Job, variant: Bundle) -> dict[str, float]:
    rng = np.random.default_rng(job.report.seed)
    calls = {}
    for label, bundle in (("before", job.bundle), ("after", variant)):
        sizes = ManifestSizes(bundle.manifest)
        calls[label] = clip_call(Model(bundle, 1, "cpu"), [random_streams(sizes, rng, 1, 1)])
    latencies = measure_latency(calls, TIMING_ROUNDS)
    return {label: round(float(np.median(times)), 2) for label, times in latencies.items()}


def _manifest_fields(job: _Job, files: Mapping[GraphName, str], fitted: FittedCalibration) -> dict[str, Any]:
    manifest, replacement, precision = job.bundle.manifest, job.replacement, job.precision
    terms = licence_of(list(replacement.sources))
    is_restricted = any(source.research_only for source in replacement.sources) and terms not in manifest.licence
    same_precision = precision == manifest.precision
    measurements = {
        "measured": job.measured,
        "clip_ms": job.clip_ms,
        "calibration": calibration_record(fitted, job.comparison.of, manifest.tasks),
    }
    return manifest.model_dump() | {
        "name": replacement.name,
        "version": replacement.version,
        "streams": replacement.streams,
        "graphs": dict(files),
        "model_card": CARD_NAME,
        "parity_report": PARITY_NAME,
        "calibration": fitted.calibration,
        "reranking": keep_reranking(fitted.reranking, manifest.reranking),
        "precision": precision if same_precision else f"video {precision}, others {manifest.precision}",
        "training_data": [*manifest.training_data, *(f"{s.name}: {s.terms}" for s in replacement.sources)],
        "metrics": {},
        "licence": f"{manifest.licence} {terms}" if is_restricted else manifest.licence,
        "extra": replacement.extra | measurements,
    }


def _notices(job: _Job) -> str:
    """Return the bundle's notices and those of further training data."""
    path, sources = job.bundle.folder / NOTICE_NAME, job.replacement.sources
    own = path.read_text("utf-8") if NOTICE_NAME in job.bundle.manifest.files else ""
    return "\n".join(part for part in (own, notice(sources) if sources else "") if part)


def _card(job: _Job, manifest: Manifest) -> str:
    source = job.comparison.of.label()
    rows = [
        ["tasks", ", ".join(manifest.tasks)],
        ["frames of a clip", describe_streams(manifest)],
        ["embedding", f"{manifest.vector_width} dimensions, length 1"],
        ["visual tokens", f"{manifest.visual_tokens} of {manifest.visual_width} dimensions"],
        ["size", describe_size(manifest)],
        ["licence", manifest.licence],
    ]
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        *job.replacement.description,
        "",
        f"Text, match and answer graphs, tokenizer and answers are those of {source}; embeddings are in the same",
        "space. The uses, limitations and training data on that bundle's card apply here too.",
        "",
        *markdown_table(["", ""], rows),
        "",
        "## Agreement",
        "",
    ]
    if job.measured:
        measures = [[c, name, f"{value:.4g}"] for c, values in job.measured.items() for name, value in values.items()]
        lines += [
            f"On held-out clips, compared with {source}: the mean cosine of both embeddings, the percent of clips",
            "nearest to their own embedding, and Recall@1 where there are captions.",
            "",
            *markdown_table(["corpus", "measure", "value"], measures),
        ]
    else:
        lines += ["Nothing was measured: no held-out clips were available."]
    lines += [
        "",
        f"One clip takes {job.clip_ms['after']:.1f} ms, with that bundle {job.clip_ms['before']:.1f} ms: medians, one",
        "clip at a time on one thread of the exporting machine, without decoding.",
        "",
        *comparison_section(job.comparison, [*calibration_summary(manifest), reranking_summary(manifest)]),
        "",
        "The video graph was compared with the torch module that it was exported from (parity.json):",
        "",
        *parity_table(job.report.outputs),
    ]
    return "\n".join([*lines, ""])
