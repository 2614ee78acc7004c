"""Export a checkpoint as a verified bundle.

Every graph is exported in float32 and compared with the trained model. Graphs with reduced weights are compared in
addition. The folder of the bundle appears only after all checks have passed.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from model_export.assemble import (
    ANSWERS_NAME,
    CARD_NAME,
    NOTICE_NAME,
    PARITY_NAME,
    TOKENIZER_NAME,
    Log,
    check_name,
    finish,
    no_log,
    replace_bundle,
    write_draft,
)
from model_export.calibrate import FittedCalibration, calibrate, keep_reranking
from model_export.card import (
    METRICS_KEY,
    Metrics,
    Provenance,
    headline_metrics,
    model_card,
    read_metrics,
)
from model_export.graphs import export_graphs, graph_specs
from model_export.parity.cases import model_cases
from model_export.parity.checks import (
    FLOAT32,
    REDUCED,
    Embedded,
    ParityReport,
    check_outputs,
    check_recall,
    embed,
    export_versions,
    has_captions,
    tolerances_for,
)
from model_export.sources import STARTS, Source, corpus_source, languages_of, licence_of, notice
from model_export.weights import ADDED_WEIGHTS, Precision, store
from training import checkpoint
from training.bundle_checkpoint import (
    CHECKPOINT_KEY,
    BundleCheckpoint,
    checkpoint_folder,
    replace_checkpoint,
    write_checkpoint,
)
from training.checkpoint import Checkpoint
from training.data.packed import PACK_NAME, Packed, open_packed
from training.evaluation.torch_encoder import TorchEncoder
from training.models import pretrained
from training.models.config import FusedConfig
from training.objectives.class_names import absent_class_names
from vitascope.bundle.manifest import Calibration, GraphName, Manifest, Reranking, Task
from vitascope.bundle.parity_report import Bounds
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

MAX_EXAMPLES = 1000
"""Maximum number of validation examples per corpus for checks and calibration."""


@dataclass(frozen=True)
class InitialModel:
    """Facts about the model from which a checkpoint's training started."""

    sources: Sequence[Source] = ()
    """Training corpora."""
    calibration: Calibration | None = None
    """Calibration that is used if validation data is missing."""
    reranking: Reranking | None = None
    """Choice of reranking that is used if validation data is missing."""
    min_captioned: int = 2
    """Minimum number of captioned validation examples for fitting match and fused probabilities."""


@dataclass(frozen=True)
class _Job:
    """Inputs of one export."""

    checkpoint: Checkpoint
    name: str
    version: str
    licence: str
    sources: list[Source]
    corpora: dict[str, Packed]
    tokenizer: Tokenizer
    seed: int
    log: Log
    initial: InitialModel
    kept: BundleCheckpoint | None = None
    """Entry of the manifest for the checkpoint beside the bundle; None: no checkpoint is written."""


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
    log: Log = no_log,
    initial: InitialModel | None = None,
    keep_checkpoint: bool = True,
    parts: Sequence[Path] = (),
) -> Path:
    """Export a checkpoint as a bundle. After an error no bundle is written, and an existing bundle is unchanged.

    Args:
        model: Checkpoint folder or run folder.
        out: Folder of the bundle.
        name: Name of the bundle; None: the folder name of `out`.
        version: Version of the bundle.
        precision: Precision of the stored weights.
        data: Folder of packed corpora. Validation splits of the checkpoint's corpora are used for parity on real
            inputs, for Recall@1 and for calibration. None: only random inputs are compared.
        metrics: JSON of `vitascope evaluate --out`.
        licence: Licence of the bundle; None: derived from the terms of the training data.
        seed: Seed of the random parity inputs; None: random.
        log: Called with progress messages.
        initial: Facts about the model from which training started.
        keep_checkpoint: Also write a compact checkpoint beside the bundle, from which training can continue.
        parts: Checkpoints of other runs whose parts are added (`training.checkpoint.add_part`).

    Returns:
        `out`.

    Raises:
        ParityError: The outputs of a graph differ from those of torch.
        InvalidInput: The checkpoint cannot be exported.
    """
    check_name(name or out.name)
    job = _prepare(model, name or out.name, version, data, licence, seed, log, initial or InitialModel(), parts)
    measured = read_metrics(metrics) if metrics else {}
    with replace_checkpoint(out) if keep_checkpoint else nullcontext() as part, replace_bundle(out) as folder:
        if part is not None:
            log(f"writing {checkpoint_folder(out)}")
            job = replace(job, kept=write_checkpoint(part, job.checkpoint))
        log("exporting graphs (torch to ONNX)")
        graphs = export_graphs(job.checkpoint.model)
        _Export(job, graphs, folder, precision).run(measured)
    return out


