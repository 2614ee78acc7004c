"""One arm with one seed: train it on its share of compute, measure it, write what was found.

A finished run is one JSON file, `result.json` in its folder; a run that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studies.arms import ARMS, METRICS, Arm, recipe
from studies.compute import clip_flops, step_flops
from training import checkpoint
from training.data.packed import Packed, open_packed
from training.evaluation.answers import exact_answers
from training.evaluation.captions import wrong_caption_accuracy
from training.evaluation.encoder import TorchEncoder
from training.evaluation.flow_report import measure_flow
from training.evaluation.gallery import embed_gallery
from training.evaluation.objects import objects_told
from training.evaluation.retrieval import concept_retrieval
from training.initialization import load_or_initialize
from training.trainer import train
from vitascope.tokenizer import Tokenizer

RESULT = "result.json"


def folder_of(out: Path, arm: Arm, seed: int) -> Path:
    """Where a run keeps its log, checkpoint and result."""
    return out / "runs" / arm.key / f"seed-{seed}"


def run(out: Path, arm: Arm, seed: int, scale: float = 1.0) -> dict[str, Any]:
    """Train and measure; at once where it has been done. Returns the content of result.json.

    scale: of the compute of every arm. Raises ValueError where the run was done at another one.
    """
    folder = folder_of(out, arm, seed)
    if (folder / RESULT).exists():
        done: dict[str, Any] = json.loads((folder / RESULT).read_text())
        if done["scale"] != scale:
            raise ValueError(f"scale: {scale}; {folder} was run at {done['scale']}, the same was expected")
        return done
    torch.set_num_threads(1)
    data = out / "corpora" / arm.geometry
    start = folder_of(out, ARMS[f"{arm.claim}/{arm.follows}"], seed) / "checkpoint" if arm.follows else None
    cost = _step_flops(out, arm)
    steps = max(round(scale * _budget(out, arm) / cost), 1)
    arm_recipe = recipe(arm, seed, steps)
    begun = time.perf_counter()
    checkpoint_folder = train(arm_recipe, data, folder, start_from=start)
    trained = time.perf_counter() - begun
    result: dict[str, Any] = {
        "arm": arm.key,
        "seed": seed,
        "scale": scale,
        "steps": steps,
        "teraflop": round(steps * cost / 1e12, 2),
        "seconds": round(trained, 1),
    }
    if arm.measured:
        result |= {"gigaflop of a clip": round(clip_flops(checkpoint.load(checkpoint_folder).model) / 1e9, 4)}
        result |= {"metrics": measure(checkpoint_folder, data, METRICS[arm.claim])}
    if arm.flow:
        result["flow"] = measure_flow(checkpoint_folder, data, arm.flow, "test", 200)["layers"]
    _write(folder / RESULT, result)
    if not any(other.claim == arm.claim and other.follows == arm.name for other in ARMS.values()):
        shutil.rmtree(checkpoint_folder)  # a hundred megabytes that nobody goes on from
    return result


def _budget(out: Path, arm: Arm) -> float:
    """Floating-point operations that this arm may spend: those of its reference, and of what that one went on from."""
    reference = ARMS[f"{arm.claim}/{arm.reference}"]
    spent = reference.steps * _step_flops(out, reference)
    if reference.follows and not arm.follows:
        first = ARMS[f"{arm.claim}/{reference.follows}"]
        spent += first.steps * _step_flops(out, first)
    return spent


def _step_flops(out: Path, arm: Arm) -> float:
    """Cost of one step, counted once per arm and kept: it is the same for every seed."""
    path = out / "costs" / f"{arm.key}.json"
    if path.exists():
        return float(json.loads(path.read_text()))
    data = out / "corpora" / arm.geometry
    arm_recipe = recipe(arm, 0, 1)
    state = load_or_initialize(arm_recipe, data, out / "costs" / "none" / "checkpoint", None)
    cost = step_flops(state.model, arm_recipe, state.answers, state.tokenizer, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, cost)
    return cost


def _write(path: Path, content: object) -> None:
    """In one piece: another process may be reading."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def measure(folder: Path, data: Path, metrics: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a checkpoint on the test splits, in percent by `corpus metric`; in bfloat16, as trained."""
    loaded = checkpoint.load(folder)
    tokenizer = Tokenizer.open(loaded.tokenizer, max_length=loaded.model.cfg.text_length)
    encoder = TorchEncoder(loaded.model, tokenizer, loaded.answers)
    out: dict[str, float] = {}
    for corpus in dict.fromkeys(metric.split()[0] for metric in metrics):
        kinds = [metric.removeprefix(f"{corpus} ") for metric in metrics if metric.startswith(f"{corpus} ")]
        with torch.autocast("cpu", torch.bfloat16):
            values = _corpus(encoder, open_packed(data / corpus / "test"), kinds)
        out |= {f"{corpus} {kind}": round(values[kind], 2) for kind in kinds}
    return out


def _corpus(encoder: TorchEncoder, packed: Packed, kinds: Sequence[str]) -> dict[str, float]:
    videos, tokens = embed_gallery(encoder, packed, None)
    metrics_by_name: dict[str, float] = {}
    if any(kind.startswith("t2v") for kind in kinds):
        # Several pictures may carry one label; any of them is a right answer to it.
        labels = [example.captions[0] for example in packed.examples]
        metrics_by_name |= concept_retrieval(encoder, queries := sorted(set(labels)), queries, videos, labels)
    if "right caption match" in kinds:
        metrics_by_name |= wrong_caption_accuracy(encoder, packed, videos, tokens)
    if any(kind.startswith("objects") for kind in kinds):
        metrics_by_name |= objects_told(encoder.model, packed, tokens)
    if "exact of another video" in kinds:
        # What the questions alone give away: asked of the next video in place of their own.
        metrics_by_name["exact of another video"] = exact_answers(encoder, packed, np.roll(tokens, 1, axis=0))["exact"]
    if "exact" in kinds:
        metrics_by_name |= exact_answers(encoder, packed, tokens)
    return metrics_by_name
