"""A bundle with another video graph: text, match and answer graphs, tokenizer and answers stay the bundle's own.

What takes the place of its video graph gives vectors of the same width and as many visual tokens of the same width, so
that the other graphs read it as they read their own.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from torch import nn

from model_export.adapt import PRECISIONS
from model_export.assemble import (
    CARD_NAME,
    NOTICE_NAME,
    PARITY_NAME,
    check_name,
    finish,
    folder_replaced_whole,
    write_documents,
    write_manifest,
)
from model_export.calibrate import Fitted, recalibrate, stated_calibration
from model_export.graphs import OPSET, StatedSizes, export_graph, random_streams, video_spec
from model_export.optimize.compare import Side, compared_bundles
from model_export.optimize.validation_scores import Corpus, Seen
from model_export.parity.checks import FLOAT32, REDUCED, Case, ParityError, ParityReport, Tolerance, check_outputs
from model_export.parity.recall import Embedded
from model_export.parity.variants import Beside, BesideCheck, beside_section, named, report_of
from model_export.sources import Source, licence_of, notice
from model_export.weights import Precision, reduce, store
from studies.frontier.latency import clip_call, milliseconds
from training.data.other_streams import sight
from training.distillation.agreement import Agreement, compared
from training.distillation.teacher import Taught
from training.evaluation.embedding import embed_corpus, streams_of
from training.evaluation.gallery import Gallery
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.calibration_summary import calibrated
from vitascope.bundle.manifest import FrameStream, GraphName, Manifest
from vitascope.errors import InvalidInput
from vitascope.model import Model

Say = Callable[[str], None]
ROUNDS = 20
"""Clips by which both video graphs are timed."""


@dataclass(frozen=True)
class OtherVideo:
    """What takes the place of a bundle's video graph, and what is to be said of it."""

    module: nn.Module
    """Frame streams, uint8 (B, C, F, H, W, 3), in the order of `streams` -> vector, visual tokens."""
    streams: list[FrameStream]
    name: str
    version: str
    precision: Precision
    extra: dict[str, Any]
    """Of the manifest; what is measured is added under "measured"."""
    about: list[str]
    """For the card, one sentence each."""
    sources: Sequence[Source] = ()
    """What it was trained on besides what the bundle was."""
    seed: int | None = None
    """Of the random inputs of the checks; None: a fresh one."""


class Exported(NamedTuple):
    """What an export came to."""

    measured: dict[str, Agreement]
    """By corpus, on held-out clips."""
    precision: Precision
    """How the weights are stored: larger than asked for where the checks ask for it."""
    clip_ms: dict[str, float]
    """Milliseconds of one clip, of the bundle (`before`) and of this one (`after`), in turns, on one thread."""


@dataclass(frozen=True)
class _Job:
    """One export at one precision."""

    bundle: Bundle
    other: OtherVideo
    held_out: Mapping[str, Taught]
    say: Say
    precision: Precision
    report: ParityReport
    beside: Beside
    measured: dict[str, Agreement] = field(default_factory=dict)
    clip_ms: dict[str, float] = field(default_factory=dict)


def export_other_video(
    bundle: Bundle,
    other: OtherVideo,
    out: Path,
    *,
    held_out: Mapping[str, Taught] | None = None,
    say: Say = lambda _: None,
) -> Exported:
    """Write `bundle` with another video graph to `out`.

    held_out: by corpus, what the bundle says of clips; they serve as real inputs of the checks, to measure by, and to
    calibrate match, fused and answer probabilities anew.
    Raises ParityError when the graph does not give what its module gives, InvalidInput for what cannot be written; in
    both cases no bundle is written and one that was at `out` stays as it was.
    """
    check_name(other.name)
    if out.resolve() == bundle.folder.resolve():
        raise InvalidInput(f"out: {out} is the bundle that this one is made of; another folder was expected")
    say("exporting the video graph (torch to ONNX)")
    graph = export_graph(video_spec(other.module, other.streams), StatedSizes(bundle.manifest, other.streams))
    seed = secrets.randbits(32) if other.seed is None else other.seed
    *smaller, largest = PRECISIONS[other.precision]
    for precision in smaller:
        try:
            return _exported(_job(bundle, other, held_out or {}, say, precision, seed), graph, out)
        except ParityError as error:
            say(f"weights are stored larger than as {precision}: {error}")
    return _exported(_job(bundle, other, held_out or {}, say, largest, seed), graph, out)