def _prepare(
    model: Path,
    name: str,
    version: str,
    data: Path | None,
    licence: str | None,
    seed: int | None,
    log: Log,
    initial: InitialModel,
    parts: Sequence[Path],
) -> _Job:
    loaded = checkpoint.load_run(model)
    for part in parts:
        loaded = checkpoint.add_part(loaded, part)
    loaded.model.eval()
    if len(loaded.answers) != loaded.model.cfg.answers:
        raise InvalidInput(
            f"{model}: {len(loaded.answers)} answers in its vocabulary; its answer head has {loaded.model.cfg.answers}"
        )
    known = {source.name: source for source in initial.sources if source.name not in loaded.recipe.corpora}
    sources = [known.get(n) or corpus_source(n, data) for n in loaded.sources if n not in pretrained.STARTS]
    sources += [start for start in STARTS if start.name in loaded.sources]
    return _Job(
        checkpoint=loaded,
        name=name,
        version=version,
        licence=licence or licence_of(sources),
        sources=sources,
        corpora=validation_splits(loaded.recipe.corpora, data),
        tokenizer=Tokenizer.open(loaded.tokenizer, max_length=loaded.model.cfg.text_length),
        seed=secrets.randbits(32) if seed is None else seed,
        log=log,
        initial=initial,
    )


def validation_splits(names: list[str], data: Path | None) -> dict[str, Packed]:
    """Return the first examples of the packed validation splits of corpora; none without `data`."""
    if data is None:
        return {}
    splits = {n: open_packed(data / n / "val") for n in names if (data / n / "val" / PACK_NAME).is_file()}
    if not splits:
        raise InvalidInput(f"data: {data} has no validation split of {names}; {data}/CORPUS/val was expected")
    return {name: replace(packed, examples=packed.examples[:MAX_EXAMPLES]) for name, packed in splits.items()}


