"""The order of runs, what is skipped and what a failure leaves undone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studies import queue
from studies.arms import ARMS, Arm
from studies.run import RESULT, folder_of


def done(out: Path, arm: Arm, seed: int, scale: float = 1.0) -> dict[str, object]:
    """In place of a run: its result, after that of the arm that it follows."""
    if arm.follows and not (folder_of(out, ARMS[f"{arm.claim}/{arm.follows}"], seed) / RESULT).exists():
        raise AssertionError(f"{arm.key} came before {arm.follows}")
    if (out / "broken").exists() and arm.name == "general":
        raise OSError("no space left")
    folder = folder_of(out, arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).write_text(f'{{"resolution_ratio": {scale}}}')
    return {}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "run", done)
    monkeypatch.setattr(queue, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))


@pytest.mark.usefixtures("quick")
def test_an_arm_waits_for_what_it_goes_on_from(tmp_path: Path) -> None:
    queue.run_all(tmp_path, ["domain", "labels"], [0, 1], jobs=2)
    found = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob(RESULT)}
    wanted = {f"{arm.key}/seed-{seed}" for arm in ARMS.values() for seed in (0, 1) if arm.claim in ("domain", "labels")}
    assert found == wanted


@pytest.mark.usefixtures("quick")
def test_a_failure_is_named_and_what_does_not_depend_on_it_is_done(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(RuntimeError, match="domain/general seed 0: OSError: no space left"):
        queue.run_all(tmp_path, ["domain", "tokens"], [0], jobs=1)
    found = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob(RESULT)}
    assert found == {"tokens/convolution/seed-0", "tokens/self-attention/seed-0"}
