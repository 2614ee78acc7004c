"""Continued pre-training on one's own videos: packed, measured, trained on, exported and measured again.

Everything is kept in a work folder, so that the same call goes on where it was stopped:
    adapt.json      what was asked for, and the facts about the start
    data/own/       the packed clips, splits train and val
    before.json     how the start finds the held-out clips
    run/            checkpoint, log and curves of the training
    exported.json   which bundle was written, and how it is calibrated
    after.json      how that bundle finds the same clips
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_export.adapt_start import StartFacts, read_start, start_identity
from model_export.assemble import check_name, check_replaceable
from model_export.calibrate import FIT_FROM
from model_export.cli.options import check_max_skipped
from model_export.export import Before, export_checkpoint, restate_bundle
from model_export.parity.checks import ParityError
from model_export.weights import Precision
from training import checkpoint
from training.adaptation import CORPUS, adaptation_recipe
from training.data.own_clips import LEAST_HELD_OUT, LEAST_LEARNED, RULE, Clip, OwnClips, check_enough, own_clips
from training.data.packed import PACK_NAME, Packed, open_packed, write_packed
from training.data.subtitled import ORIGIN
from training.evaluation.found import Counts, compared, found_by_sentence
from training.evaluation.report import open_encoder
from training.trainer import train
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Strict
from vitascope.cli.output import ProgressBar
from vitascope.errors import BundleError, InvalidInput

PRECISIONS: Mapping[Precision, Sequence[Precision]] = {
    "int8-weights": ("int8-weights", "float16-weights", "float32"),
    "float16-weights": ("float16-weights", "float32"),
    "float32": ("float32",),
}
"""How weights are stored, by how they should be: of few held-out clips, one that is no longer found first with smaller
weights is a difference of many points, which an export refuses."""
MEASURED = "own (held-out clips)"
"""Name of the measurement in the bundle's card."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Adaptation:
    """What is asked for. Seconds: the least and most of a clip. `out`, `name`: of the bundle."""

    folder: Path
    start_from: Path
    out: Path
    work: Path
    name: str
    shortest: float
    longest: float
    steps: int | None = None
    """None: chosen by the number of clips."""
    seed: int = 0
    workers: int = 1
    max_skipped: float = 0.01
    data: Path = Path("data/packed")
    """Where the corpora are packed that a checkpoint to start from was trained on."""


class _State(Strict):
    """adapt.json: a work folder is for one start, one set of clips and one training."""

    clips: str
    start: str
    steps: int | None
    seed: int
    facts: StartFacts


class _Exported(Strict):
    """exported.json."""

    name: str
    fingerprint: str
    precision: str
    calibration: str


def adapt(wanted: Adaptation, say: Say) -> dict[str, Any]:
    """Do an adaptation, or go on with it. Returns what it came to; `say` is told what happens meanwhile.

    Raises InvalidInput (CorpusError among them) for what cannot be adapted, and ParityError when no bundle of the
    trained model answers as it does. What was done by then stays in the work folder.
    """
    _check(wanted)
    clips = own_clips(wanted.folder, wanted.shortest, wanted.longest)
    say(f"{wanted.folder}: {clips.pairing}")
    state = _state(wanted, clips.identity, say)
    learned, held_out = _packed(wanted, clips, state.facts, say)
    before = _measured(wanted.work / "before.json", wanted.start_from, state.start, held_out, "the start", say)
    recipe = adaptation_recipe(state.facts.architecture, len(learned), steps=wanted.steps, seed=wanted.seed)
    run = wanted.work / "run"
    done = checkpoint.steps_done(run / "checkpoint")
    if done == recipe.total_steps:
        say(f"trained before: {done} steps")
    else:
        say(
            f"training: goes on at step {done} of {recipe.total_steps}"
            if done
            else f"training: {recipe.total_steps} steps"
        )
        train(recipe, wanted.work / "data", run, start_from=wanted.start_from)
    exported = _exported(wanted, state, run / "checkpoint", len(held_out), say)
    after = _after(wanted, exported, before, held_out, say)
    return {
        "bundle": str(wanted.out),
        "clips": {
            "learned from": len(learned),
            "held out": len(held_out),
            "of test videos, untouched": clips.untouched,
        },
        "steps": recipe.total_steps,
        "before": before,
        "after": after,
        "verdict": {1: "better", 0: "equal", -1: "worse"}[compared(before, after)],
        "calibration": exported.calibration,
        "precision": exported.precision,
        "work": str(wanted.work),
    }


def _check(wanted: Adaptation) -> None:
    """What would otherwise be an error only after the training."""
    check_name(wanted.name)
    check_replaceable(wanted.out)
    if wanted.out.resolve() == wanted.start_from.resolve():
        raise InvalidInput(f"out: {wanted.out} is the start itself; another folder was expected")
    if wanted.steps is not None and wanted.steps < 1:
        raise InvalidInput(f"steps: {wanted.steps}; at least 1 was expected")
    check_max_skipped(wanted.max_skipped)


def _state(wanted: Adaptation, clips: str, say: Say) -> _State:
    """The work folder's adapt.json, made when it is new. Raises InvalidInput where it is of another adaptation."""
    path, start = wanted.work / "adapt.json", start_identity(wanted.start_from)
    asked = {"clips": clips, "start": start, "steps": wanted.steps, "seed": wanted.seed}
    if not path.exists():
        if wanted.work.exists() and any(wanted.work.iterdir()):
            raise InvalidInput(f"work: {wanted.work} holds something else; an empty or new folder was expected")
        say(f"reading {wanted.start_from}")
        state = _State.model_validate({**asked, "facts": read_start(wanted.start_from, wanted.data)})
        wanted.work.mkdir(parents=True, exist_ok=True)
        _write(path, state)
        return state
    state = _State.model_validate_json(path.read_text("utf-8"))
    names = {"clips": "videos, subtitles or clip lengths", "start": "start", "steps": "--steps", "seed": "--seed"}
    if other := [names[key] for key, value in asked.items() if getattr(state, key) != value]:
        raise InvalidInput(
            f"work: {wanted.work} holds an adaptation with another {' and another '.join(other)}; the same was "
            "expected, or another folder (--work), or none there"
        )
    say(f"going on with what is in {wanted.work}")
    return state


