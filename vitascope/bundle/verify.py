"""Does a bundle hold? Everything is looked at, and everything that is wrong is told, file by file."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitascope.bundle.bundle import Bundle, check_external, check_file, manifest_bytes, parse_manifest
from vitascope.bundle.manifest import CHECKSUM_NAME, MANIFEST_NAME, SIGNATURE_NAME, Manifest
from vitascope.bundle.onnx_reader import Tensor, read_graph
from vitascope.bundle.parity_report import ParityReport, broken_bounds, read_report, told_beside
from vitascope.bundle.random_inputs import random_inputs
from vitascope.bundle.signing.keys import PublicKey
from vitascope.bundle.signing.signatures import read_signatures, require_trusted
from vitascope.engines.onnx_runtime import Array, Device
from vitascope.errors import BundleError, BundleNotFound, EngineError
from vitascope.model import Model

Part = Literal["manifest", "signature", "file", "tokenizer", "answers", "graph", "weights", "run", "parity"]
_BEFORE_RUNS = ("manifest", "file", "graph", "weights")
LENGTH_TOLERANCE = 1e-3
"""Of vectors, whose length is 1."""
SEED = 0


@dataclass
class Verification:
    """``held``: how many of each part were found right. ``problems``: (part, file, what was found and expected).
    ``remarks``: (file, what else should be known); they are no problems. ``signatures``: for each, ``key``,
    ``comment``, and ``valid``, which is null where its key is not among those given.
    """

    held: Counter[Part] = field(default_factory=Counter)
    problems: list[tuple[Part, str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    signatures: list[dict[str, Any]] = field(default_factory=list)
    manifest: Manifest | None = None

    @contextmanager
    def looking_at(self, part: Part, file: str) -> Iterator[None]:
        """Notes how it ends: a BundleError or EngineError is a problem of this part. BundleNotFound is none of it."""
        before = len(self.problems)
        try:
            yield
        except BundleNotFound:
            raise
        except (BundleError, EngineError) as error:
            self.problem(part, file, str(error).removeprefix(f"{file}: "))
        self.held[part] += len(self.problems) == before

    def problem(self, part: Part, file: str, words: str) -> None:
        self.problems.append((part, file, words))

    @property
    def broken(self) -> set[str]:
        """Files that are not to be parsed, since something about them is wrong already."""
        return {file for part, file, _ in self.problems if part in _BEFORE_RUNS}


def verify(
    folder: Path, keys: Sequence[PublicKey] | None = None, *, threads: int = 0, device: Device = "auto"
) -> Verification:
    """Look at everything in the bundle in ``folder``; what is damaged is not parsed.

    ``keys``: one of them must have signed it; where none did, nothing else is looked at.

    Raises BundleNotFound where there is no bundle.
    """
    found = Verification()
    with found.looking_at("manifest", MANIFEST_NAME):
        content = manifest_bytes(folder)
        _check_signatures(found, folder, content, keys)
        if keys is None or not found.problems:
            found.manifest = parse_manifest(content)
    if found.manifest is None:
        return found
    for name, entry in sorted(found.manifest.files.items()):
        with found.looking_at("file", name):
            check_file(folder, name, entry)
    _remark_unlisted(found, folder, found.manifest)
    for graph in sorted(found.manifest.graphs):
        _check_graph(found, folder, graph, found.manifest)
    _check_parity(found, folder, found.manifest)
    _check_runs(found, folder, found.manifest, threads, device)
    return found


def _check_signatures(found: Verification, folder: Path, content: bytes, keys: Sequence[PublicKey] | None) -> None:
    with found.looking_at("signature", SIGNATURE_NAME):
        for one in read_signatures(folder):
            known = [key for key in keys or () if key.number == one.number]
            valid = any(one.holds(content, key) for key in known) if known else None
            found.signatures.append({"key": one.key_id, "valid": valid, "comment": one.comment})
        if keys is not None:
            require_trusted(folder, content, keys)
    if keys is None and not found.signatures:
        del found.held["signature"]  # nobody asked for one, and there is none
    for signature in found.signatures:
        if signature["valid"] is None and keys is not None:
            found.remarks.append((SIGNATURE_NAME, f"signed by {signature['key']}, too, whose key was not given"))
        if signature["valid"] is False and not found.problems:
            found.remarks.append((SIGNATURE_NAME, f"the signature by {signature['key']} is not of this manifest"))


def _remark_unlisted(found: Verification, folder: Path, manifest: Manifest) -> None:
    known = {posixpath.normpath(name) for name in manifest.files} | {MANIFEST_NAME, CHECKSUM_NAME, SIGNATURE_NAME}
    there = set()
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder)
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        there |= {(below / name).as_posix() for name in [*files, *links]}
    found.remarks += [(name, "is not listed in the manifest: nothing vouches for it") for name in sorted(there - known)]


def _check_graph(found: Verification, folder: Path, graph: str, manifest: Manifest) -> None:
    """That it can be read, and that the weights which it reads from other files are there, as long as they must be."""
    name = next(file for key, file in manifest.graphs.items() if key == graph)
    if name in found.broken:
        return
    with found.looking_at("graph", name):
        check_external(folder, graph, manifest)
        outside = [tensor for tensor in read_graph(folder / name).tensors if tensor.location is not None]
    if name in found.broken:
        return
    for location in sorted({tensor.location or "" for tensor in outside}):
        file = posixpath.normpath(posixpath.join(posixpath.dirname(name), location))
        if file in found.broken:
            continue
        size = (folder / file).stat().st_size
        faults = [fault for one in outside if one.location == location and (fault := _misplaced(one, size))]
        for fault in faults:
            found.problem("weights", file, f"{name}: {fault}")
        found.held["weights"] += not faults


def _misplaced(tensor: Tensor, size: int) -> str | None:
    """What is wrong with where a tensor lies in a file of this size; None where nothing is."""
    length = size - tensor.offset if tensor.length is None else tensor.length
    end = tensor.offset + length
    if tensor.offset < 0 or length < 0 or end > size:
        return f"tensor {tensor.name!r} lies at bytes {tensor.offset} to {end}; the file has {size}"
    if tensor.bytes is not None and tensor.bytes != length:
        return f"tensor {tensor.name!r} has {length} bytes; {tensor.bytes} were expected of {tensor.written}"
    return None


def _check_parity(found: Verification, folder: Path, manifest: Manifest) -> None:
    name = manifest.parity_report
    if name in found.broken:
        return
    with found.looking_at("parity", name):
        report = read_report(folder / name)
        if report is None:
            found.remarks.append((name, "is a report of another form: whether it keeps to bounds is not known"))
            return
        for sentence in broken_bounds(report):
            found.problem("parity", name, sentence)
        _check_origin(found, name, manifest, report)
        compared = {one.graph for one in report.outputs}
        against = "the trained model"
        if report.beside is not None:
            found.remarks += [(name, sentence) for sentence in told_beside(report.beside)]
            compared |= {one.graph for one in report.beside.outputs} | {*report.beside.unchanged}
            against = "those of either"
        missing = sorted(set(manifest.graphs) - compared)
        if missing:
            found.remarks.append((name, f"states no comparison of {', '.join(missing)} with {against}"))


def _check_origin(found: Verification, name: str, manifest: Manifest, report: ParityReport) -> None:
    """The bundle that a variant says it was made of is the one that its report compares it with."""
    stated = next((one for key in ("variant_of", "distilled_from") if (one := manifest.extra.get(key))), None)
    if not isinstance(stated, dict):
        return
    of, beside = f"{stated.get('name')} {stated.get('version')}", report.beside
    if beside is None:
        found.remarks.append(
            (name, f"says nothing of {of}, which this bundle was made of; its numbers may be of that bundle's graphs")
        )
    elif beside.of.fingerprint != stated.get("fingerprint"):
        found.problem("parity", name, f"compares with {beside.of.words}; {of} of the manifest was expected")


def _check_runs(found: Verification, folder: Path, manifest: Manifest, threads: int, device: Device) -> None:
    """Every graph on inputs by chance, small and large: what comes must be finite and as the manifest states it."""
    if found.broken:
        found.remarks.append((MANIFEST_NAME, "graphs were not run, since files are damaged"))
        return
    bundle = Bundle(folder, manifest)
    before = len(found.problems)
    if manifest.answers is not None:
        with found.looking_at("answers", manifest.answers):
            _ = bundle.answers
    with found.looking_at("tokenizer", manifest.tokenizer):
        bundle.tokenizer()
    if len(found.problems) > before:
        return
    model, rng = Model(bundle, threads, device), np.random.default_rng(SEED)
    for graph, file in sorted(manifest.graphs.items()):
        with found.looking_at("run", file):
            for rows, clips, length in ((1, 1, 2), (2, 2, manifest.text_length)):
                inputs = random_inputs(bundle, graph, rng, rows=rows, clips=clips, length=length)
                _check_length(graph, model.run_graph(graph, inputs))


def _check_length(graph: str, outputs: dict[str, Array]) -> None:
    if "vector" not in outputs:
        return
    lengths = np.linalg.norm(outputs["vector"].astype(np.float64), axis=1)
    worst = float(lengths[np.abs(lengths - 1).argmax()])
    if not abs(worst - 1) <= LENGTH_TOLERANCE:
        raise EngineError(f"{graph}: a vector came out of length {worst:g}; length 1 was expected")