def _job(
    bundle: Bundle, other: OtherVideo, held_out: Mapping[str, Taught], say: Say, precision: Precision, seed: int
) -> _Job:
    unchanged: list[GraphName] = [name for name in bundle.manifest.graphs if name != "video"]
    beside = Beside(of=named(bundle), outputs=[], unchanged=unchanged, report=report_of(bundle))
    report = ParityReport(
        model=other.name,
        precision=precision,
        seed=seed,
        versions={p: package_version(p) for p in ("torch", "onnx", "onnxruntime")} | {"opset": str(OPSET)},
        tolerances={"float32": FLOAT32} | ({} if precision == "float32" else {precision: REDUCED}),
        outputs=[],
        recall=[],
        beside=beside,
    )
    return _Job(bundle, other, held_out, say, precision, report, beside)


def _exported(job: _Job, graph: onnx.ModelProto, out: Path) -> Exported:
    stated, precision = job.bundle.manifest, job.precision
    with folder_replaced_whole(out) as folder:
        if precision != "float32":
            with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as whole:
                _check(job, store({"video": graph}, Path(whole), "float32"), Path(whole), "float32", FLOAT32)
        graphs: dict[GraphName, onnx.ModelProto] = {"video": reduce(graph, precision)}
        for name, file in stated.graphs.items():
            if name != "video":
                graphs[name] = onnx.load(job.bundle.folder / file)
        files = store(graphs, folder, "float32")  # the others stay as the bundle stores them
        _check(job, files, folder, precision, FLOAT32 if precision == "float32" else REDUCED)
        _write(job, files, folder)
    return Exported(job.measured, precision, job.clip_ms)


def _check(job: _Job, files: Mapping[GraphName, str], folder: Path, precision: Precision, tolerance: Tolerance) -> None:
    """The stored video graph beside its module. Raises ParityError."""
    job.say(f"checking the graph with weights stored as {precision}")
    paths: dict[GraphName, Path] = {"video": folder / files["video"]}
    specs = [video_spec(job.other.module, job.other.streams)]
    checks = check_outputs(specs, paths, {"video": _cases(job)}, precision, tolerance)
    job.report.outputs.extend(checks)


def _cases(job: _Job) -> list[Case]:
    rng = np.random.default_rng(job.report.seed)
    sizes = StatedSizes(job.bundle.manifest, job.other.streams)
    cases = [Case("random", random_streams(sizes, rng, b, c)) for b, c in ((1, 1), (3, 2), (2, 1))]
    for taught in job.held_out.values():
        rows = np.arange(min(6, len(taught)))
        streams = sight(taught.packed, job.other.streams)(streams_of(taught.packed, rows, job.other.streams))
        cases.append(Case("real", streams))
    return cases


def _write(job: _Job, files: Mapping[GraphName, str], folder: Path) -> None:
    """Everything but the graphs."""
    stated = job.bundle.manifest
    for name in dict.fromkeys([stated.tokenizer, *([stated.answers] if stated.answers else [])]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job.bundle.folder / name, folder / name)
    write_documents(folder, {CARD_NAME: "", PARITY_NAME: "", NOTICE_NAME: _notices(job)})
    write_manifest(folder, _fields(job, files, Fitted(stated.calibration)))
    runtime = Model.open(folder, device="cpu")
    fitted = _measured(job, runtime)
    job.clip_ms.update(_clip_ms(job, runtime.bundle))
    fields = _fields(job, files, fitted)
    finish(folder, fields, job.report.model_dump_json(indent=1) + "\n", lambda draft: _card(job, draft))


def _measured(job: _Job, runtime: Model) -> Fitted:
    """How it agrees with the bundle, and probabilities calibrated by what it says of the held-out clips."""
    embedded, original = {}, Model(job.bundle, device="cpu")
    for corpus, taught in job.held_out.items():
        packed = taught.packed
        job.say(f"measuring on {len(packed)} held-out clips of {corpus}")
        vectors, tokens = embed_corpus(runtime, packed, alter=sight(packed, runtime.streams))
        job.measured[corpus] = {name: round(value, 4) for name, value in compared(vectors, taught).items()}
        job.beside.outputs.extend(_beside(original, runtime, corpus, taught, Seen(Gallery(vectors), tokens)))
        embedded[corpus] = Embedded(packed, vectors, tokens, None)
    if embedded and "matching" in runtime.tasks:
        job.say("calibrating on held-out clips")
    return recalibrate(runtime, embedded, job.bundle.manifest.calibration)


