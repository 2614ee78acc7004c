"""Description of a bundle as plain data: manifest, graph contents, fidelity, calibration, signatures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Manifest, Task
from vitascope.bundle.onnx_files import OnnxGraph, count_parameters, read_graph
from vitascope.bundle.parity_report import describe_variant, fidelity, read_report
from vitascope.bundle.signing import read_signatures


def describe(bundle: Bundle) -> dict[str, Any]:
    """Describe a bundle.

    Returns:
        The manifest without hashes, and

        - ``contents``: by graph, bytes, opsets, operators with counts, parameters, and bytes of weights by dtype;
        - ``parameters``: number of parameters of all graphs; weights that several graphs share count once;
        - ``fidelity``: summary of the parity report by precision; None if the report has an unknown format;
        - ``variant``: sentences that compare a variant with its source bundle;
        - ``calibration_summary``: sentences on the data by which probabilities were calibrated;
        - ``reranking_summary``: sentences on the number of results that are reranked by default;
        - ``signed_by``: ids of the signing keys; the signatures are not verified.

    Raises:
        BundleCorrupt: A graph or the parity report cannot be read.
        BundleUntrusted: The signature file is malformed.
    """
    manifest = bundle.manifest
    graphs = {graph: read_graph(bundle.folder / file) for graph, file in sorted(manifest.graphs.items())}
    report = read_report(bundle.folder / manifest.parity_report)
    return {
        **manifest.model_dump(mode="json", exclude={"files", "extra", "schema_version"}),
        "answer_count": len(bundle.answers),
        "vocabulary": bundle.tokenizer().vocabulary_size,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "fingerprint": bundle.fingerprint,
        "files": {name: entry.bytes for name, entry in sorted(manifest.files.items())},
        "parameters": count_parameters(graphs),
        "contents": {name: _describe_graph(graph) for name, graph in graphs.items()},
        "fidelity": None if report is None else [dataclasses.asdict(item) for item in fidelity(report)],
        "variant": [] if report is None or report.variant is None else describe_variant(report.variant),
        "calibration_summary": calibration_summary(manifest),
        "reranking_summary": reranking_summary(manifest),
        "signed_by": [signature.key_id_hex for signature in read_signatures(bundle.folder)],
    }


def _describe_graph(graph: OnnxGraph) -> dict[str, Any]:
    weights: Counter[str] = Counter()
    for tensor in graph.tensors:
        weights[tensor.dtype] += tensor.bytes or 0
    return {
        "file": graph.path.name,
        "bytes": graph.path.stat().st_size,
        "producer": graph.producer,
        "ir_version": graph.ir_version,
        "opsets": graph.opsets,
        "nodes": graph.operators.total(),
        "operators": dict(graph.operators.most_common()),
        "parameters": sum(tensor.size for tensor in graph.tensors),
        "weight_bytes": dict(weights.most_common()),
    }


class _ProbabilityKind(NamedTuple):
    """A kind of probability, and its keys in the manifest's ``calibration`` record."""

    task: Task
    name: str
    key: str
    unit: str
    description: str


_PROBABILITIES = (
    _ProbabilityKind("matching", "match and fused", "match", "pairs", "pairs of clip and caption"),
    _ProbabilityKind("answering", "answers", "answer", "questions", "questions"),
)


def calibration_summary(manifest: Manifest) -> list[str]:
    """Return one sentence, without a full stop, for each calibrated probability that the manifest documents.

    Errors in the sentences are expected calibration errors (ECE), from 0 to 1.
    """
    record = _mapping(manifest.extra.get("calibration"))
    if not record and (origin := manifest.extra.get("variant_of")):  # early versions did not record that it was kept
        record = {"kept": [kind.name for kind in _PROBABILITIES], "kept_of": origin}
    if not record:
        provenance = _mapping(manifest.extra.get("provenance"))
        record = _mapping(provenance.get("calibration"))
        if provenance.get("calibration_kept"):
            record = {**record, "kept": ["match and fused"]}
    kinds = [kind for kind in _PROBABILITIES if kind.task in manifest.tasks]
    try:
        return [sentence for kind in kinds if (sentence := _calibration_sentence(record, kind)) is not None]
    except (KeyError, TypeError, ValueError):  # `extra` has no schema
        return []


def _calibration_sentence(record: Mapping[str, Any], kind: _ProbabilityKind) -> str | None:
    count = record.get(f"{kind.key} {kind.unit}")
    if count is not None:
        splits = f" of {', '.join(record['fitted_on'])}" if "fitted_on" in record else ""
        before, after = record.get(f"{kind.key} error kept"), record.get(f"{kind.key} error after")
        comparison = "" if before is None else f", {before:.3f} before"
        error = "" if after is None else f"; expected error {after:.3f}{comparison}"
        return f"Probabilities ({kind.name}) are fitted on {count:,.0f} {kind.description}{splits}{error}"
    if kind.name in record.get("kept", ()):
        origin = _mapping(record.get("kept_of"))
        name = f"{origin['name']} {origin['version']}" if origin else "the source model"
        return f"Probabilities ({kind.name}) use the calibration of {name}"
    return None


def reranking_summary(manifest: Manifest) -> str:
    """Return one or two sentences, without the last full stop: how many results are reranked by default, and why."""
    by_pictures, sound = _picture_reranking(manifest), manifest.sound_reranking
    if sound is None:
        return by_pictures
    results = f"the first {sound.candidates} results" if sound.candidates else "no results"
    text = f"{by_pictures}. Searches by pictures and sound rerank {results} by default"
    if not sound.measured or any(not {0, sound.candidates} <= m.recall.keys() for m in sound.measured.values()):
        return f"{text}; the gain was not measured"
    splits = ", ".join(sound.measured)
    if not sound.candidates:
        return f"{text}, as no number of them gained enough on {splits}"
    gains = [m.recall[sound.candidates][0] - m.recall[0][0] for m in sound.measured.values()]
    return f"{text}: on {splits}, R@1 is {sum(gains) / len(gains):.2f} points higher on average"


def _picture_reranking(manifest: Manifest) -> str:
    count, measured = manifest.default_rerank, {} if manifest.reranking is None else manifest.reranking.measured
    results = f"the first {count} results" if count else "no results"
    splits = ", ".join(measured)
    if "matching" not in manifest.tasks:
        return "Searches cannot be reranked, as the bundle has no task 'matching'"
    if not measured or any(not {0, count} <= m.recall.keys() for m in measured.values()):
        return f"Searches rerank {results} by default; the gain was not measured"
    if not count:
        reason = "no number of them gained enough without a loss"
        return f"Searches rerank {results} by default, as {reason} on one of {splits}"
    gains = [
        after - before for m in measured.values() for before, after in zip(m.recall[0], m.recall[count], strict=True)
    ]
    return (
        f"Searches rerank {results} by default: on {splits}, R@1, R@5 and R@10 are never lower than by similarity and "
        f"{sum(gains) / len(gains):.2f} points higher on average"
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
