"""What changed between two bundles, as plain data. Nothing is run; ``likeness`` and ``speed`` do that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.describe import graphs_of
from vitascope.bundle.manifest import Manifest
from vitascope.bundle.onnx_reader import GraphContents, Tensor
from vitascope.bundle.parity_report import read_report, told_beside

_TOLD_ELSEWHERE = {"files", "metrics"}
Data = dict[str, Any]


def differences(before: Bundle, after: Bundle) -> Data:
    """``same``: whether nothing that counts for a vector changed (the fingerprint).

    ``manifest``: [{key, before, after}], keys with dots, null where there is none; ``files``: added, removed and
    changed with their bytes; ``graphs``, ``tokenizer``, ``answers``: see below, only what changed; ``beside``: what the
    parity report of either says of the other, sentences; ``accuracy``: [{metric, before, after, delta}] of all metrics.
    Raises BundleCorrupt and OSError.
    """
    return {
        "same": before.fingerprint == after.fingerprint,
        "manifest": _manifest(before.manifest, after.manifest),
        "files": _files(before.manifest, after.manifest),
        "graphs": _graphs(graphs_of(before), graphs_of(after)),
        "tokenizer": _tokenizer(before, after),
        "answers": _lists(before.answers, after.answers),
        "beside": _beside(before, after),
        "accuracy": _accuracy(before.manifest.metrics, after.manifest.metrics),
    }


def _manifest(before: Manifest, after: Manifest) -> list[Data]:
    old, new = (_flat(one.model_dump(mode="json", exclude=_TOLD_ELSEWHERE)) for one in (before, after))
    keys = [*old, *(key for key in new if key not in old)]
    return [{"key": key, "before": old.get(key), "after": new.get(key)} for key in keys if old.get(key) != new.get(key)]


def _flat(value: object, key: str = "") -> dict[str, object]:
    """Every value that is no object by its way down, such as ``streams.high.frames``."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        value = {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in value}
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{key}.{name}".lstrip(".")).items()}


def _files(before: Manifest, after: Manifest) -> Data:
    old, new = before.files, after.files
    return {
        "added": {name: new[name].bytes for name in sorted(set(new) - set(old))},
        "removed": {name: old[name].bytes for name in sorted(set(old) - set(new))},
        "changed": {
            name: {"before": old[name].bytes, "after": new[name].bytes}
            for name in sorted(set(old) & set(new))
            if old[name].sha256 != new[name].sha256
        },
    }


def _graphs(before: Mapping[str, GraphContents], after: Mapping[str, GraphContents]) -> Data:
    """By name: ``"added"``, ``"removed"``, or what changed in it; graphs that are alike are not told."""
    told: Data = {}
    for graph in sorted({*before, *after}):
        if graph not in before or graph not in after:
            told[graph] = "added" if graph in after else "removed"
            continue
        change = _graph(before[graph], after[graph])
        if any(change.values()):
            told[graph] = change
    return told


def _graph(before: GraphContents, after: GraphContents) -> Data:
    """``opsets``: {domain: [before, after]}. ``operators``: {name: how many more}. ``initialisers``: ``_tensors``."""
    opsets = {
        domain: [before.opsets.get(domain), after.opsets.get(domain)]
        for domain in sorted({*before.opsets, *after.opsets})
        if before.opsets.get(domain) != after.opsets.get(domain)
    }
    more = Counter(after.operators)
    more.subtract(before.operators)
    tensors = _tensors(before, after)
    return {
        "opsets": opsets,
        "operators": {name: count for name, count in sorted(more.items()) if count},
        "initialisers": tensors if any(tensors.values()) else {},
    }


def _tensors(before: GraphContents, after: GraphContents) -> Data:
    """``added``, ``removed``: {name: type and shape}. ``changed``: [{name, before, after, difference}], where
    ``difference`` is |after - before| / |before| of floats of one shape, else null.
    """
    old, new = ({one.name: one for one in contents.tensors} for contents in (before, after))
    changed = []
    for name in sorted(set(old) & set(new)):
        a, b = old[name], new[name]
        if a.written == b.written and before.stored(a) == after.stored(b):
            continue
        difference = _difference(before, a, after, b)
        changed.append({"name": name, "before": a.written, "after": b.written, "difference": difference})
    return {
        "added": {name: new[name].written for name in sorted(set(new) - set(old))},
        "removed": {name: old[name].written for name in sorted(set(old) - set(new))},
        "changed": changed,
    }


def _difference(before: GraphContents, a: Tensor, after: GraphContents, b: Tensor) -> float | None:
    old, new = before.floats(a), after.floats(b)
    if old is None or new is None or a.shape != b.shape:
        return None
    length = float(np.linalg.norm(old))
    return float(np.linalg.norm(new - old)) / length if length else None


def _tokenizer(before: Bundle, after: Bundle) -> Data:
    """``count``: [before, after]; tokens ``added`` and ``removed``, and how many have another number (``moved``). Empty
    where the files are the same; where only other parts of the files differ, such as how text is cut, lists are empty.
    """
    file = before.manifest.tokenizer, after.manifest.tokenizer
    if before.manifest.files[file[0]].sha256 == after.manifest.files[file[1]].sha256:
        return {}
    old, new = before.tokenizer().vocabulary(), after.tokenizer().vocabulary()
    return {
        "count": [len(old), len(new)],
        "moved": sum(old[token] != new[token] for token in old.keys() & new.keys()),
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
    }


def _lists(before: list[str], after: list[str]) -> Data:
    """``count``: [before, after], entries ``added`` and ``removed``, and whether the rest has another ``order``."""
    if before == after:
        return {}
    old, new = set(before), set(after)
    return {
        "count": [len(before), len(after)],
        "added": [one for one in after if one not in old],
        "removed": [one for one in before if one not in new],
        "order": [one for one in before if one in new] != [one for one in after if one in old],
    }


def _beside(before: Bundle, after: Bundle) -> list[str]:
    """Where one is a variant of the other, how far it is from that, as it was measured when it was made."""
    for variant, other in ((after, before), (before, after)):
        report = read_report(variant.folder / variant.manifest.parity_report)
        if report is not None and report.beside is not None and report.beside.of.fingerprint == other.fingerprint:
            return told_beside(report.beside)
    return []


def _accuracy(before: Mapping[str, float], after: Mapping[str, float]) -> list[Data]:
    rows = []
    for metric in [*before, *(one for one in after if one not in before)]:
        old, new = before.get(metric), after.get(metric)
        delta = None if old is None or new is None else round(new - old, 6)
        rows.append({"metric": metric, "before": old, "after": new, "delta": delta})
    return rows