def _beside(original: Model, runtime: Model, name: str, taught: Taught, seen: Seen) -> list[BesideCheck]:
    captions = [caption for example in taught.packed.examples for caption in example.captions]
    corpus, texts = Corpus(name, taught.packed, captions, taught.of), taught.texts if captions else None
    tokens = np.zeros((len(taught), 0, 0)) if taught.tokens is None else taught.tokens
    before = Side(original, Seen(Gallery(np.asarray(taught.vectors)), tokens), texts)
    return compared_bundles(corpus, before, Side(runtime, seen, texts))


def _clip_ms(job: _Job, made: Bundle) -> dict[str, float]:
    rng = np.random.default_rng(job.report.seed)
    calls = {}
    for name, bundle in (("before", job.bundle), ("after", made)):
        sizes = StatedSizes(bundle.manifest)
        calls[name] = clip_call(Model(bundle, 1, "cpu"), [random_streams(sizes, rng, 1, 1)])
    return {name: round(float(np.median(times)), 2) for name, times in milliseconds(calls, ROUNDS).items()}


def _fields(job: _Job, files: Mapping[GraphName, str], fitted: Fitted) -> dict[str, Any]:
    stated, other = job.bundle.manifest, job.other
    terms = licence_of(list(other.sources))
    narrowed = any(source.research_only for source in other.sources)
    precision = job.precision
    told = stated_calibration(fitted, job.beside.of, stated.tasks)
    own = precision if precision == stated.precision else f"video {precision}, others {stated.precision}"
    return stated.model_dump() | {
        "name": other.name,
        "version": other.version,
        "streams": other.streams,
        "graphs": dict(files),
        "model_card": CARD_NAME,
        "parity_report": PARITY_NAME,
        "calibration": fitted.calibration,
        "precision": own,
        "training_data": [*stated.training_data, *(f"{s.name}: {s.terms}" for s in other.sources)],
        "metrics": {},
        "licence": f"{stated.licence} {terms}" if narrowed and terms not in stated.licence else stated.licence,
        "extra": other.extra | {"measured": job.measured, "clip_ms": job.clip_ms, "calibration": told},
    }


def _notices(job: _Job) -> str:
    """The bundle's own notices, then those of what was learned from besides."""
    path = job.bundle.folder / NOTICE_NAME
    own = path.read_text("utf-8") if NOTICE_NAME in job.bundle.manifest.files else ""
    return "\n".join(part for part in (own, notice(job.other.sources) if job.other.sources else "") if part)


def _card(job: _Job, manifest: Manifest) -> str:
    """Markdown: what it is, what it keeps of the bundle, how closely it follows it."""
    before, size = job.bundle.manifest, sum(entry.bytes for entry in manifest.files.values()) / 1e6
    streams = "; ".join(f"{s.name}: {s.frames} of {s.width}x{s.height} pixels, {s.placement}" for s in manifest.streams)
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        *job.other.about,
        "",
        f"Text, match and answer graphs, tokenizer and answers are of {before.name} {before.version}; its vectors",
        "lie in the same space. What that bundle's card says of uses, limits and data holds here too.",
        "",
        "| | |",
        "|---|---|",
        f"| tasks | {', '.join(manifest.tasks)} |",
        f"| frames of a clip | {streams} |",
        f"| vector | {manifest.vector_width} numbers, length 1 |",
        f"| visual tokens | {manifest.visual_tokens} of {manifest.visual_width} numbers |",
        f"| size | {size:.1f} MB, weights stored as {manifest.precision} |",
        f"| licence | {manifest.licence} |",
        "",
        "## Agreement",
        "",
    ]
    if job.measured:
        lines += [
            f"On held-out clips, beside {before.name} {before.version}: the mean cosine of both vectors, the percent",
            "of clips nearest to their own vector, and where there are captions how many find their clip.",
            "",
            "| corpus | measure | value |",
            "|---|---|---|",
            *(f"| {c} | {name} | {value:.4g} |" for c, found in job.measured.items() for name, value in found.items()),
        ]
    else:
        lines += ["Nothing was measured: no held-out clips were given."]
    lines += [
        "",
        f"One clip takes {job.clip_ms['after']:.1f} ms, beside {job.clip_ms['before']:.1f} ms of that bundle: medians,",
        "one clip at a time on one thread of the machine that exported it, decoding left out.",
    ]
    lines += [
        "",
        *beside_section(job.beside, calibrated(manifest)),
        "",
        "The video graph was compared with the torch module that it was exported from (parity.json):",
        "",
        "| weights | output | inputs | max difference | least cosine |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.precision} | {o.output} | {o.inputs} | {o.max_difference:.2g} | {o.cosine:.6f} |"
        for o in job.report.outputs
    ]
    return "\n".join([*lines, ""])
