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
    made = recipe(arm, seed, steps)
    begun = time.perf_counter()
    found = train(made, data, folder, start_from=start)
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
        result |= {"gigaflop of a clip": round(clip_flops(checkpoint.load(found).model) / 1e9, 4)}
        result |= {"metrics": measure(found, data, METRICS[arm.claim])}
    if arm.flow:
        result["flow"] = measure_flow(found, data, arm.flow, "test", 200)["layers"]
    _write(folder / RESULT, result)
    if not any(other.claim == arm.claim and other.follows == arm.name for other in ARMS.values()):
        shutil.rmtree(found)  # a hundred megabytes that nobody goes on from
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
    kept = out / "costs" / f"{arm.key}.json"
    if kept.exists():
        return float(json.loads(kept.read_text()))
    data = out / "corpora" / arm.geometry
    made = recipe(arm, 0, 1)
    held = load_or_initialize(made, data, out / "costs" / "none" / "checkpoint", None)
    cost = step_flops(held.model, made, held.answers, held.tokenizer, data)
    kept.parent.mkdir(parents=True, exist_ok=True)
    _write(kept, cost)
    return cost


def _write(path: Path, content: object) -> None:
    """In one piece: another process may be reading."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def measure(found: Path, data: Path, wanted: Sequence[str]) -> dict[str, float]:
    """Percentages on the test splits, by corpus and metric; `wanted`: which. In bfloat16, as trained."""
    held = checkpoint.load(found)
    tokenizer = Tokenizer.open(held.tokenizer, max_length=held.model.cfg.text_length)
    encoder = TorchEncoder(held.model, tokenizer, held.answers)
    out: dict[str, float] = {}
    for corpus in dict.fromkeys(metric.split()[0] for metric in wanted):
        kinds = [metric.removeprefix(f"{corpus} ") for metric in wanted if metric.startswith(f"{corpus} ")]
        with torch.autocast("cpu", torch.bfloat16):
            values = _corpus(encoder, open_packed(data / corpus / "test"), kinds)
        out |= {f"{corpus} {kind}": round(values[kind], 2) for kind in kinds}
    return out


def _corpus(encoder: TorchEncoder, packed: Packed, kinds: Sequence[str]) -> dict[str, float]:
    videos, tokens = embed_gallery(encoder, packed, None)
    found: dict[str, float] = {}
    if any(kind.startswith("t2v") for kind in kinds):
        # Several pictures may carry one label; any of them is a right answer to it.
        labels = [example.captions[0] for example in packed.examples]
        found |= concept_retrieval(encoder, queries := sorted(set(labels)), queries, videos, labels)
    if "right caption match" in kinds:
        found |= wrong_caption_accuracy(encoder, packed, videos, tokens)
    if any(kind.startswith("objects") for kind in kinds):
        found |= objects_told(encoder.model, packed, tokens)
    if "exact of another video" in kinds:
        # What the questions alone give away: asked of the next video in place of their own.
        found["exact of another video"] = exact_answers(encoder, packed, np.roll(tokens, 1, axis=0))["exact"]
    if "exact" in kinds:
        found |= exact_answers(encoder, packed, tokens)
    return found