def _packed(wanted: Adaptation, clips: OwnClips, facts: StartFacts, say: Say) -> tuple[Packed, Packed]:
    """The splits train and val, as the start sees them; those that are packed already stay."""
    found = []
    for split, what, items, least in (
        ("train", "learn from", clips.learned, LEAST_LEARNED),
        ("val", "hold out", clips.held_out, LEAST_HELD_OUT),
    ):
        folder = wanted.work / "data" / CORPUS / split
        if (folder / PACK_NAME).is_file():
            packed = open_packed(folder)
            say(f"packed before: {len(packed)} clips to {what}")
        else:
            packed = _pack(wanted, folder, items, facts)
            say(f"packed {len(packed)} clips to {what}, {len(packed.info['skipped'])} skipped")
        check_enough(wanted.folder, what, packed.examples, least)
        found.append(packed)
    return found[0], found[1]


def _pack(wanted: Adaptation, folder: Path, items: Sequence[Clip], facts: StartFacts) -> Packed:
    origin = replace(ORIGIN, split_rule=RULE)
    with ProgressBar(f"packing {folder.name}") as bar:

        def shown() -> Any:
            for number, item in enumerate(items):
                bar.update(number, len(items))
                yield item

        write_packed(
            folder,
            facts.architecture.streams(),
            shown(),
            origin,
            workers=wanted.workers,
            max_skipped=wanted.max_skipped,
        )
    return open_packed(folder)


def _measured(path: Path, model: Path, identity: str, held_out: Packed, what: str, say: Say) -> dict[str, float]:
    """How `model` finds the held-out clips; read from `path` where it was measured before."""
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        if kept["model"] == identity:
            return dict(kept["found"])
    say(f"measuring {what} on {len(held_out)} held-out clips")
    found = found_by_sentence(open_encoder(model), held_out)
    _write(path, {"model": identity, "found": found})
    return found


def _exported(wanted: Adaptation, state: _State, trained: Path, held_out: int, say: Say) -> _Exported:
    """The bundle at `out`, written unless it is there already."""
    path = wanted.work / "exported.json"
    if path.exists():
        exported = _Exported.model_validate_json(path.read_text("utf-8"))
        if (exported.name, exported.fingerprint) == _bundle_at(wanted.out):
            say(f"exported before: {wanted.out}")
            return exported
    before = Before(state.facts.sources, state.facts.calibration, FIT_FROM)
    for precision in PRECISIONS[state.facts.precision]:
        try:
            export_checkpoint(
                trained,
                wanted.out,
                name=wanted.name,
                precision=precision,
                data=wanted.work / "data",
                seed=wanted.seed,
                say=say,
                before=before,
            )
            break
        except ParityError as error:
            if precision == "float32":
                raise
            say(f"weights are stored larger than as {precision}: {error}")
    bundle = Bundle.open(wanted.out)
    exported = _Exported(
        name=bundle.manifest.name,
        fingerprint=bundle.fingerprint,
        precision=bundle.manifest.precision,
        calibration=_calibration(state.facts, held_out, bundle),
    )
    _write(path, exported)
    return exported


def _calibration(facts: StartFacts, held_out: int, bundle: Bundle) -> str:
    """In words, where the bundle's calibration comes from."""
    pairs = bundle.manifest.extra["provenance"]["calibration"].get("match pairs")
    if pairs is not None:
        rest = "; that of answers is the start's" if bundle.answers and facts.calibration else ""
        return f"fitted on {pairs / 3:g} held-out clips{rest}"  # one right pair and two wrong ones of each
    few = f"{held_out} held-out clips are too few to fit it, {FIT_FROM} were expected"
    return f"that of the start: {few}" if facts.calibration else f"none: {few}, and a checkpoint has none"


def _after(wanted: Adaptation, exported: _Exported, before: Counts, held_out: Packed, say: Say) -> dict[str, float]:
    """How the bundle finds the held-out clips, which its card states as well."""
    path = wanted.work / "after.json"
    after = _measured(path, wanted.out, exported.fingerprint, held_out, "the bundle", say)
    if not Bundle.open(wanted.out).manifest.metrics:
        metrics = wanted.work / "metrics.json"
        _write(metrics, {MEASURED: _percent(after) | {f"{k} (start)": v for k, v in _percent(before).items()}})
        restate_bundle(wanted.out, metrics)
    return after


def _percent(found: Counts) -> dict[str, float]:
    """By the names that other evaluations have."""
    names = {"first": "t2v R@1", "among 5": "t2v R@5", "among 10": "t2v R@10"}
    shares = {names[k]: round(100 * v / found["sentences"], 4) for k, v in found.items() if k in names}
    return shares | {"t2v MdR": found["median rank"], "t2v MnR": found["mean rank"]}


def _bundle_at(folder: Path) -> tuple[str, str] | None:
    """Name and fingerprint of an intact bundle, None where there is none."""
    try:
        bundle = Bundle.open(folder)
    except BundleError:
        return None
    return bundle.manifest.name, bundle.fingerprint


def _write(path: Path, content: Strict | dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    text = content.model_dump_json(indent=1) if isinstance(content, Strict) else json.dumps(content, indent=1)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", "utf-8")
    os.replace(part, path)
