"""A bundle as a model repository of Triton: one model for each graph, which shares the bundle's files where it can."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_export.targets.triton_config import ONES, VERSION, Serving, model_config
from vitascope.bundle.bundle import Bundle, file_sha256
from vitascope.bundle.graph_spec import graph_of
from vitascope.bundle.onnx_external_data import external_files
from vitascope.engines.graphs import Graphs
from vitascope.errors import BundleUnsupported, InvalidInput, StorageError
from vitascope.integrations.kserve.address import served_name

GRAPH_NAME = "model.onnx"
SUMS_NAME = "SHA256SUMS"
_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Written:
    """One model of the repository. ``bytes``: of its files; ``linked``: whether they are the bundle's own."""

    graph: str
    name: str
    bytes: int
    linked: bool


def write_repository(bundle: Bundle, out: Path, serving: Serving, *, copy: bool = False) -> list[Written]:
    """Put the models of ``bundle`` into the repository ``out``, beside others that are there.

    Each appears whole, in place of one of its name. Files are hard links to those of the bundle unless ``copy`` is set
    or another file system needs copies, whose SHA-256 are then compared. Raises BundleUnsupported, BundleCorrupt,
    EngineError, InvalidInput for an ``out`` that is no folder, and StorageError.
    """
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"out: {str(out)!r} is no folder; a model repository, or nothing, was expected")
    graphs = Graphs(bundle, threads=1, device="cpu")
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [_write_model(bundle, graphs, graph, out, serving, copy) for graph in graphs.names]
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error}") from error


def _write_model(bundle: Bundle, graphs: Graphs, graph: str, out: Path, serving: Serving, copy: bool) -> Written:
    stated = bundle.manifest
    name = served_name(stated, graph)
    inputs, outputs = graph_of(bundle, graph)
    found = graphs.engine(graph).outputs
    config = model_config(
        name, inputs, {key: found[key] for key in outputs}, stated.text_length, bundle.fingerprint, serving
    )
    # Outside of the repository: Triton may be looking into it.
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.resolve().parent))
    try:
        sums, linked = {}, True
        for source, target in _files(bundle, graph).items():
            place = f"{VERSION}/{target}"
            linked &= _put(bundle.folder / source, part / place, stated.files[source].sha256, copy)
            sums[place] = stated.files[source]
        if "attention_mask" in inputs:
            (part / "warmup").mkdir()
            (part / "warmup" / ONES).write_bytes(np.ones(stated.text_length, "<i8").tobytes())
        (part / SUMS_NAME).write_text("".join(f"{entry.sha256}  {place}\n" for place, entry in sorted(sums.items())))
        (part / "config.pbtxt").write_text(
            f"# {stated.name} {stated.version}, graph {graph}. Written by `vitascope triton`.\n{config}", "utf-8"
        )
        part.chmod(0o755)
        _place(part, out / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Written(graph, name, sum(entry.bytes for entry in sums.values()), linked)


def _files(bundle: Bundle, graph: str) -> dict[str, str]:
    """What a graph is made of: the bundle's file, and its name beside the graph, as the graph says it."""
    name = bundle.manifest.graphs[graph]  # type: ignore[index]
    files = {name: GRAPH_NAME}
    for location in sorted(external_files(bundle.folder / name)):
        inside = posixpath.normpath(location)
        if inside.startswith("..") or inside == GRAPH_NAME:
            raise BundleUnsupported(
                f"{name}: reads weights from {location!r}; a file below its own folder was expected"
            )
        files[posixpath.normpath(posixpath.join(posixpath.dirname(name), location))] = inside
    return files


def _put(source: Path, target: Path, sha256: str, copy: bool) -> bool:
    """Link or copy a file; whether it was linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()
    if not copy:
        try:
            os.link(real, target)
            return True
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
    shutil.copyfile(real, target)
    if file_sha256(target) != sha256:
        raise StorageError(f"{target.name}: the copy has another SHA-256 than the bundle states; nothing was written")
    return False


def _place(part: Path, target: Path) -> None:
    """The folder ``part`` as ``target``, in place of what is there."""
    if target.exists():
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=part.parent) as old:
            target.rename(Path(old) / target.name)
            part.rename(target)
    else:
        part.rename(target)
