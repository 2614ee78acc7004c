"""Runs of the study. A run trains and evaluates one arm with one seed, with the compute of its arm.

A finished run has a `result.json` in its folder and is skipped; an interrupted one continues from its checkpoint.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studies.arms import ARMS, METRICS, Arm, recipe
from studies.compute import clip_flops, step_flops
from training import checkpoint
from training.data.packed import Packed, open_packed
from training.evaluation.answers import exact_answers, object_accuracy
from training.evaluation.captions import wrong_caption_accuracy
from training.evaluation.flow import measure_flow
from training.evaluation.retrieval import concept_retrieval, embed_gallery
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import load_or_initialize
from training.trainer import train
from vitascope.tokenizer import Tokenizer

RESULT = "result.json"


def folder_of(out: Path, arm: Arm, seed: int) -> Path:
    """Return the folder of a run: log, checkpoint and result."""
    return out / "runs" / arm.key / f"seed-{seed}"


def run(out: Path, arm: Arm, seed: int, scale: float = 1.0) -> dict[str, Any]:
    """Train and measure an arm, unless the run is finished.

    Args:
        out: Folder of the study.
        arm: The arm.
        seed: Seed of the run.
        scale: Factor for the compute of every arm.

    Returns:
        The content of result.json.

    Raises:
        ValueError: The run was finished with another scale.
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
    if not arm.exported and not any(o.claim == arm.claim and o.follows == arm.name for o in ARMS.values()):
        shutil.rmtree(checkpoint_folder)  # a hundred megabytes, which no arm continues
    return result


def _budget(out: Path, arm: Arm) -> float:
    """Return the floating-point operations of the reference arm.

    Those of the arm that it continues are included, unless `arm` continues one as well.
    """
    reference = ARMS[f"{arm.claim}/{arm.reference}"]
    spent = reference.steps * _step_flops(out, reference)
    if reference.follows and not arm.follows:
        first = ARMS[f"{arm.claim}/{reference.follows}"]
        spent += first.steps * _step_flops(out, first)
    return spent


def _step_flops(out: Path, arm: Arm) -> float:
    """Return the cost of one step, counted once per arm and cached, since it is equal for every seed."""
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
    """Write a file atomically, since other processes may read it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def measure(folder: Path, data: Path, metrics: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a checkpoint on the test splits in percent, by "corpus metric".

    The model runs in bfloat16, as in training.
    """
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
        # Several pictures may have the same label; each of them is a right result for it.
        labels = [example.captions[0] for example in packed.examples]
        metrics_by_name |= concept_retrieval(encoder, queries := sorted(set(labels)), queries, videos, labels)
    if "right caption match" in kinds:
        metrics_by_name |= wrong_caption_accuracy(encoder, packed, videos, tokens)
    if any(kind.startswith("objects") for kind in kinds):
        metrics_by_name |= object_accuracy(encoder.model, packed, tokens)
    if "exact of another video" in kinds:
        # The accuracy from questions alone: each question is answered for the next video.
        metrics_by_name["exact of another video"] = exact_answers(encoder, packed, np.roll(tokens, 1, axis=0))["exact"]
    if "exact" in kinds:
        metrics_by_name |= exact_answers(encoder, packed, tokens)
    return metrics_by_name


Key = tuple[str, int]


def run_all(out: Path, claims: Sequence[str], seeds: Sequence[int], jobs: int, scale: float = 1.0) -> None:
    """Run every arm of some claims with every seed, one seed after another.

    Args:
        out: Folder of the study.
        claims: Names of the claims.
        seeds: Seeds.
        jobs: Number of concurrent runs, with one thread each.
        scale: Factor for the compute of every arm.

    Raises:
        RuntimeError: Some runs failed. It names them, after all runs that do not depend on them are finished.
    """
    waiting = [(arm.key, seed) for seed in seeds for arm in ARMS.values() if arm.claim in claims]
    failed: dict[Key, str] = {}
    running: dict[Future[object], Key] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            for key in [key for key in waiting if _ready(out, *key)]:
                if len(running) < jobs:
                    waiting.remove(key)
                    running[pool.submit(run, out, ARMS[key[0]], key[1], scale)] = key
            if not running:
                break  # the rest depends on a failed run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                if (error := future.exception()) is not None:
                    failed[key] = f"{type(error).__name__}: {error}"
                print(f"{key[0]} seed {key[1]}: {failed.get(key, 'done')}", file=sys.stderr, flush=True)
    if failed:
        named = "; ".join(f"{arm} seed {seed}: {reason}" for (arm, seed), reason in failed.items())
        raise RuntimeError(f"{len(failed)} runs failed and {len(waiting)} depend on them: {named}")


def _ready(out: Path, key: str, seed: int) -> bool:
    arm: Arm = ARMS[key]
    return arm.follows is None or (folder_of(out, ARMS[f"{arm.claim}/{arm.follows}"], seed) / RESULT).exists()
