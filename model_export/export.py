"""Checkpoint in, verified bundle out.

Every graph is exported in float32 and compared with the trained model; where weights are stored smaller, the smaller
graphs are compared as well. Only then does the bundle's folder appear.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import onnx

from model_export.assemble import (
    ANSWERS_NAME,
    CARD_NAME,
    NOTICE_NAME,
    PARITY_NAME,
    TOKENIZER_NAME,
    check_name,
    finish,
    folder_replaced_whole,
    write_documents,
    write_draft,
    write_manifest,
)
from model_export.calibrate import Fitted, calibrate
from model_export.card import Metrics, Provenance, headline_metrics, model_card, read_metrics
from model_export.graphs import OPSET, export_graphs, graph_specs
from model_export.parity.checks import (
    FLOAT32,
    REDUCED,
    Case,
    ParityReport,
    Tolerance,
    check_outputs,
    random_cases,
    real_cases,
)
from model_export.parity.recall import Embedded, check_recall, embed, has_captions
from model_export.sources import STARTS, Source, corpus_source, licence_of, notice
from model_export.weights import Precision, store
from training import checkpoint
from training.checkpoint import Checkpoint
from training.data.packed import PACK_NAME, Packed, open_packed
from training.evaluation.encoder import TorchEncoder
from training.models import pretrained
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Calibration, GraphName, Manifest, Task
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

Say = Callable[[str], None]
"""Told what happens next, for people who wait."""

LIMIT = 1000
"""Validation examples per corpus that take part in the checks and the calibration."""


@dataclass(frozen=True)
class Before:
    """What is known of the model that a checkpoint's run began with, where it was a bundle."""

    sources: Sequence[Source] = ()
    """The facts about what it was trained on; other corpora are looked up."""
    calibration: Calibration | None = None
    """Stays where validation data do not speak of it."""
    fit_from: int = 2
    """Captioned examples of a validation split from which on match and fused probabilities are fitted anew."""


@dataclass(frozen=True)
class _Job:
    """One export, as it was asked for."""

    held: Checkpoint
    name: str
    version: str
    licence: str
    sources: list[Source]
    corpora: dict[str, Packed]
    tokenizer: Tokenizer
    seed: int
    say: Say
    before: Before


def export_checkpoint(
    model: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str = "1.0.0",
    precision: Precision = "int8-weights",
    data: Path | None = None,
    metrics: Path | None = None,
    licence: str | None = None,
    seed: int | None = None,
    say: Say = lambda _: None,
    before: Before | None = None,
) -> Path:
    """Export the checkpoint folder `model` as a bundle at `out`; returns `out`.

    name: default the folder's name. data: folder of packed corpora; the validation splits of those that the
    checkpoint was trained on are used for parity on real inputs, for equal Recall@1 and for calibration.
    metrics: JSON of `vitascope evaluate --out`. licence: default what the training data's terms leave.
    seed: of the random parity inputs; default a fresh one. before: what is known of the model that was gone on from.

    Raises ParityError when a graph does not answer as torch does, InvalidInput for what cannot be exported; in
    both cases no bundle is written and one that was at `out` stays as it was.
    """
    check_name(name or out.name)
    job = _job(model, name or out.name, version, data, licence, seed, say, before or Before())
    measured = read_metrics(metrics) if metrics else {}
    with folder_replaced_whole(out) as folder:
        say("exporting graphs (torch to ONNX)")
        graphs = export_graphs(job.held.model)
        _Export(job, graphs, folder, precision).run(measured)
    return out


def restate_bundle(bundle: Path, metrics: Path) -> Path:
    """Put an evaluation's numbers into a bundle's card and manifest. Its graphs and fingerprint stay as they are.

    Raises BundleError, and InvalidInput for a bundle that was not exported here or metrics that cannot be read.
    """
    opened = Bundle.open(bundle)
    measured = read_metrics(metrics)
    if "provenance" not in opened.manifest.extra:
        raise InvalidInput(f"{bundle}: no provenance in its manifest; a bundle of `vitascope export` was expected")
    report = ParityReport.model_validate_json((bundle / opened.manifest.parity_report).read_text("utf-8"))
    with folder_replaced_whole(bundle) as folder:
        for name in opened.manifest.files:
            shutil.copyfile(bundle / name, folder / name)
        write_documents(folder, {opened.manifest.model_card: model_card(opened.manifest, report, measured)})
        write_manifest(folder, opened.manifest.model_dump() | {"metrics": headline_metrics(measured)})
    return bundle


def _job(
    model: Path,
    name: str,
    version: str,
    data: Path | None,
    licence: str | None,
    seed: int | None,
    say: Say,
    before: Before,
) -> _Job:
    try:
        held = checkpoint.load(model)
    except FileNotFoundError as error:
        raise InvalidInput(str(error)) from error
    held.model.eval()
    if len(held.answers) != held.model.cfg.answers:
        raise InvalidInput(
            f"{model}: {len(held.answers)} answers in its vocabulary; its answer head has {held.model.cfg.answers}"
        )
    known = {source.name: source for source in before.sources if source.name not in held.recipe.corpora}
    sources = [known.get(n) or corpus_source(n, data) for n in held.sources if n not in pretrained.STARTS]
    sources += [start for start in STARTS if start.name in held.sources]
    return _Job(
        held=held,
        name=name,
        version=version,
        licence=licence or licence_of(sources),
        sources=sources,
        corpora=_validation_splits(held.recipe.corpora, data),
        tokenizer=Tokenizer.open(held.tokenizer, max_length=held.model.cfg.text_length),
        seed=secrets.randbits(32) if seed is None else seed,
        say=say,
        before=before,
    )


