"""A student of a bundle: packed, taught, trained and exported, each part kept so that the same call goes on.

WORK/data/films/  the clips of a folder of videos, where those are learned from
WORK/teacher/     what the teacher says of every clip
WORK/run/         checkpoint, log and curves
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_export.assemble import check_name, check_replaceable
from model_export.cli.options import check_max_skipped
from model_export.export import LIMIT
from model_export.optimize.replace_video import Exported, OtherVideo, export_other_video
from model_export.parity.variants import named
from model_export.sources import STARTS, corpus_source
from model_export.weights import Precision
from training import checkpoint
from training.data.films import ORIGIN, Clips, film_clips
from training.data.packed import PACK_NAME, Packed, open_packed, write_packed
from training.distillation.loop import Lessons, distil, load_student
from training.distillation.recipe import DistilRecipe
from training.distillation.student import Begin, Space
from training.distillation.teacher import Taught, taught
from training.from_bundle import model_of_bundle
from training.models.hd_vila import HdVila
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import FrameStream
from vitascope.cli.output import ProgressBar
from vitascope.errors import InvalidInput
from vitascope.model import Model

Say = Callable[[str], None]
FILMS = "films"
"""Name of the corpus that a folder of videos becomes."""


@dataclass(frozen=True)
class Distillation:
    """What is asked for. Either `data` or `videos` is given."""

    teacher: Path
    recipe: DistilRecipe
    out: Path
    work: Path
    name: str
    version: str = "1.0.0"
    data: Path | None = None
    """Packed corpora, of which the splits train and val are used."""
    corpora: Sequence[str] = ()
    """Empty: all that have a split train."""
    videos: Path | None = None
    """A folder of videos of which nothing is said."""
    clip_seconds: float = 4.0
    limit: int | None = None
    """Learn from the first so many clips of each corpus only."""
    begin: Begin | None = None
    """None: the teacher's own weights where they are known, else the public CNN."""
    precision: Precision = "int8-weights"
    workers: int = 1
    max_skipped: float = 0.01
    stop_after: int | None = None


def distilled(wanted: Distillation, say: Say) -> dict[str, Any]:
    """Do a distillation, or go on with it. Returns what it came to; `say` is told what happens meanwhile.

    Raises InvalidInput (CorpusError among them) for what cannot be done, and ParityError when no bundle of the student
    answers as it does. What was done by then stays in the work folder.
    """
    check_name(wanted.name)
    check_replaceable(wanted.out)
    if wanted.out.resolve() == wanted.teacher.resolve():
        raise InvalidInput(f"out: {wanted.out} is the teacher itself; another folder was expected")
    check_max_skipped(wanted.max_skipped)
    if (wanted.data is None) == (wanted.videos is None):
        raise InvalidInput("data, videos: one of them was expected, packed corpora or a folder of videos")
    teacher = Model.open(wanted.teacher)
    own = _own_weights(wanted, say)
    begin: Begin = wanted.begin or ("pretrained" if own is None else "teacher")
    data, corpora = _corpora(wanted, teacher, say)
    learned = {name: _taught(wanted, teacher, data, name, "train", wanted.limit, say) for name in corpora}
    held_out = {
        name: _taught(wanted, teacher, data, name, "val", LIMIT, say)
        for name in corpora
        if (data / name / "val" / PACK_NAME).is_file()
    }
    stated = teacher.bundle.manifest
    lessons = Lessons(teacher.bundle.fingerprint, learned, held_out, stated.temperature)
    space = Space(stated.vector_width, stated.visual_tokens, stated.visual_width)
    say(f"the student begins with {_begins(begin, wanted.recipe)} and learns for {wanted.recipe.steps} steps")
    with ProgressBar(f"{wanted.recipe.name}: distilling") as bar:
        found = distil(
            wanted.recipe,
            lessons,
            space,
            begin,
            wanted.work / "run",
            teacher=own,
            stop_after=wanted.stop_after,
            progress=bar.update,
        )
    done = checkpoint.steps_done(found)
    if done < wanted.recipe.steps:
        return {"checkpoint": str(found), "steps": done, "of": wanted.recipe.steps}
    made = _exported(wanted, teacher.bundle, begin, found, learned, held_out, data, say)
    return {
        "bundle": str(wanted.out),
        "teacher": str(wanted.teacher),
        "clips": {name: len(corpus) for name, corpus in learned.items()},
        "steps": wanted.recipe.steps,
        "begin": begin,
        **made._asdict(),
        "work": str(wanted.work),
    }


def _own_weights(wanted: Distillation, say: Say) -> HdVila | None:
    """The teacher's own weights; None where its graphs do not give them, which is said."""
    if wanted.begin not in (None, "teacher"):
        return None
    try:
        model = model_of_bundle(wanted.teacher).model
    except InvalidInput as error:
        if wanted.begin == "teacher":
            raise
        say(f"the teacher's weights cannot be begun with: {error}")
        return None
    assert isinstance(model, HdVila)
    return model


