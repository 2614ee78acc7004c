"""Adding a checkpoint or the metrics of an evaluation to a bundle. Graphs and fingerprint do not change."""

from __future__ import annotations

from pathlib import Path

from model_export.assemble import copy_files, replace_bundle, write_documents, write_manifest
from model_export.card import METRICS_KEY, headline_metrics, model_card, read_metrics, stored_metrics
from model_export.graphs import graph_specs
from model_export.parity.cases import random_cases
from model_export.parity.checks import REDUCED, ParityReport, check_outputs
from training import checkpoint
from training.bundle_checkpoint import CHECKPOINT_KEY, replace_checkpoint, write_checkpoint
from training.models.architectures import read_config
from vitascope.bundle.bundle import Bundle
from vitascope.errors import InvalidInput


def add_checkpoint(bundle: Path, model: Path) -> Path:
    """Write the checkpoint from which a bundle was exported, in compact form, beside the bundle; return `bundle`.

    model: Folder of the checkpoint.

    Raises:
        ParityError: The outputs of the checkpoint's model differ from those of the bundle's graphs.
        InvalidInput: The bundle was not exported from this checkpoint, or there is no checkpoint at `model`.
    """
    opened, loaded = Bundle.open(bundle), checkpoint.load_run(model)
    manifest, cfg = opened.manifest, loaded.model.cfg
    if "provenance" not in manifest.extra:
        raise InvalidInput(f"{bundle}: no provenance in its manifest; a bundle exported from a checkpoint was expected")
    if read_config(manifest.extra["provenance"]["config"]) != cfg or loaded.answers != opened.answers:
        raise InvalidInput(f"checkpoint: {model} has another configuration or other answers than {bundle}")
    with replace_checkpoint(bundle) as part, replace_bundle(bundle) as folder:
        kept = write_checkpoint(part, loaded)
        specs = graph_specs(checkpoint.load(part).model.eval())
        paths = {spec.name: bundle / manifest.graphs[spec.name] for spec in specs}
        check_outputs(specs, paths, random_cases(specs, cfg, seed=0), "int8-weights", REDUCED)
        copy_files(opened, manifest.files, folder)
        extra = manifest.extra | {CHECKPOINT_KEY: kept.model_dump(mode="json")}
        write_manifest(folder, manifest.model_dump() | {"extra": extra})
    return bundle


def update_metrics(bundle: Path, metrics: Path) -> Path:
    """Add the metrics of an evaluation to a bundle's card and manifest; metrics of other evaluations stay.

    metrics: JSON file of `vitascope evaluate --out`. Returns `bundle`. Raises BundleError, and InvalidInput for a
    bundle without provenance or for invalid metrics.
    """
    opened = Bundle.open(bundle)
    new, old = read_metrics(metrics), stored_metrics(opened)
    measured = old | {corpus: old.get(corpus, {}) | numbers for corpus, numbers in new.items()}
    if "provenance" not in opened.manifest.extra:
        raise InvalidInput(f"{bundle}: no provenance in its manifest; a bundle exported from a checkpoint was expected")
    report = ParityReport.model_validate_json((bundle / opened.manifest.parity_report).read_text("utf-8"))
    with replace_bundle(bundle) as folder:
        copy_files(opened, opened.manifest.files, folder)
        manifest = opened.manifest.model_copy(
            update={
                "metrics": {**opened.manifest.metrics, **headline_metrics(new)},
                "extra": opened.manifest.extra | {METRICS_KEY: measured},
            }
        )
        write_documents(folder, {manifest.model_card: model_card(manifest, report)})
        write_manifest(folder, manifest.model_dump())
    return bundle