def added_parts(cfg: FusedConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the manifest's entries of captions and grounding, whose weights are in separate files."""
    parts = {"captions": cfg.caption_decoder(tokenizer.vocabulary()), "grounding": cfg.grounding_grid()}
    return {n: part.model_copy(update={"weights": ADDED_WEIGHTS[n]}) for n, part in parts.items() if part is not None}


class _Export:
    """One export in progress."""

    def __init__(
        self, job: _Job, graphs: Mapping[GraphName, onnx.ModelProto], folder: Path, precision: Precision
    ) -> None:
        self.job, self.graphs, self.folder, self.precision = job, graphs, folder, precision
        model, answers = job.checkpoint.model, job.checkpoint.answers
        self.cases = model_cases(model, job.tokenizer, job.corpora.values(), job.seed)
        by_torch = TorchEncoder(model, job.tokenizer, answers)
        if job.corpora:
            job.log("embedding validation splits with torch")
        self.corpora = {name: packed for name, packed in job.corpora.items() if not packed.sound_alone}
        """Validation splits with pictures or videos."""
        self.expected = {name: embed(by_torch, packed) for name, packed in self.corpora.items() if has_captions(packed)}
        self.report = ParityReport(
            model=job.name,
            precision=precision,
            seed=job.seed,
            versions=export_versions(),
            tolerances=tolerances_for(precision),
            outputs=[],
            recall=[],
        )

    def run(self, metrics: Metrics) -> Manifest:
        if self.precision != "float32":
            with tempfile.TemporaryDirectory(prefix=f".{self.folder.name}.", dir=self.folder.parent) as folder:
                self._check(Path(folder), "float32", FLOAT32)
        tolerance = FLOAT32 if self.precision == "float32" else REDUCED
        runtime, embedded = self._check(self.folder, self.precision, tolerance)
        fitted = self._calibrate(runtime, embedded)
        self.job.log("writing the model card")
        fields = self._manifest_fields(fitted, metrics)
        return finish(self.folder, fields, self.report.to_json(), lambda draft: model_card(draft, self.report))

    def _check(self, folder: Path, precision: Precision, tolerance: Bounds) -> tuple[Model, dict[str, Embedded]]:
        """Store the graphs at one precision, compare them with torch, and open them as a bundle."""
        self.job.log(f"checking graphs with {precision}")
        files = store(self.graphs, folder, precision)
        paths = {graph: folder / files[graph] for graph in self.graphs}
        loaded, notices = self.job.checkpoint, {NOTICE_NAME: notice(self.job.sources)}
        outputs = list(self.report.outputs)
        outputs += check_outputs(graph_specs(loaded.model), paths, self.cases, precision, tolerance)
        fields = self._manifest_fields(FittedCalibration(), {})
        write_draft(folder, fields, loaded.tokenizer.read_bytes(), loaded.answers, notices)
        runtime = Model.open(folder, device="cpu")
        recall, embedded = list(self.report.recall), {}
        for name, packed in self.corpora.items():
            expected = self.expected.get(name)
            if expected is None and precision != self.precision:
                continue  # a corpus without captions is used only for calibration, at the final precision
            self.job.log(f"embedding {name}/val with {precision}")
            embedded[name] = embed(runtime, packed)
            if expected is not None:
                recall += check_recall(expected, embedded[name], name, precision, tolerance)
        self.report = self.report.model_copy(update={"outputs": outputs, "recall": recall})
        return runtime, embedded

    def _calibrate(self, runtime: Model, embedded: Mapping[str, Embedded]) -> FittedCalibration:
        initial = self.job.initial
        if not embedded:
            return FittedCalibration(initial.calibration or Calibration())
        self.job.log("calibrating on validation splits")
        stages = self.job.checkpoint.recipe.stages
        of_photographs = {d.corpus for stage in stages for d in stage.datasets if "class_names" in d.objectives}
        return calibrate(
            runtime,
            embedded,
            self.job.checkpoint.answers,
            runtime.answer_logits if "answering" in runtime.tasks else None,
            previous=initial.calibration,
            min_captioned=initial.min_captioned,
            absent={
                n: absent_class_names(e.packed)
                for n, e in embedded.items()
                if n in of_photographs and has_captions(e.packed)
            },
        )

    def _manifest_fields(self, fitted: FittedCalibration, metrics: Metrics) -> dict[str, Any]:
        job, loaded = self.job, self.job.checkpoint
        cfg, recipe = loaded.model.cfg, loaded.recipe
        tasks: list[Task] = ["retrieval"]
        tasks += ["audio_retrieval"] if cfg.audio else []
        tasks += ["matching", "answering"] if cfg.answers else ["matching"]
        tasks += ["captioning"] if cfg.caption_layers else []
        tasks += ["grounding"] if cfg.grounding_layers else []
        tasks += ["entailment"] if cfg.entailment == "video" else []
        provenance = Provenance(
            recipe=recipe.name,
            seed=recipe.seed,
            start="a model trained before" if loaded.lineage else recipe.init,
            step=loaded.step,
            config=cfg.model_dump(mode="json"),
            answers=cfg.answers,
            sources=job.sources,
            calibration=fitted.measurements,
            calibration_kept=job.initial.calibration is not None and "match pairs" not in fitted.measurements,
        )
        return {
            "name": job.name,
            "version": job.version,
            "architecture": cfg.architecture,
            "tasks": tasks,
            "streams": cfg.streams(),
            "mirrored_view": cfg.mirrored_view,
            "audio": cfg.audio_stream(),
            **added_parts(cfg, job.tokenizer),
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
            "reranking": keep_reranking(fitted.reranking, job.initial.reranking),
            "languages": languages_of(job.sources),
            "precision": self.precision,
            "training_data": [f"{s.name}: {s.terms}" for s in job.sources if s not in STARTS],
            "metrics": headline_metrics(metrics),
            "licence": job.licence,
            "extra": {"provenance": provenance.model_dump(mode="json")}
            | ({METRICS_KEY: metrics} if metrics else {})
            | ({} if job.kept is None else {CHECKPOINT_KEY: job.kept.model_dump(mode="json")}),
        }
