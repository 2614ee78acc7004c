"""Distillation of a bundle into a smaller video encoder: pack, run the teacher, train and export.

Intermediate results are stored in a work folder, so that repeating the call resumes the distillation:
    data/films/  the clips of a folder of unlabelled videos
    teacher/     the teacher's outputs for every clip
    run/         checkpoint, log and curves
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_export.assemble import Log, check_target
from model_export.export import MAX_EXAMPLES
from model_export.optimize.replace_video import VideoExport, VideoReplacement, export_with_video
from model_export.sources import STARTS, corpus_source, pack_clips
from model_export.weights import Precision
from training import checkpoint
from training.data.own_clips import UNLABELLED_ORIGIN, unlabelled_clips
from training.data.packed import PACK_NAME, open_packed
from training.distillation.loop import DistillData, distil, load_student
from training.distillation.recipe import DistilRecipe
from training.distillation.student import InitFrom, Space
from training.distillation.teacher import TeacherOutputs, compute_teacher_outputs
from training.initialization import load_initial_model
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import FrameStream
from vitascope.bundle.parity_report import SourceBundle
from vitascope.cli.output import ProgressBar
from vitascope.errors import InvalidInput
from vitascope.model import Model

VIDEOS_CORPUS = "films"
"""Name of the corpus made from a folder of unlabelled videos."""


@dataclass(frozen=True)
class DistilOptions:
    """Options of a distillation; either `data` or `videos` is required.

    Attributes:
        teacher: Bundle of the teacher.
        recipe: Recipe of the student.
        out: Folder of the bundle to write.
        work: Folder for intermediate results.
        name, version: Name and version of the bundle to write.
        data: Folder of packed corpora; their splits train and val are used.
        corpora: Names of corpora; empty: all that have a split train.
        videos: Folder of unlabelled videos.
        clip_seconds: Length of clips of these videos.
        limit: Maximum number of clips per corpus.
        init_from: Initial weights of the student; None: the teacher's if available, else the pretrained CNN's.
        precision: Precision of the student's stored weights.
        workers: Number of decoding processes.
        max_skipped: Maximum fraction of clips that may be skipped.
        stop_after: Stop after this number of steps; the next call continues.
    """

    teacher: Path
    recipe: DistilRecipe
    out: Path
    work: Path
    name: str
    version: str = "1.0.0"
    data: Path | None = None
    corpora: Sequence[str] = ()
    videos: Path | None = None
    clip_seconds: float = 4.0
    limit: int | None = None
    init_from: InitFrom | None = None
    precision: Precision = "int8-weights"
    workers: int = 1
    max_skipped: float = 0.01
    stop_after: int | None = None


def distil_bundle(options: DistilOptions, log: Log) -> dict[str, Any]:
    """Run a distillation, or resume it. Intermediate results stay in the work folder.

    Returns:
        A summary for printing.

    Raises:
        InvalidInput: The input cannot be used (also CorpusError).
        ParityError: No bundle of the student passes the parity check.
    """
    check_target(options.teacher, options.out, options.name)
    if (options.data is None) == (options.videos is None):
        raise InvalidInput("data, videos: exactly one was expected, packed corpora or a folder of videos")
    if options.limit is not None and options.limit < 1:
        raise InvalidInput(f"limit: {options.limit}; at least 1 was expected")
    teacher = Model.open(options.teacher)
    weights = _teacher_weights(options, log)
    init_from: InitFrom = options.init_from or ("pretrained" if weights is None else "teacher")
    data, corpora = _select_corpora(options, teacher, log)
    training = {name: _run_teacher(options, teacher, data, name, "train", options.limit, log) for name in corpora}
    held_out = {
        name: _run_teacher(options, teacher, data, name, "val", MAX_EXAMPLES, log)
        for name in corpora
        if (data / name / "val" / PACK_NAME).is_file()
    }
    manifest = teacher.bundle.manifest
    lessons = DistillData(teacher.bundle.fingerprint, training, held_out, manifest.temperature)
    space = Space(manifest.vector_width, manifest.visual_tokens, manifest.visual_width)
    log(f"distilling for {options.recipe.steps} steps, initial weights: {init_from}")
    with ProgressBar(f"{options.recipe.name}: distilling") as bar:
        student = distil(
            options.recipe,
            lessons,
            space,
            init_from,
            options.work / "run",
            teacher=weights,
            stop_after=options.stop_after,
            progress=bar.update,
        )
    steps_done = checkpoint.steps_done(student)
    if steps_done < options.recipe.steps:
        return {"checkpoint": str(student), "steps": steps_done, "total_steps": options.recipe.steps}
    exported = _export(options, teacher.bundle, init_from, student, training, held_out, data, log)
    return {
        "bundle": str(options.out),
        "teacher": str(options.teacher),
        "clips": {name: len(corpus) for name, corpus in training.items()},
        "steps": options.recipe.steps,
        "init_from": init_from,
        **exported._asdict(),
        "work": str(options.work),
    }


def _teacher_weights(options: DistilOptions, log: Log) -> HdVila | None:
    """Return the teacher's torch weights; None if they are not needed or not available."""
    if options.init_from not in (None, "teacher"):
        return None
    try:
        model = load_initial_model(options.teacher).model
        if not isinstance(model, HdVila):
            raise InvalidInput(f"{options.teacher}: holds a model of {model.cfg.system}; one of hd-vila was expected")
    except InvalidInput as error:
        if options.init_from == "teacher":
            raise
        log(f"the teacher's weights are not available: {error}")
        return None
    return model


