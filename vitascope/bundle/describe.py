"""What is in a bundle, as plain data."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.calibration_summary import calibrated
from vitascope.bundle.onnx_reader import GraphContents, parameters, read_graph
from vitascope.bundle.parity_report import fidelity, read_report, told_beside
from vitascope.bundle.signing.signatures import read_signatures


def describe(bundle: Bundle) -> dict[str, Any]:
    """The manifest without its list of hashes, and what its files say of themselves.

    ``contents``: of each graph file, bytes, opsets, operators with their number, parameters, and bytes of weights by
    type. ``parameters``: of all graphs; what several read from one place counts once. ``fidelity``: by precision, what
    the parity report compared, null where it has another form. ``beside``: of a variant, sentences on how far it is
    from the bundle it was made of. ``calibrated``: sentences on what its probabilities were fitted to. ``signed_by``:
    ids of keys; nobody has checked here that they did. Raises BundleCorrupt, and BundleUntrusted for signatures that
    are none.
    """
    manifest = bundle.manifest
    graphs, report = graphs_of(bundle), read_report(bundle.folder / bundle.manifest.parity_report)
    return {
        **manifest.model_dump(mode="json", exclude={"files", "extra", "schema_version"}),
        "answer_count": len(bundle.answers),
        "vocabulary": bundle.tokenizer().vocabulary_size,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "fingerprint": bundle.fingerprint,
        "files": {name: entry.bytes for name, entry in sorted(manifest.files.items())},
        "parameters": parameters(graphs),
        "contents": {graph: _contents(contents) for graph, contents in graphs.items()},
        "fidelity": None if report is None else [dataclasses.asdict(one) for one in fidelity(report)],
        "beside": [] if report is None or report.beside is None else told_beside(report.beside),
        "calibrated": calibrated(manifest),
        "signed_by": [one.key_id for one in read_signatures(bundle.folder)],
    }


def graphs_of(bundle: Bundle) -> dict[str, GraphContents]:
    """By the name of the graph, sorted. Raises BundleCorrupt."""
    return {graph: read_graph(bundle.folder / file) for graph, file in sorted(bundle.manifest.graphs.items())}


def _contents(graph: GraphContents) -> dict[str, Any]:
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
