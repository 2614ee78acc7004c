"""Continued pre-training on a user's own videos: pack, evaluate, train, export, and evaluate again.

Intermediate results are stored in a work folder, so that repeating the call resumes the adaptation:
    adapt.json      the options, and facts about the initial model
    data/own/       the packed clips, splits train and val
    before.json     retrieval of the held-out clips with the initial model
    run/            checkpoint, log and curves of the training
    exported.json   facts about the written bundle, and the source of its calibration
    after.json      retrieval of the same clips with that bundle
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from model_export.assemble import Log, check_target
from model_export.calibrate import MIN_CAPTIONED
from model_export.export import InitialModel, export_checkpoint
from model_export.parity.checks import export_with_fallback
from model_export.sources import Source, corpus_source, pack_clips
from model_export.update import update_metrics
from model_export.weights import Precision
from training import checkpoint
from training.adaptation import CORPUS, adaptation_recipe
from training.data.own_clips import MIN_HELD_OUT, MIN_TRAINING, OwnClips, check_enough, own_clips
from training.data.packed import PACK_NAME, Packed, open_packed
from training.evaluation.report import open_encoder
from training.evaluation.retrieval import Counts, compare_counts, sentence_retrieval
from training.initialization import initial_model_id, load_initial_model
from training.models import pretrained
from training.models.architectures import read_config
from training.models.config import FusedConfig
from training.trainer import train
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import MANIFEST_NAME, Calibration, Reranking
from vitascope.bundle.parts import StrictModel
from vitascope.durable_files import atomic_path
from vitascope.errors import BundleError, InvalidInput

METRICS_TITLE = "own (held-out clips)"
"""Name of the held-out clips among the metrics of the bundle."""
DEFAULT_PRECISION: Precision = "int8-weights"


@dataclass(frozen=True)
class AdaptOptions:
    """Options of an adaptation.

    Attributes:
        folder: Folder of videos with subtitles, or of an exported collection.
        start_from: Bundle, checkpoint or run to continue from.
        out, name: Folder and name of the bundle to write.
        work: Folder for intermediate results.
        shortest, longest: Minimum and maximum length of a clip, in seconds.
        steps: Number of training steps; None: depends on the number of clips.
        seed: Seed of the training.
        workers: Number of decoding processes.
        max_skipped: Maximum fraction of clips that may be skipped.
        data: Packed corpora on which an initial checkpoint was trained, for their terms of use.
        media: Folder of the exported collection, for files that the collection owns.
    """

    folder: Path
    start_from: Path
    out: Path
    work: Path
    name: str
    shortest: float
    longest: float
    steps: int | None = None
    seed: int = 0
    workers: int = 1
    max_skipped: float = 0.01
    data: Path = Path("data/packed")
    media: Path | None = None


class InitialModelFacts(StrictModel):
    """Facts about the initial model: configuration, training data, calibration and weight precision."""

    config: dict[str, Any]
    """See `training.models.architectures.read_config`."""
    sources: list[Source]
    """Training corpora, without pretrained weights."""
    calibration: Calibration | None
    """None for a checkpoint."""
    reranking: Reranking | None = None
    precision: Precision

    @property
    def architecture(self) -> FusedConfig:
        return read_config(self.config)


class _State(StrictModel):
    """Content of adapt.json. A work folder belongs to one initial model, one set of clips and one training."""

    clips: str
    start: str
    steps: int | None
    seed: int
    facts: InitialModelFacts


class _Exported(StrictModel):
    """Content of exported.json."""

    name: str
    fingerprint: str
    precision: str
    calibration: str


def adapt(options: AdaptOptions, log: Log) -> dict[str, Any]:
    """Run an adaptation, or resume it. Intermediate results stay in the work folder.

    Returns:
        A summary for printing.

    Raises:
        InvalidInput: The input cannot be used (also CorpusError).
        ParityError: No bundle of the trained model passes the parity check.
    """
    check_target(options.start_from, options.out, options.name)
    if options.steps is not None and options.steps < 1:
        raise InvalidInput(f"steps: {options.steps}; at least 1 was expected")
    clips = own_clips(options.folder, options.shortest, options.longest, options.media)
    log(f"{options.folder}: {clips.pairing}")
    state = _load_or_create_state(options, clips.identity, log)
    training, held_out = _pack_splits(options, clips, state.facts, log)
    before = _measure(options.work / "before.json", options.start_from, state.start, held_out, "initial model", log)
    recipe = adaptation_recipe(state.facts.architecture, len(training), steps=options.steps, seed=options.seed)
    run = options.work / "run"
    steps_done = checkpoint.steps_done(run / "checkpoint")
    if steps_done == recipe.total_steps:
        log(f"training: finished before, {steps_done} steps")
    else:
        log(f"training: {f'resuming at step {steps_done} of ' if steps_done else ''}{recipe.total_steps} steps")
        train(recipe, options.work / "data", run, start_from=options.start_from)
    exported = _export(options, state, run / "checkpoint", len(held_out), log)
    after = _measure_bundle(options, exported, before, held_out, log)
    return {
        "bundle": str(options.out),
        "clips": {"train": len(training), "held_out": len(held_out), "unused": clips.unused},
        "steps": recipe.total_steps,
        "before": before,
        "after": after,
        "verdict": {1: "better", 0: "equal", -1: "worse"}[compare_counts(before, after)],
        "calibration": exported.calibration,
        "precision": exported.precision,
        "work": str(options.work),
    }


def read_initial_model(folder: Path, data: Path) -> InitialModelFacts:
    """Read the facts about a bundle, checkpoint or run. Its model is loaded to make sure that it can be trained.

    Args:
        folder: Bundle, checkpoint or run.
        data: Packed corpora, for the terms of use of corpora that this project does not know.

    Raises:
        InvalidInput: The model cannot be trained, or the terms of its training data are unknown.
    """
    start = load_initial_model(folder)
    config = start.model.cfg.model_dump(mode="json")
    if (folder / MANIFEST_NAME).exists():
        manifest = Bundle.open(folder).manifest
        sources = [Source.model_validate(source) for source in manifest.extra["provenance"]["sources"]]
        return InitialModelFacts(
            config=config,
            sources=[source for source in sources if source.name not in pretrained.STARTS],
            calibration=manifest.calibration,
            reranking=manifest.reranking,
            precision=next((p for p in get_args(Precision) if p == manifest.precision), DEFAULT_PRECISION),
        )
    names = [name for name in start.lineage if name not in pretrained.STARTS]
    return InitialModelFacts(
        config=config,
        sources=[corpus_source(name, data) for name in names],
        calibration=None,
        precision=DEFAULT_PRECISION,
    )


def _load_or_create_state(options: AdaptOptions, clips: str, log: Log) -> _State:
    """Load adapt.json of the work folder, or create it. Raises InvalidInput if it belongs to another adaptation."""
    path, start = options.work / "adapt.json", initial_model_id(options.start_from)
    current = {"clips": clips, "start": start, "steps": options.steps, "seed": options.seed}
    if not path.exists():
        if options.work.exists() and any(options.work.iterdir()):
            raise InvalidInput(f"work: {options.work} contains other files; an empty or new folder was expected")
        log(f"reading {options.start_from}")
        facts = read_initial_model(options.start_from, options.data)
        state = _State.model_validate({**current, "facts": facts})
        options.work.mkdir(parents=True, exist_ok=True)
        _write_json(path, state)
        return state
    state = _State.model_validate_json(path.read_text("utf-8"))
    labels = {
        "clips": "videos, subtitles or clip lengths",
        "start": "initial model",
        "steps": "--steps",
        "seed": "--seed",
    }
    if changed := [labels[key] for key, value in current.items() if getattr(state, key) != value]:
        raise InvalidInput(
            f"work: {options.work} belongs to an adaptation with different {', '.join(changed)}; the same options or "
            "another --work were expected"
        )
    log(f"resuming from {options.work}")
    return state


def _pack_splits(options: AdaptOptions, clips: OwnClips, facts: InitialModelFacts, log: Log) -> tuple[Packed, Packed]:
    """Pack the splits train and val with the initial model's streams, unless they are packed."""
    splits = []
    for split, purpose, items, minimum in (
        ("train", "train on", clips.training, MIN_TRAINING),
        ("val", "hold out", clips.held_out, MIN_HELD_OUT),
    ):
        folder = options.work / "data" / CORPUS / split
        if (folder / PACK_NAME).is_file():
            packed = open_packed(folder)
            log(f"{split}: {len(packed)} clips, packed before")
        else:
            streams = facts.architecture.streams()
            pack_clips(folder, items, streams, clips.origin, workers=options.workers, max_skipped=options.max_skipped)
            packed = open_packed(folder)
            log(f"{split}: packed {len(packed)} clips, {len(packed.info['skipped'])} skipped")
        check_enough(options.folder, purpose, packed.examples, minimum)
        splits.append(packed)
    return splits[0], splits[1]


