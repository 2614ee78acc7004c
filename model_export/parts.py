"""Adding caption decoders, grounding heads, entailment heads and pooled answer heads, trained alone, to a bundle.

Only the graphs and weights of these parts are exported. Other graphs do not change. The fingerprint changes only with a
pooled answer head, because that is part of the graph `answer`.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx

from model_export.assemble import Log, copy_files, finish, no_log, replace_bundle
from model_export.card import METRICS_KEY, Provenance, model_card, stored_metrics
from model_export.export import added_parts, validation_splits
from model_export.graphs import GraphSpec, export_specs, graph_specs
from model_export.parity.cases import Case, model_cases
from model_export.parity.checks import (
    FLOAT32,
    REDUCED,
    OutputCheck,
    ParityReport,
    check_outputs,
    tolerances_for,
)
from model_export.sources import STARTS, add_sources, corpus_source, licence_of
from model_export.weights import Precision, SharedWeights, store
from training.bundle_checkpoint import CHECKPOINT_KEY, extend_checkpoint, load_checkpoint, replace_checkpoint
from training.checkpoint import PARTS, Checkpoint, load_run, merge_parts, trained_parts
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GRAPHS_OF_TASK, GraphName, Manifest
from vitascope.bundle.manifest import PARTS as GRAPHS_OF_FIELD
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Part:
    """The parts of one run, exported in float32, and the inputs for the parity check.

    fields: Keys of `training.checkpoint.PARTS`.
    """

    fields: Sequence[str]
    specs: list[GraphSpec]
    graphs: Mapping[GraphName, onnx.ModelProto]
    cases: Mapping[str, Sequence[Case]]
    shared: SharedWeights


def add_parts(
    bundle: Path,
    runs: Sequence[Path],
    *,
    out: Path | None = None,
    version: str | None = None,
    data: Path | None = None,
    seed: int | None = None,
    log: Log = no_log,
) -> Path:
    """Add the parts that runs have trained alone to a bundle; existing parts of the same kind are replaced.

    The checkpoint beside the bundle gets the weights of the parts as well. After an error nothing is written.

    Args:
        bundle: The bundle.
        runs: Run or checkpoint folders whose training started from the model of the bundle.
        out: Output bundle; None: `bundle` is changed in place.
        version: Version of the output; None: that of `bundle`.
        data: Folder of packed corpora, whose validation splits are used for parity on real inputs.
        seed: Seed of the random parity inputs; None: random.
        log: Called with progress messages.

    Returns:
        The folder of the output bundle.

    Raises:
        ParityError: The outputs of a graph differ from those of the run's model.
        InvalidInput: The bundle has no checkpoint, or a run has no part or started from another model.
    """
    opened, out = Bundle.open(bundle), out or bundle
    manifest, own = opened.manifest, load_checkpoint(opened)
    tokenizer = opened.tokenizer()
    seed = secrets.randbits(32) if seed is None else seed
    parts = []
    extended = own
    for run in runs:
        extended, part = _export_part(opened, own, extended, run, tokenizer, data, seed, log)
        parts.append(part)

    with replace_checkpoint(out) as kept, replace_bundle(out) as folder:
        names = {spec.name for part in parts for spec in part.specs}
        copy_files(opened, _files_without(manifest, names), folder)
        checks: list[OutputCheck] = []
        for part in parts:  # a later run replaces what an earlier one has
            of_part = _store(part, folder, cast(Precision, manifest.precision), log)
            checks = [check for check in checks if check.graph not in {spec.name for spec in part.specs}] + of_part
        report = ParityReport.model_validate_json((bundle / manifest.parity_report).read_text("utf-8"))
        others = [check for check in report.outputs if check.graph not in names]
        tolerances = report.tolerances | tolerances_for(cast(Precision, manifest.precision))
        report = report.model_copy(update={"outputs": [*others, *checks], "tolerances": tolerances})
        log("writing the checkpoint and the model card")
        fields = _manifest_fields(folder, manifest, extended, tokenizer, names, data)
        fields["version"] = version or manifest.version
        stored = extend_checkpoint(kept, opened, extended, [field for part in parts for field in part.fields])
        fields["extra"] |= {CHECKPOINT_KEY: stored.model_dump(mode="json"), METRICS_KEY: stored_metrics(opened)}
        finish(folder, fields, report.to_json(), lambda draft: model_card(draft, report))
    return out


def _export_part(
    bundle: Bundle,
    own: Checkpoint,
    extended: Checkpoint,
    run: Path,
    tokenizer: Tokenizer,
    data: Path | None,
    seed: int,
    log: Log,
) -> tuple[Checkpoint, _Part]:
    """Return the checkpoint of a bundle extended by the parts of a run, and the graphs of these parts.

    own: Checkpoint of the bundle. Parts of the run that equal its parts were not trained by the run and are skipped.
    extended: Checkpoint of the bundle, with the parts of earlier runs.
    """
    other = load_run(run)
    fields = trained_parts(own, other)
    every = graph_specs(other.model.eval())
    specs = [spec for spec in every if any(spec.name in PARTS[field].graphs for field in fields)]
    if not specs:
        raise InvalidInput(f"part: {run} has no {', '.join(PARTS)} to export; one was expected")
    extended = merge_parts(extended, other, fields)
    log(f"exporting {', '.join(spec.name for spec in specs)} (torch to ONNX)")
    corpora = validation_splits(other.recipe.corpora, data)
    cases = model_cases(other.model, tokenizer, corpora.values(), seed)
    prefixes = tuple(PARTS[field].prefix for field in fields)
    weights = [w.numpy() for name, w in other.model.state_dict().items() if not name.startswith(prefixes)]
    graphs = export_specs(specs, other.model.cfg)
    return extended, _Part([*fields], specs, graphs, cases, SharedWeights(bundle, weights))


def _files_without(manifest: Manifest, names: set[GraphName]) -> list[str]:
    """Return the files of a bundle except those of the named graphs and their weights."""
    weights = [file for file, graphs in manifest.added_weights.items() if names & {*graphs}]
    dropped = {*weights, *(file for name, file in manifest.graphs.items() if name in names)}
    return [name for name in manifest.files if name not in dropped]


def _store(part: _Part, folder: Path, precision: Precision, log: Log) -> list[OutputCheck]:
    """Compare the graphs of a part with torch in float32, write them into the draft, and compare the written ones."""
    log("checking graphs with float32")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as exact:
        paths = {name: Path(exact) / file for name, file in store(part.graphs, Path(exact), "float32").items()}
        checks = check_outputs(part.specs, paths, part.cases, "float32", FLOAT32)
    log(f"checking graphs with {precision}, beside the weights of the bundle")
    paths = {name: folder / file for name, file in store(part.graphs, folder, precision, part.shared).items()}
    stored = check_outputs(part.specs, paths, part.cases, precision, REDUCED)
    return checks if precision == "float32" else [*checks, *stored]


def _manifest_fields(
    folder: Path,
    manifest: Manifest,
    extended: Checkpoint,
    tokenizer: Tokenizer,
    names: set[GraphName],
    data: Path | None,
) -> dict[str, Any]:
    provenance = Provenance.model_validate(manifest.extra["provenance"])
    known = {source.name for source in provenance.sources}
    sources = [corpus_source(name, data) for name in extended.sources if name not in known]
    corpora_first = sorted([*provenance.sources, *sources], key=lambda source: source in STARTS)
    is_derived = manifest.licence == licence_of(provenance.sources)
    provenance = provenance.model_copy(
        update={"config": extended.model.cfg.model_dump(mode="json"), "sources": corpora_first}
    )
    new_tasks = [task for task, graphs in GRAPHS_OF_TASK.items() if names & {*graphs} and task not in manifest.tasks]
    # The shares of the two answer heads were fitted as probabilities.
    calibration = manifest.calibration.model_copy(update={"answer_temperature": 1.0} if "answer" in names else {})
    return (
        manifest.model_dump()
        | {n: x for n, x in added_parts(extended.model.cfg, tokenizer).items() if names & {*GRAPHS_OF_FIELD[n]}}
        | add_sources(folder, manifest, sources)
        | ({"licence": licence_of(corpora_first)} if is_derived else {})
        | {
            "tasks": [*manifest.tasks, *new_tasks],
            "graphs": {**manifest.graphs, **{name: f"{name}.onnx" for name in sorted(names)}},
            "calibration": calibration,
            "extra": manifest.extra | {"provenance": provenance.model_dump(mode="json")},
        }
    )
