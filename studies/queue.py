"""All runs of the study, a few processes at a time; what is finished is not done again."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from studies.arms import ARMS, Arm
from studies.run import RESULT, folder_of, run

Key = tuple[str, int]


def run_all(out: Path, claims: Sequence[str], seeds: Sequence[int], jobs: int, scale: float = 1.0) -> None:
    """Run every arm of these claims with every seed, one seed after the other, `jobs` at a time, one thread each.

    A run that fails is named at the end, when all that do not depend on it are done: raises RuntimeError.
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
                break  # what is left waits for a run that failed
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