def _validation_splits(names: list[str], data: Path | None) -> dict[str, Packed]:
    if data is None:
        return {}
    found = {n: open_packed(data / n / "val") for n in names if (data / n / "val" / PACK_NAME).is_file()}
    if not found:
        raise InvalidInput(f"data: {data} has no validation split of {names}; {data}/CORPUS/val was expected")
    return {name: replace(packed, examples=packed.examples[:LIMIT]) for name, packed in found.items()}


class _Export:
    """One bundle on its way: graphs, checks, calibration, documents."""

    def __init__(
        self, job: _Job, graphs: Mapping[GraphName, onnx.ModelProto], folder: Path, precision: Precision
    ) -> None:
        self.job, self.graphs, self.folder, self.precision = job, graphs, folder, precision
        model, answers = job.held.model, job.held.answers
        cases = random_cases(graph_specs(model), model.cfg, job.seed)
        for graph, more in real_cases(model, job.tokenizer, job.corpora.values()).items():
            cases[graph] += more
        self.cases: Mapping[str, list[Case]] = cases
        torch_side = TorchEncoder(model, job.tokenizer, answers)
        if job.corpora:
            job.say("embedding validation splits with torch")
        self.expected = {
            name: embed(torch_side, packed) for name, packed in job.corpora.items() if has_captions(packed)
        }
        self.report = ParityReport(
            model=job.name,
            precision=precision,
            seed=job.seed,
            versions={p: package_version(p) for p in ("torch", "onnx", "onnxruntime")} | {"opset": str(OPSET)},
            tolerances={"float32": FLOAT32} | ({} if precision == "float32" else {precision: REDUCED}),
            outputs=[],
            recall=[],
        )

    def run(self, metrics: Metrics) -> Manifest:
        if self.precision != "float32":
            with tempfile.TemporaryDirectory(prefix=f".{self.folder.name}.", dir=self.folder.parent) as whole:
                self._stage(Path(whole), "float32", FLOAT32)
        tolerance = FLOAT32 if self.precision == "float32" else REDUCED
        runtime, embedded = self._stage(self.folder, self.precision, tolerance)
        fitted = self._calibrate(runtime, embedded)
        self.job.say("writing the card")
        fields = self._fields(fitted, headline_metrics(metrics))
        report = self.report.model_dump_json(indent=1) + "\n"
        return finish(self.folder, fields, report, lambda draft: model_card(draft, self.report, metrics))

    def _stage(self, folder: Path, precision: Precision, tolerance: Tolerance) -> tuple[Model, dict[str, Embedded]]:
        """Store the graphs at one precision, compare them, and open them as a bundle."""
        self.job.say(f"checking graphs with weights stored as {precision}")
        files = store(self.graphs, folder, precision)
        paths = {graph: folder / files[graph] for graph in self.graphs}
        outputs = list(self.report.outputs)
        outputs += check_outputs(graph_specs(self.job.held.model), paths, self.cases, precision, tolerance)
        held, notices = self.job.held, {NOTICE_NAME: notice(self.job.sources)}
        write_draft(folder, self._fields(Fitted(), {}), held.tokenizer.read_bytes(), held.answers, notices)
        runtime = Model.open(folder, device="cpu")
        recall, embedded = list(self.report.recall), {}
        for name, packed in self.job.corpora.items():
            expected = self.expected.get(name)
            if expected is None and precision != self.precision:
                continue  # questions alone serve the calibration, which takes the graphs that are kept
            self.job.say(f"embedding {name}/val with weights stored as {precision}")
            embedded[name] = embed(runtime, packed)
            if expected is not None:
                recall += check_recall(expected, embedded[name], name, precision, tolerance)
        self.report = self.report.model_copy(update={"outputs": outputs, "recall": recall})
        return runtime, embedded

    def _calibrate(self, runtime: Model, embedded: Mapping[str, Embedded]) -> Fitted:
        before = self.job.before
        if not embedded:
            return Fitted(before.calibration or Calibration())
        self.job.say("calibrating on validation splits")
        logits = runtime.answer_logits if "answering" in runtime.tasks else None
        return calibrate(
            runtime, embedded, self.job.held.answers, logits, kept=before.calibration, fit_from=before.fit_from
        )

    def _fields(self, fitted: Fitted, metrics: Mapping[str, float]) -> dict[str, Any]:
        job, cfg, recipe = self.job, self.job.held.model.cfg, self.job.held.recipe
        tasks: list[Task] = ["retrieval", "matching", *(["answering"] if cfg.answers else [])]  # type: ignore[list-item]
        provenance = Provenance(
            recipe=recipe.name,
            seed=recipe.seed,
            start="a model trained before" if job.held.lineage else recipe.start,
            step=job.held.step,
            config=cfg.model_dump(mode="json"),
            answers=cfg.answers,
            sources=job.sources,
            calibration=fitted.facts,
            calibration_kept=job.before.calibration is not None and "match pairs" not in fitted.facts,
        )
        return {
            "name": job.name,
            "version": job.version,
            "architecture": cfg.architecture,
            "tasks": tasks,
            "streams": cfg.streams(),
            "graphs": {graph: f"{graph}.onnx" for graph in self.graphs},
            "vector_width": cfg.vector_width,
            "visual_tokens": cfg.visual_tokens,
            "visual_width": cfg.visual_width,
            "text_length": cfg.text_length,
            "temperature": cfg.temperature,
            "tokenizer": TOKENIZER_NAME,
            "answers": ANSWERS_NAME if cfg.answers else None,
            "model_card": CARD_NAME,
            "parity_report": PARITY_NAME,
            "calibration": fitted.calibration,
            "precision": self.precision,
            "training_data": [f"{s.name}: {s.terms}" for s in job.sources if s not in STARTS],
            "metrics": dict(metrics),
            "licence": job.licence,
            "extra": {"provenance": provenance.model_dump(mode="json")},
        }