def _begins(begin: Begin, recipe: DistilRecipe) -> str:
    words = {"teacher": "its teacher's weights", "pretrained": f"public weights of {recipe.video_config().backbone}"}
    return words.get(begin, "random weights")


def _corpora(wanted: Distillation, teacher: Model, say: Say) -> tuple[Path, list[str]]:
    """The folder of packed corpora, and which of them are learned from."""
    if wanted.videos is not None:
        _pack_films(wanted, wanted.videos, teacher, say)
        return wanted.work / "data", [FILMS]
    assert wanted.data is not None
    there = sorted(path.parent.parent.name for path in wanted.data.glob(f"*/train/{PACK_NAME}"))
    if missing := sorted(set(wanted.corpora) - set(there)):
        raise InvalidInput(f"corpus: {missing} have no split 'train' in {wanted.data}; some of {there} were expected")
    if not there:
        raise InvalidInput(f"data: no corpus in {wanted.data} has a split 'train'; `vitascope prepare` packs some")
    return wanted.data, list(dict.fromkeys(wanted.corpora)) or there


def _pack_films(wanted: Distillation, videos: Path, teacher: Model, say: Say) -> None:
    """The films as teacher and student see them, by the decoder that serves; splits that are packed already stay."""
    folders = {split: wanted.work / "data" / FILMS / split for split in ("train", "val")}
    if (folders["train"] / PACK_NAME).is_file():
        say(f"packed before: {wanted.work / 'data' / FILMS}")
        return
    learned, held_out = film_clips(videos, wanted.clip_seconds, lambda line: say(f"left out: {line}"))
    if not held_out:
        say("one video alone: none is held out, and nothing can be measured")
    streams = _both(teacher.streams, wanted.recipe.video_config().streams())
    for split, clips in (("val", held_out), ("train", learned)):  # the last one says that all is there
        if clips:
            say(f"packing {len(clips)} clips, {split}")
            with ProgressBar(f"packing {split}") as bar:
                write_packed(
                    folders[split],
                    streams,
                    _shown(clips, bar),
                    ORIGIN,
                    workers=wanted.workers,
                    max_skipped=wanted.max_skipped,
                )


def _both(teacher: Sequence[FrameStream], student: Sequence[FrameStream]) -> list[FrameStream]:
    """All streams of both; of one name the teacher's, of which the student's is made."""
    by_name = {stream.name: stream for stream in [*student, *teacher]}
    return list(by_name.values())


def _shown(clips: Clips, bar: ProgressBar) -> Iterable[Any]:
    for number, clip in enumerate(clips):
        bar.update(number, len(clips))
        yield clip


def _taught(
    wanted: Distillation, teacher: Model, data: Path, corpus: str, split: str, limit: int | None, say: Say
) -> Taught:
    packed = _first(open_packed(data / corpus / split), limit)
    say(f"the teacher looks at {len(packed)} clips of {corpus}/{split}")
    with ProgressBar(f"teacher: {corpus}/{split}") as bar:
        return taught(teacher, packed, wanted.work / "teacher" / corpus / split, bar.update)


def _first(packed: Packed, limit: int | None) -> Packed:
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit: {limit}; at least 1 was expected")
    return packed if limit is None else replace(packed, examples=packed.examples[:limit])


def _exported(
    wanted: Distillation,
    teacher: Bundle,
    begin: Begin,
    found: Path,
    learned: dict[str, Taught],
    held_out: dict[str, Taught],
    data: Path,
    say: Say,
) -> Exported:
    """The bundle at `out`."""
    student = load_student(found)
    recipe, stated = wanted.recipe, teacher.manifest
    sources = [corpus_source(name, data) for name in learned]
    if begin == "pretrained":
        sources.append(STARTS[0])
    known = {entry.split(":")[0] for entry in stated.training_data}
    other = OtherVideo(
        module=student,
        streams=student.eyes.streams(),
        name=wanted.name,
        version=wanted.version,
        precision=wanted.precision,
        extra={
            "distilled_from": named(teacher).model_dump(),
            "distillation": {
                "recipe": recipe.model_dump(mode="json"),
                "begin": begin,
                "clips": {name: len(corpus) for name, corpus in learned.items()},
                "eyes": student.eyes.model_dump(mode="json", include=set(recipe.eyes) | {"backbone", "frozen_stages"}),
            },
        },
        about=[
            f"A student of {stated.name} {stated.version}: a smaller video encoder that was taught to give what the",
            f"teacher gives, on {sum(map(len, learned.values()))} clips of {', '.join(learned)} and in {recipe.steps} "
            f"steps (recipe `{recipe.name}`, seed {recipe.seed}).",
        ],
        sources=[source for source in sources if source.name not in known],
        seed=recipe.seed,
    )
    return export_other_video(teacher, other, wanted.out, held_out=held_out, say=say)