def _select_corpora(options: DistilOptions, teacher: Model, log: Log) -> tuple[Path, list[str]]:
    """Return the folder of packed corpora and the names of those to train on."""
    if options.videos is not None:
        _pack_videos(options, options.videos, teacher, log)
        return options.work / "data", [VIDEOS_CORPUS]
    assert options.data is not None
    available = sorted(path.parent.parent.name for path in options.data.glob(f"*/train/{PACK_NAME}"))
    if missing := sorted(set(options.corpora) - set(available)):
        raise InvalidInput(f"corpus: {missing} have no split 'train' in {options.data}; available: {available}")
    if not available:
        raise InvalidInput(f"data: no corpus in {options.data} has a split 'train'; `vitascope prepare` packs some")
    return options.data, list(dict.fromkeys(options.corpora)) or available


def _pack_videos(options: DistilOptions, videos: Path, teacher: Model, log: Log) -> None:
    """Pack the streams of teacher and student from unlabelled videos, unless they are packed."""
    folder = options.work / "data" / VIDEOS_CORPUS
    if (folder / "train" / PACK_NAME).is_file():
        log(f"{folder}: packed before")
        return
    training, held_out = unlabelled_clips(videos, options.clip_seconds, lambda line: log(f"skipped: {line}"))
    if not held_out:
        log("only one video: none is held out, and nothing can be measured")
    streams = _merge_streams(teacher.streams, options.recipe.video_config().streams())
    for split, clips in (("val", held_out), ("train", training)):  # train last: it marks both as complete
        if clips:
            log(f"packing {len(clips)} clips, {split}")
            pack_clips(
                folder / split,
                clips,
                streams,
                UNLABELLED_ORIGIN,
                workers=options.workers,
                max_skipped=options.max_skipped,
            )


def _merge_streams(teacher: Sequence[FrameStream], student: Sequence[FrameStream]) -> list[FrameStream]:
    """Return all streams. If both have a stream of the same name, the teacher's is used, also for the student."""
    return list({stream.name: stream for stream in [*student, *teacher]}.values())


def _run_teacher(
    options: DistilOptions, teacher: Model, data: Path, corpus: str, split: str, limit: int | None, log: Log
) -> TeacherOutputs:
    packed = open_packed(data / corpus / split)
    packed = replace(packed, examples=packed.examples[:limit])
    log(f"running the teacher on {len(packed)} clips of {corpus}/{split}")
    with ProgressBar(f"teacher: {corpus}/{split}") as bar:
        return compute_teacher_outputs(teacher, packed, options.work / "teacher" / corpus / split, bar.update)


def _export(
    options: DistilOptions,
    teacher: Bundle,
    init_from: InitFrom,
    checkpoint_folder: Path,
    training: Mapping[str, TeacherOutputs],
    held_out: Mapping[str, TeacherOutputs],
    data: Path,
    log: Log,
) -> VideoExport:
    student = load_student(checkpoint_folder)
    recipe, manifest = options.recipe, teacher.manifest
    sources = [corpus_source(name, data) for name in training]
    if init_from == "pretrained":
        sources.append(STARTS[0])
    known = {entry.split(":")[0] for entry in manifest.training_data}
    clips = {name: len(corpus) for name, corpus in training.items()}
    replacement = VideoReplacement(
        module=student,
        streams=student.cfg.streams(),
        name=options.name,
        version=options.version,
        precision=options.precision,
        extra={
            "distilled_from": SourceBundle.from_bundle(teacher).model_dump(),
            "distillation": {
                "recipe": recipe.model_dump(mode="json"),
                "begin": init_from,
                "clips": clips,
                "eyes": student.cfg.model_dump(
                    mode="json", include=set(recipe.video_encoder) | {"backbone", "frozen_stages"}
                ),
            },
        },
        description=[
            f"A student of {manifest.name} {manifest.version}: a smaller video encoder, distilled on",
            f"{sum(clips.values())} clips of {', '.join(clips)} in {recipe.steps} steps (recipe `{recipe.name}`, seed "
            f"{recipe.seed}).",
        ],
        sources=[source for source in sources if source.name not in known],
        seed=recipe.seed,
    )
    return export_with_video(teacher, replacement, options.out, held_out=held_out, log=log)