def _measure(path: Path, model: Path, model_id: str, held_out: Packed, label: str, log: Log) -> dict[str, float]:
    """Measure retrieval of the held-out clips, or read the stored result of the same model."""
    if path.exists():
        stored = json.loads(path.read_text("utf-8"))
        if stored["model"] == model_id and "counts" in stored:  # version 0.3 counted ties differently
            return dict(stored["counts"])
    log(f"measuring the {label} on {len(held_out)} held-out clips")
    counts = sentence_retrieval(open_encoder(model), held_out)
    _write_json(path, {"model": model_id, "counts": counts})
    return counts


def _export(options: AdaptOptions, state: _State, trained: Path, held_out: int, log: Log) -> _Exported:
    """Export the trained model to `out`, unless it was exported before."""
    path = options.work / "exported.json"
    if path.exists():
        exported = _Exported.model_validate_json(path.read_text("utf-8"))
        if (exported.name, exported.fingerprint) == _bundle_id(options.out):
            log(f"{options.out}: exported before")
            return exported
    initial = InitialModel(
        state.facts.sources, state.facts.calibration, state.facts.reranking, min_captioned=MIN_CAPTIONED
    )

    def export(precision: Precision) -> Path:
        return export_checkpoint(
            trained,
            options.out,
            name=options.name,
            precision=precision,
            data=options.work / "data",
            seed=options.seed,
            log=log,
            initial=initial,
        )

    # With few held-out clips, a change of a single query by reduced weights may exceed the tolerance of the check.
    export_with_fallback(state.facts.precision, export, log)
    bundle = Bundle.open(options.out)
    exported = _Exported(
        name=bundle.manifest.name,
        fingerprint=bundle.fingerprint,
        precision=bundle.manifest.precision,
        calibration=_describe_calibration(state.facts, held_out, bundle),
    )
    _write_json(path, exported)
    return exported


