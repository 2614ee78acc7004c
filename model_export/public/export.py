"""Public model in, verified bundle out."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import onnx

from model_export.assemble import (
    ANSWERS_NAME,
    CARD_NAME,
    PARITY_NAME,
    TOKENIZER_NAME,
    Log,
    check_name,
    finish,
    no_log,
    replace_bundle,
    write_draft,
)
from model_export.graphs import OPSET, export_graph
from model_export.parity.checks import FLOAT32, REDUCED, ParityReport, Tolerance, check_outputs, random_cases
from model_export.public.agreement import LIBRARY, check_agreement
from model_export.public.card import public_card
from model_export.public.families import open_public
from model_export.public.folder import NO_TERMS, licence_of_folder
from model_export.public.hub import Found
from model_export.public.model import PublicModel
from model_export.weights import Precision, store
from vitascope.bundle.manifest import GraphName
from vitascope.errors import InvalidInput
from vitascope.model import Model

FRAMES = 8
"""Of a clip, for models that know pictures only."""
MOST_FRAMES = 256


@dataclass(frozen=True)
class _Job:
    name: str
    version: str
    licence: str
    found: Found
    precision: Precision
    seed: int
    log: Log


def export_public(
    found: Found,
    out: Path,
    *,
    name: str | None = None,
    version: str = "1.0.0",
    precision: Precision = "float32",
    licence: str | None = None,
    seed: int | None = None,
    frames: int | None = None,
    allow_pickle: bool = False,
    answers: Sequence[str] | None = None,
    log: Log = no_log,
) -> Path:
    """Export the public model that was ``found`` as a bundle at ``out``; returns ``out``.

    frames: of a clip, for models of pictures (default 8). licence: default what the model's README.md states.
    allow_pickle: read weights that are pickles, where there are no others. answers: out of which a model that weighs
    any answers chooses where none are given to it (default: none, so that each question must bring its own).

    Raises ParityError when the bundle does not give what the original library gives, InvalidInput for what cannot be
    exported; in both cases no bundle is written and one that was at ``out`` stays as it was.
    """
    check_name(name or out.name)
    if frames is not None and not 1 <= frames <= MOST_FRAMES:
        raise InvalidInput(f"frames: {frames}; 1 to {MOST_FRAMES} was expected")
    log(f"opening {found.name}")
    model = open_public(found.folder, frames or FRAMES, allow_pickle=allow_pickle, answers=answers)
    for note in model.notes:
        log(f"chosen: {note}")
    terms = licence or licence_of_folder(found.folder)
    if terms is None:
        log(f"licence: {NO_TERMS} (--licence states them)")
    job = _Job(
        name=name or out.name,
        version=version,
        licence=terms or NO_TERMS,
        found=found,
        precision=precision,
        seed=secrets.randbits(32) if seed is None else seed,
        log=log,
    )
    with replace_bundle(out) as folder:
        log("exporting graphs (torch to ONNX)")
        graphs = {spec.name: export_graph(spec, model) for spec in model.specs}
        _write(job, model, graphs, folder)
    return out


def _write(job: _Job, model: PublicModel, graphs: Mapping[GraphName, onnx.ModelProto], folder: Path) -> None:
    """The bundle's files, after every comparison at float32 and at the precision that is kept."""
    reduced = job.precision != "float32"
    report = ParityReport(
        model=job.name,
        precision=job.precision,
        seed=job.seed,
        versions=_versions(model),
        tolerances={"float32": FLOAT32, "original library": LIBRARY} | ({job.precision: REDUCED} if reduced else {}),
        outputs=[],
        recall=[],
    )
    if reduced:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as whole:
            report = _checked(job, model, graphs, Path(whole), "float32", (FLOAT32, LIBRARY), report)
    tolerances = (REDUCED, REDUCED) if reduced else (FLOAT32, LIBRARY)
    report = _checked(job, model, graphs, folder, job.precision, tolerances, report)
    fields, written = _fields(job, model, job.precision), report.model_dump_json(indent=1) + "\n"
    finish(folder, fields, written, lambda draft: public_card(draft, report, job.found.name, model.notes))


def _checked(
    job: _Job,
    model: PublicModel,
    graphs: Mapping[GraphName, onnx.ModelProto],
    folder: Path,
    precision: Precision,
    tolerances: tuple[Tolerance, Tolerance],
    report: ParityReport,
) -> ParityReport:
    """Store the graphs at one precision; the report with what was compared. Raises ParityError.

    ``tolerances``: towards the graphs in torch, and towards the original library.
    """
    job.log(f"checking graphs with weights stored as {precision}")
    files = store(graphs, folder, precision)
    paths = {graph: folder / file for graph, file in files.items()}
    cases = random_cases(model.specs, model, job.seed)
    outputs = check_outputs(model.specs, paths, cases, precision, tolerances[0])
    write_draft(folder, _fields(job, model, precision), model.tokenizer_json.encode(), model.answers, {})
    job.log(f"comparing with the original library, weights stored as {precision}")
    outputs += check_agreement(Model.open(folder, device="cpu"), model.original, precision, tolerances[1])
    return report.model_copy(update={"outputs": [*report.outputs, *outputs]})


def _fields(job: _Job, model: PublicModel, precision: Precision) -> dict[str, Any]:
    return {
        "name": job.name,
        "version": job.version,
        "architecture": model.architecture,
        "tasks": model.tasks,
        "streams": model.streams(),
        "graphs": {spec.name: f"{spec.name}.onnx" for spec in model.specs},
        "vector_width": model.vector_width,
        "visual_tokens": model.visual_tokens,
        "visual_width": model.visual_width,
        "text_length": model.text_length,
        "temperature": model.temperature,
        "logit_bias": model.logit_bias,
        "tokenizer": TOKENIZER_NAME,
        "answers": ANSWERS_NAME if model.answers else None,
        "answer_length": model.answer_length,
        "model_card": CARD_NAME,
        "parity_report": PARITY_NAME,
        "calibration": model.calibration,
        "precision": precision,
        "training_data": [f"as stated by the authors of {job.found.name}"],
        "licence": job.licence,
        "extra": {
            "public_model": {
                "source": job.found.name,
                "revision": job.found.revision,
                "chosen": model.notes,
                "versions": _versions(model),
                "config": model.config,
            }
        },
    }


def _versions(model: PublicModel) -> dict[str, str]:
    return {p: package_version(p) for p in ("torch", "onnx", "onnxruntime")} | {"opset": str(OPSET)} | model.versions
