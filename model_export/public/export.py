"""Export a public model as a verified bundle."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    markdown_table,
    no_log,
    replace_bundle,
    write_draft,
)
from model_export.card import describe_audio, describe_size, describe_streams, parity_table
from model_export.graphs import export_specs
from model_export.parity.cases import random_cases
from model_export.parity.checks import (
    FLOAT32,
    REDUCED,
    ParityReport,
    check_outputs,
    export_versions,
    tolerances_for,
)
from model_export.public.families import ModelSource, open_public, read_licence
from model_export.public.library_parity import LIBRARY, check_library_parity
from model_export.public.model import PublicModel
from model_export.weights import Precision, store
from vitascope.bundle.manifest import GraphName, Manifest
from vitascope.bundle.parity_report import Bounds
from vitascope.errors import InvalidInput
from vitascope.model import Model

DEFAULT_FRAMES = 8
MAX_FRAMES = 256
NO_LICENCE = "Not stated by the model's folder; its authors' terms apply"


@dataclass(frozen=True)
class _Job:
    """Inputs of one export."""

    name: str
    version: str
    licence: str
    source: ModelSource
    precision: Precision
    seed: int
    log: Log


def export_public(
    source: ModelSource,
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
    """Export a public model as a bundle. After an error no bundle is written, and an existing bundle is unchanged.

    Args:
        source: Folder of the model.
        out: Folder of the bundle.
        name: Name of the bundle; None: the folder name of `out`.
        version: Version of the bundle.
        precision: Precision of the stored weights.
        licence: Licence of the bundle; None: as stated in the model's README.md.
        seed: Seed of the random parity inputs; None: random.
        frames: Number of frames per clip, for image models; None: 8.
        allow_pickle: Read pickled weights, with a reader that runs no code.
        answers: Default answers of a model that scores any answer; None: each request must contain candidate answers.
        log: Called with progress messages.

    Returns:
        `out`.

    Raises:
        ParityError: The results of the bundle differ from those of the original library.
        InvalidInput: The model cannot be exported.
    """
    check_name(name or out.name)
    if frames is not None and not 1 <= frames <= MAX_FRAMES:
        raise InvalidInput(f"frames: {frames}; 1 to {MAX_FRAMES} was expected")
    log(f"loading {source.name}")
    model = open_public(source.folder, frames or DEFAULT_FRAMES, allow_pickle=allow_pickle, answers=answers)
    expected = {stream.frames for stream in model.frame_streams}
    if frames is not None and frames not in expected:
        raise InvalidInput(f"frames: {frames}; {min(expected, default='none')} was expected, as the model decides")
    for note in model.notes:
        log(f"note: {note}")
    terms = licence or read_licence(source.folder)
    if terms is None:
        log(f"licence: {NO_LICENCE} (set it with --licence)")
    job = _Job(
        name=name or out.name,
        version=version,
        licence=terms or NO_LICENCE,
        source=source,
        precision=precision,
        seed=secrets.randbits(32) if seed is None else seed,
        log=log,
    )
    with replace_bundle(out) as folder:
        log("exporting graphs (torch to ONNX)")
        graphs = export_specs(model.specs, model)
        _write(job, model, graphs, folder)
    return out


def _write(job: _Job, model: PublicModel, graphs: Mapping[GraphName, onnx.ModelProto], folder: Path) -> None:
    """Write the bundle after all checks, in float32 and at the requested precision."""
    is_reduced = job.precision != "float32"
    report = ParityReport(
        model=job.name,
        precision=job.precision,
        seed=job.seed,
        versions=export_versions() | model.versions,
        tolerances=tolerances_for(job.precision) | {"original library": LIBRARY},
        outputs=[],
        recall=[],
    )
    if is_reduced:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as float_folder:
            report = _check(job, model, graphs, Path(float_folder), "float32", (FLOAT32, LIBRARY), report)
    tolerances = (REDUCED, REDUCED) if is_reduced else (FLOAT32, LIBRARY)
    report = _check(job, model, graphs, folder, job.precision, tolerances, report)
    fields = _manifest_fields(job, model, job.precision)
    finish(folder, fields, report.to_json(), lambda draft: _card(draft, report, job.source.name, model.notes))


def _check(
    job: _Job,
    model: PublicModel,
    graphs: Mapping[GraphName, onnx.ModelProto],
    folder: Path,
    precision: Precision,
    tolerances: tuple[Bounds, Bounds],
    report: ParityReport,
) -> ParityReport:
    """Store the graphs at one precision and compare them; returns the extended report. Raises ParityError.

    Args:
        tolerances: towards the torch modules, and towards the original library.
    """
    job.log(f"checking graphs with {precision}")
    files = store(graphs, folder, precision)
    paths = {graph: folder / file for graph, file in files.items()}
    cases = random_cases(model.specs, model, job.seed)
    outputs = check_outputs(model.specs, paths, cases, precision, tolerances[0])
    fields = _manifest_fields(job, model, precision)
    write_draft(folder, fields, model.tokenizer_json.encode(), model.answers, {})
    job.log(f"comparing with the original library with {precision}")
    outputs += check_library_parity(Model.open(folder, device="cpu"), model.reference, precision, tolerances[1])
    return report.model_copy(update={"outputs": [*report.outputs, *outputs]})


def _manifest_fields(job: _Job, model: PublicModel, precision: Precision) -> dict[str, Any]:
    return {
        "name": job.name,
        "version": job.version,
        "architecture": model.architecture,
        "tasks": model.tasks,
        "streams": model.streams(),
        "graphs": {spec.name: f"{spec.name}.onnx" for spec in model.specs},
        "audio": model.audio_stream(),
        "captions": model.captions,
        "vector_width": model.vector_width,
        "matryoshka_dimensions": model.matryoshka_dimensions,
        "prompts": model.prompts,
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
        "training_data": [f"as stated by the authors of {job.source.name}"],
        "licence": job.licence,
        "extra": {
            "public_model": {
                "source": job.source.name,
                "revision": job.source.revision,
                "chosen": model.notes,
                "versions": export_versions() | model.versions,
                "config": model.config,
            }
        },
    }


def _card(manifest: Manifest, report: ParityReport, source: str, notes: Sequence[str]) -> str:
    rows = [
        ["tasks", ", ".join(manifest.tasks)],
        ["frames of a clip", describe_streams(manifest) or "none"],
        *([["sound of a clip", describe_audio(manifest.audio)]] if manifest.audio else []),
        ["embedding", f"{manifest.vector_width} dimensions, length 1" if manifest.vector_width else "none"],
        ["text", f"at most {manifest.text_length} tokens"],
        *([["captions", f"at most {manifest.captions.max_tokens} tokens"]] if manifest.captions else []),
        ["temperature", f"{manifest.temperature:g}, bias {manifest.logit_bias:g}"],
        ["size", describe_size(manifest)],
        ["licence", manifest.licence],
    ]
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"The public model {source} ({manifest.architecture}), exported for Vitascope. Training data, accuracy and",
        "restrictions on its use are on its authors' own card, which applies here too.",
        "",
        *markdown_table(["", ""], rows),
        "",
        "## Export settings",
        "",
        *(f"- {note}" for note in notes),
        "",
        "## Fidelity",
        "",
        "Each graph was compared with the torch model (parity.json) on random inputs, and the bundle's results for",
        "texts, image files and sounds with those of the model's own library, tokenizer and processor where it has",
        "them.",
        "",
        *parity_table(report.outputs),
    ]
    return "\n".join([*lines, ""])