def _describe_calibration(facts: InitialModelFacts, held_out: int, bundle: Bundle) -> str:
    """Return where the bundle's calibration comes from."""
    if "match pairs" in bundle.manifest.extra["provenance"]["calibration"]:
        suffix = "; answers keep the initial model's" if bundle.answers and facts.calibration else ""
        return f"fitted on {held_out} held-out clips{suffix}"
    reason = f"{held_out} held-out clips are too few to fit it, {MIN_CAPTIONED} were expected"
    return f"the initial model's: {reason}" if facts.calibration else f"none: {reason}, and a checkpoint has none"


def _measure_bundle(
    options: AdaptOptions, exported: _Exported, before: Counts, held_out: Packed, log: Log
) -> dict[str, float]:
    """Measure the bundle on the held-out clips, and put the result into its card."""
    after = _measure(options.work / "after.json", options.out, exported.fingerprint, held_out, "bundle", log)
    if not Bundle.open(options.out).manifest.metrics:
        metrics = options.work / "metrics.json"
        start = {f"{metric} (start)": value for metric, value in _to_metrics(before).items()}
        _write_json(metrics, {METRICS_TITLE: _to_metrics(after) | start})
        update_metrics(options.out, metrics)
    return after


def _to_metrics(counts: Counts) -> dict[str, float]:
    """Convert counts to the metrics of `vitascope evaluate`."""
    names = {"first": "t2v R@1", "among 5": "t2v R@5", "among 10": "t2v R@10"}
    recalls = {names[k]: round(100 * v / counts["sentences"], 4) for k, v in counts.items() if k in names}
    return recalls | {"t2v MdR": counts["median rank"], "t2v MnR": counts["mean rank"]}


def _bundle_id(folder: Path) -> tuple[str, str] | None:
    """Return name and fingerprint of an intact bundle; None if there is none."""
    try:
        bundle = Bundle.open(folder)
    except BundleError:
        return None
    return bundle.manifest.name, bundle.fingerprint


def _write_json(path: Path, content: StrictModel | dict[str, Any]) -> None:
    text = content.model_dump_json(indent=1) if isinstance(content, StrictModel) else json.dumps(content, indent=1)
    with atomic_path(path) as temp_path:
        temp_path.write_text(text + "\n", "utf-8")
