"""Adding a trained moment head to a bundle as its graph `moments`. Other graphs and the fingerprint do not change."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from model_export.assemble import (
    Log,
    copy_files,
    finish,
    markdown_table,
    no_log,
    read_json_object,
    replace_bundle,
)
from model_export.graphs import Arrays, GraphSpec, ManifestSizes, export_graph
from model_export.parity.cases import Case
from model_export.parity.checks import FLOAT32, check_outputs
from model_export.parity.variants import read_report
from model_export.sources import Source, add_sources, listed_sources
from training.moments.loop import METRICS_NAME, HeadCheckpoint, load_head
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import SALIENCY, SPAN_SCORES, SPANS, WINDOW_MASK, WINDOW_TEXT, WINDOWS
from vitascope.bundle.manifest import Manifest
from vitascope.errors import InvalidInput

GRAPH_NAME = "moments.onnx"
"""File of the graph. It contains its weights, so that `weights.bin` and the fingerprint do not change."""
EXTRA_KEY = "moments"
"""Key of the head's recipe, corpora and metrics in the manifest's `extra`."""
_SEQUENCE = {0: "batch", 1: "windows"}
_AXES = {WINDOWS: _SEQUENCE, WINDOW_MASK: _SEQUENCE, WINDOW_TEXT: {0: "batch"}}
_SIZES = ((1, 1), (3, 17), (2, 80))
"""Numbers of sequences and of windows of the random parity inputs."""
_SECTION = re.compile(r"\n## Moments\n.*?(?=\n## |\Z)", re.DOTALL)


def add_moments(
    bundle: Path, run: Path, *, version: str | None = None, seed: int | None = None, log: Log = no_log
) -> Path:
    """Add the head of a run of `vitascope train-moments` to a bundle; an existing head is replaced.

    If the run has metrics of `vitascope evaluate-moments`, they are added to the model card.

    Args:
        bundle: The bundle, which is changed in place.
        run: Run folder of `vitascope train-moments`.
        version: New version of the bundle; None: unchanged.
        seed: Seed of the random parity inputs; None: random.
        log: Called with progress messages.

    Returns:
        `bundle`.

    Raises:
        ParityError: The outputs of the graph differ from those of the head.
        InvalidInput: There is no head at `run`, or it was trained on embeddings of another bundle.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    head, config = load_head(run)
    if config.fingerprint != manifest.fingerprint():
        raise InvalidInput(
            f"moments: {run} was trained on embeddings of {config.bundle} (fingerprint {config.fingerprint[:12]}); "
            f"{bundle} has the fingerprint {manifest.fingerprint()[:12]}, and a head trained on embeddings of that "
            "fingerprint was expected"
        )
    measured = run / METRICS_NAME
    metrics = read_json_object("moments", measured) if measured.exists() else {}
    spec = GraphSpec("moments", head, _AXES, (SALIENCY, SPANS, SPAN_SCORES))
    rng = np.random.default_rng(secrets.randbits(32) if seed is None else seed)
    log("exporting the moments graph (torch to ONNX)")
    graph = export_graph(spec, ManifestSizes(manifest), _random_sequences(rng, config.width, 3, 7))
    cases = [Case("random", _random_sequences(rng, config.width, *size)) for size in _SIZES]
    with replace_bundle(bundle) as folder:
        copy_files(opened, manifest.files, folder)
        (folder / GRAPH_NAME).write_bytes(graph.SerializeToString(deterministic=True))
        log("checking the moments graph")
        checks = check_outputs([spec], {"moments": folder / GRAPH_NAME}, {"moments": cases}, "float32", FLOAT32)
        report: dict[str, Any] = read_report(opened) or {}
        others = [check for check in report.get("outputs", ()) if check["graph"] != "moments"]
        report["outputs"] = [*others, *(check.model_dump(mode="json") for check in checks)]
        sources = _new_sources(config, manifest)
        card = _SECTION.sub("", (bundle / manifest.model_card).read_text("utf-8")).rstrip("\n")
        fields = _manifest_fields(manifest, config, metrics) | add_sources(folder, manifest, sources)
        if version is not None:
            fields["version"] = version
            for before in (f"{manifest.name} ", "--version "):  # the title, and the command that makes the bundle
                card = card.replace(f"{before}{manifest.version}", f"{before}{version}")
        finish(
            folder,
            fields,
            json.dumps(report, indent=1) + "\n",
            lambda draft: "\n".join([card, "", *moments_section(draft), ""]),
        )
    return bundle


def _random_sequences(rng: np.random.Generator, width: int, batch: int, count: int) -> Arrays:
    """Return random inputs of `moments`: slowly changing windows, whose number decreases from row to row."""
    windows = rng.standard_normal((batch, count, width)).cumsum(axis=1)
    windows /= np.linalg.norm(windows, axis=-1, keepdims=True)
    lengths = np.linspace(count, max(1, count // 2), batch).astype(int)
    text = windows[:, count // 2] + 0.5 * rng.standard_normal((batch, width)) / width**0.5
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    return {
        WINDOWS: windows.astype(np.float32),
        WINDOW_MASK: (np.arange(count) < lengths[:, None]).astype(np.int64),
        WINDOW_TEXT: text.astype(np.float32),
    }


def _new_sources(config: HeadCheckpoint, manifest: Manifest) -> list[Source]:
    """Return the sources of the head's corpora that the bundle does not list yet."""
    listed = listed_sources(manifest)
    return [
        Source(
            name=name,
            what="videos with sentences and their moments",
            origin=origin.source,
            terms=origin.licence,
            research_only=not origin.licence.startswith("CC0"),
        )
        for name, origin in config.corpora.items()
        if name not in listed
    ]


def _manifest_fields(manifest: Manifest, config: HeadCheckpoint, metrics: dict[str, Any]) -> dict[str, Any]:
    recipe = config.recipe
    facts = {"recipe": recipe.model_dump(mode="json"), "corpora": list(config.corpora), "metrics": metrics}
    return manifest.model_dump() | {
        "tasks": [*(task for task in manifest.tasks if task != "moments"), "moments"],
        "graphs": {**manifest.graphs, "moments": GRAPH_NAME},
        "moments": {"window_seconds": config.window_seconds, "max_windows": recipe.max_windows},
        "extra": manifest.extra | {EXTRA_KEY: facts},
    }


def moments_section(manifest: Manifest) -> list[str]:
    """Return the model card's section on moments, as Markdown lines; none for a bundle without the graph."""
    facts = manifest.extra.get(EXTRA_KEY)
    if manifest.moments is None or facts is None:
        return []
    recipe, windows = facts["recipe"], manifest.moments
    lines = [
        "## Moments",
        "",
        f"The graph `moments` finds the spans of a video that a sentence describes, from embeddings of windows of "
        f"{windows.window_seconds:g} s.",
        f"It was trained on {', '.join(facts['corpora'])} (recipe `{recipe['name']}`, seed {recipe['seed']}, "
        f"{recipe['steps']} steps); the other graphs were not changed.",
    ]
    for split, rows in facts["metrics"].items():
        names = list(next(iter(rows.values())))
        values = [[localizer, *(f"{row[name]:.1f}" for name in names)] for localizer, row in rows.items()]
        lines += ["", *markdown_table([split, *names], values)]
    if facts["metrics"]:
        lines += ["", "Percent; metrics of QVHighlights, and AUROC of sentences with and without moments."]
    else:
        lines += ["", "Nothing was measured when it was added."]
    return lines
