"""Verification of a bundle: files, signatures, graphs, test runs and parity report; reports all problems."""

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
from vitascope.bundle.graph_specs import random_inputs
from vitascope.bundle.manifest import CHECKSUM_NAME, MANIFEST_NAME, SIGNATURE_NAME, Manifest
from vitascope.bundle.onnx_files import Tensor, read_graph
from vitascope.bundle.parity_report import ParityReport, bound_violations, describe_variant, read_report
from vitascope.bundle.signing import PublicKey, read_signatures, require_trusted
from vitascope.engines.onnx_runtime import Array, Device
from vitascope.errors import BundleError, BundleNotFound, EngineError
from vitascope.model import Model

Part = Literal["manifest", "signature", "file", "tokenizer", "answers", "graph", "weights", "run", "parity"]
_PARTS_BEFORE_RUNS = ("manifest", "file", "graph", "weights")
_NORM_TOLERANCE = 1e-3
_SEED = 0


@dataclass
class Verification:
    """Result of ``verify``.

    Attributes:
        passed: Number of passed checks by part.
        problems: (part, file, message) of each failed check.
        notes: (file, message) of observations that are not problems.
        signatures: For each signature ``key`` (id), ``comment`` and ``valid``: None if its public key is unknown.
        manifest: The manifest, if it is valid.
    """

    passed: Counter[Part] = field(default_factory=Counter)
    problems: list[tuple[Part, str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    signatures: list[dict[str, Any]] = field(default_factory=list)
    manifest: Manifest | None = None

    @contextmanager
    def checking(self, part: Part, file: str) -> Iterator[None]:
        """Run the block as one check: record that it passed, or its error as a problem; BundleNotFound propagates."""
        before = len(self.problems)
        try:
            yield
        except BundleNotFound:
            raise
        except (BundleError, EngineError, MemoryError) as error:
            self.add_problem(part, file, str(error).removeprefix(f"{file}: "))
        self.passed[part] += len(self.problems) == before

    def add_problem(self, part: Part, file: str, message: str) -> None:
        self.problems.append((part, file, message))

    @property
    def damaged_files(self) -> set[str]:
        """Files with problems, which must not be parsed."""
        return {file for part, file, _ in self.problems if part in _PARTS_BEFORE_RUNS}


def verify(
    folder: Path, keys: Sequence[PublicKey] | None = None, *, threads: int = 0, device: Device = "auto"
) -> Verification:
    """Check all files, signatures, graphs and reports of a bundle. Damaged files are not parsed.

    Args:
        folder: Folder of the bundle.
        keys: Public keys, one of which must have signed the manifest; otherwise nothing else is checked. None: no
            signature is required.
        threads: Threads of test runs; 0: one per core.
        device: Device of test runs.

    Raises:
        BundleNotFound: No bundle at ``folder``.

    Returns:
        The result of all checks; other errors are problems in it.
    """
    report = Verification()
    with report.checking("manifest", MANIFEST_NAME):
        content = manifest_bytes(folder)
        _check_signatures(report, folder, content, keys)
        if keys is None or not report.problems:
            report.manifest = parse_manifest(content)
    if report.manifest is None:
        return report
    for name, entry in sorted(report.manifest.files.items()):
        with report.checking("file", name):
            check_file(folder, name, entry)
    _note_unlisted(report, folder, report.manifest)
    for graph in sorted(report.manifest.graphs):
        _check_graph(report, folder, graph, report.manifest)
    _check_parity(report, folder, report.manifest)
    _check_runs(report, folder, report.manifest, threads, device)
    return report


def _check_signatures(report: Verification, folder: Path, content: bytes, keys: Sequence[PublicKey] | None) -> None:
    with report.checking("signature", SIGNATURE_NAME):
        for signature in read_signatures(folder):
            known = [key for key in keys or () if key.key_id == signature.key_id]
            valid = any(signature.is_valid(content, key) for key in known) if known else None
            report.signatures.append({"key": signature.key_id_hex, "valid": valid, "comment": signature.comment})
        if keys is not None:
            require_trusted(folder, content, keys)
    if keys is None and not report.signatures:
        del report.passed["signature"]
    for entry in report.signatures:
        if entry["valid"] is None and keys is not None:
            report.notes.append((SIGNATURE_NAME, f"also signed by {entry['key']}, whose public key was not given"))
        if entry["valid"] is False and not report.problems:
            report.notes.append((SIGNATURE_NAME, f"the signature by {entry['key']} is not of this manifest"))


def _note_unlisted(report: Verification, folder: Path, manifest: Manifest) -> None:
    listed = {posixpath.normpath(name) for name in manifest.files} | {MANIFEST_NAME, CHECKSUM_NAME, SIGNATURE_NAME}
    present = set()
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        present |= {(relative / name).as_posix() for name in [*files, *links]}
    report.notes += [(name, "not listed in the manifest, so not verified") for name in sorted(present - listed)]


def _check_graph(report: Verification, folder: Path, graph: str, manifest: Manifest) -> None:
    """Check that a graph is readable, and that its external weights are in listed files with the right sizes."""
    name = next(file for key, file in manifest.graphs.items() if key == graph)
    if name in report.damaged_files:
        return
    with report.checking("graph", name):
        check_external(folder, graph, manifest)
        external = [tensor for tensor in read_graph(folder / name).tensors if tensor.location is not None]
    if name in report.damaged_files:
        return
    for location in sorted({tensor.location or "" for tensor in external}):
        file = posixpath.normpath(posixpath.join(posixpath.dirname(name), location))
        if file in report.damaged_files:
            continue
        size = (folder / file).stat().st_size
        tensors = [tensor for tensor in external if tensor.location == location]
        errors = [error for tensor in tensors if (error := _placement_error(tensor, size))]
        for error in errors:
            report.add_problem("weights", file, f"{name}: {error}")
        report.passed["weights"] += not errors


def _placement_error(tensor: Tensor, size: int) -> str | None:
    """Return an error message if a tensor does not fit into an external file of ``size`` bytes."""
    length = size - tensor.offset if tensor.length is None else tensor.length
    end = tensor.offset + length
    if tensor.offset < 0 or length < 0 or end > size:
        return f"tensor {tensor.name!r} lies at bytes {tensor.offset} to {end}; the file has {size}"
    if tensor.bytes is not None and tensor.bytes != length:
        return f"tensor {tensor.name!r} has {length} bytes; {tensor.bytes} were expected of {tensor.signature}"
    return None


def _check_parity(report: Verification, folder: Path, manifest: Manifest) -> None:
    name = manifest.parity_report
    if name in report.damaged_files:
        return
    with report.checking("parity", name):
        parity = read_report(folder / name)
        if parity is None:
            report.notes.append((name, "its format is unknown, so its bounds were not checked"))
            return
        for sentence in bound_violations(parity):
            report.add_problem("parity", name, sentence)
        _check_origin(report, name, manifest, parity)
        compared = {output.graph for output in parity.outputs}
        reference = "the trained model"
        if parity.variant is not None:
            report.notes += [(name, sentence) for sentence in describe_variant(parity.variant)]
            compared |= {output.graph for output in parity.variant.outputs} | {*parity.variant.unchanged}
            reference = "the trained model or the source bundle"
        if missing := sorted(set(manifest.graphs) - compared):
            report.notes.append((name, f"has no comparison of {', '.join(missing)} with {reference}"))


def _check_origin(report: Verification, name: str, manifest: Manifest, parity: ParityReport) -> None:
    """Check that the report of a variant compares it with the source bundle of the manifest."""
    origins = [manifest.extra.get(key) for key in ("variant_of", "distilled_from")]
    origin = next((value for value in origins if value), None)
    if not isinstance(origin, dict):
        return
    label = f"{origin.get('name')} {origin.get('version')}"
    if parity.variant is None:
        report.notes.append(
            (name, f"has no comparison with {label}, the source of this bundle; its numbers may be of the source")
        )
    elif parity.variant.of.fingerprint != origin.get("fingerprint"):
        message = f"compares with {parity.variant.of.label}; {label} of the manifest was expected"
        report.add_problem("parity", name, message)


def _check_runs(report: Verification, folder: Path, manifest: Manifest, threads: int, device: Device) -> None:
    """Run every graph on random inputs, small and large; outputs must be finite and have the manifest's shapes."""
    if report.damaged_files:
        report.notes.append((MANIFEST_NAME, "graphs were not run, since files are damaged"))
        return
    bundle = Bundle(folder, manifest)
    before = len(report.problems)
    if manifest.answers is not None:
        with report.checking("answers", manifest.answers):
            _ = bundle.answers
    with report.checking("tokenizer", manifest.tokenizer):
        bundle.tokenizer()
    if len(report.problems) > before:
        return
    model, rng = Model(bundle, threads, device), np.random.default_rng(_SEED)
    vocabulary = model.tokenizer.vocabulary_size
    for graph, file in sorted(manifest.graphs.items()):
        with report.checking("run", file):
            for rows, clips, length in ((1, 1, 2), (2, 2, manifest.text_length)):
                if graph == "moments" and manifest.moments is not None:
                    length = min(length, manifest.moments.max_windows)
                if graph == "caption_step" and manifest.captions is not None:
                    length = min(length, manifest.captions.max_tokens // 2)
                if graph == "caption_prefill" and manifest.audio is not None:
                    length = min(length, manifest.audio.tokens)
                inputs = random_inputs(bundle.graph_spec(graph)[0], rng, vocabulary, rows, clips, length)
                _check_norms(graph, model.run_graph(graph, inputs))


def _check_norms(graph: str, outputs: dict[str, Array]) -> None:
    if "vector" not in outputs:
        return
    norms = np.linalg.norm(outputs["vector"].astype(np.float64), axis=1)
    worst = float(norms[np.abs(norms - 1).argmax()])
    if not abs(worst - 1) <= _NORM_TOLERANCE:
        raise EngineError(f"{graph}: an embedding has norm {worst:g}; 1 was expected")
