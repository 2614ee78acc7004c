"""Training of one model in several processes, each with its own part of the data."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d

from tests.chaos import is_chaos
from tests.sockets import reserved_port
from tests.training.small_run import STREAMS, recipe, write_corpus, write_tokenizer
from tests.training.whole_batch import RULES, STEPS, WHOLE_BATCH, recipes, write_halves
from training import checkpoint, stage_run, trainer
from training.curves import read_log
from training.data.batches import Batches
from training.models.soho import VisualDictionary
from training.objectives.losses import itc
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
RunTwo = Callable[..., None]
DICTIONARY = """
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
import torch
from accelerate import PartialState
from training.models.soho import VisualDictionary

folder, rank, revive_below = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
PartialState(cpu=True)
torch.manual_seed(0)
made = VisualDictionary(6, 3, decay=0.5, revive_below=revive_below).train()
torch.manual_seed(10 + rank)  # what is drawn differs by rank, what comes of it must not
for features in torch.load(folder / "features.pt"):
    made(features[rank::2])
torch.save(made.state_dict(), folder / f"entries-{rank}.pt")
torch.distributed.destroy_process_group()
"""

HALVES = """
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
import torch
from tests.training.whole_batch import RULES
from training import trainer
from training.recipe import Recipe

for target, name, rule in RULES:
    setattr(target, name, rule)
states = []
initialize = trainer.load_or_initialize
trainer.load_or_initialize = lambda *arguments: states.append(initialize(*arguments)) or states[-1]
folder = Path(sys.argv[1])
for path in sorted(folder.glob("halves-*.json")):
    recipe = Recipe.model_validate_json(path.read_text())
    trainer.train(recipe, folder / "data", folder / "two" / recipe.name)
    torch.save(states[-1].model.state_dict(), folder / f"{recipe.name}-{os.environ['RANK']}.pt")
"""

NORMS = """
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
import torch
from accelerate import PartialState
from tests.training.test_processes import norms
from training.models.batch_norm import sync_batch_norm

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
PartialState(cpu=True)
made = norms()
sync_batch_norm(made)
x = torch.load(folder / "x.pt")[rank::2].requires_grad_()
out = made(x)
out.pow(3).mean().backward()
gradients = [x.grad, *(p.grad for p in made.parameters())]
torch.save((out.detach(), gradients, made.state_dict()), folder / f"norms-{rank}.pt")
torch.distributed.destroy_process_group()
"""


def norms() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.BatchNorm2d(3),
        torch.nn.Conv2d(3, 4, 3),
        BatchNormAct2d(4),
        torch.nn.Flatten(),
        torch.nn.BatchNorm1d(16),
    ).train()


CONTRASTIVE = """
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
import torch
from accelerate import PartialState
from training.objectives.losses import itc

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
PartialState(cpu=True)
video, text, groups = torch.load(folder / "vectors.pt")
own = video[3 * rank : 3 * rank + 3].clone().requires_grad_()
loss = itc(own, text[3 * rank : 3 * rank + 3], 0.2, groups[3 * rank : 3 * rank + 3])
loss.backward()
torch.save((loss.detach(), own.grad), folder / f"loss-{rank}.pt")
torch.distributed.destroy_process_group()
"""


SYSTEMS = ["hd-vila", "soho", *(["visual-parsing"] if is_chaos() else [])]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "data", tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture(scope="module")
def run_two() -> Iterator[RunTwo]:
    """Runs a program as rank 0 and rank 1 of two; see ``tests.training.ranks``."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.ranks"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None

        def run(program: str, folder: Path, *arguments: str) -> None:
            with reserved_port() as port:
                order = {
                    "program": program,
                    "environment": {
                        "WORLD_SIZE": "2",
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(port),
                        "ACCELERATE_USE_CPU": "true",
                    },
                    "arguments": [str(folder), *arguments],
                    "folder": str(folder),
                }
                print(json.dumps(order), file=starter.stdin, flush=True)
                watchdog = threading.Timer(600, starter.kill)
                watchdog.start()
                ended = starter.stdout.readline()
                watchdog.cancel()
            complaints = [path.read_text() for path in sorted(folder.glob("complaints-*.txt"))]
            assert ended == "[0, 0]\n", complaints

        yield run
        starter.stdin.close()


def test_each_process_gets_its_share_of_an_epoch(corpus: Path) -> None:
    stage = recipe(corpus / "tokenizer.json", steps=2).stages[0]
    tokenizer = Tokenizer.open(corpus / "tokenizer.json", max_length=16)

    def rows(rank: int, world: int, step: int) -> list[int]:
        batches = Batches(stage, corpus / "data", tokenizer, ["red"], 7, STREAMS, rank=rank, world=world)
        return list(batches[step].rows)

    together = rows(0, 2, 0) + rows(1, 2, 0)
    assert sorted(together) == list(range(16))  # 16 pictures, two processes of 8
    assert sorted(rows(0, 1, 0) + rows(0, 1, 1)) == list(range(16))


@pytest.mark.parametrize("clips", [(), (2,)] if is_chaos() else [(2,)])
def test_contrast_is_over_the_videos_and_clips_of_all_processes(
    clips: tuple[int, ...], tmp_path: Path, run_two: RunTwo
) -> None:
    torch.manual_seed(2)
    video, text, groups = torch.randn(6, *clips, 4), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 4])
    torch.save((video, text, groups), tmp_path / "vectors.pt")
    run_two(CONTRASTIVE, tmp_path, "{rank}")
    whole = video.clone().requires_grad_()
    alone = itc(whole, text, 0.2, groups)
    alone.backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None
    for rank in (0, 1):
        loss, gradient = torch.load(tmp_path / f"loss-{rank}.pt", weights_only=True)
        assert torch.allclose(loss, alone, atol=1e-5)
        # Both processes' losses reach these vectors; the mean over processes, taken of parameters, halves the sum.
        assert torch.allclose(gradient / 2, whole.grad[3 * rank : 3 * rank + 3], atol=1e-5)


@pytest.mark.parametrize("revive_below", [0.0, 0.9])
def test_a_dictionary_follows_the_features_of_all_processes(
    revive_below: float, tmp_path: Path, run_two: RunTwo
) -> None:
    torch.manual_seed(1)
    features = torch.randn(3, 20, 3)
    torch.save(features, tmp_path / "features.pt")
    run_two(DICTIONARY, tmp_path, "{rank}", str(revive_below))
    first, second = (torch.load(tmp_path / f"entries-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(0)
    alone = VisualDictionary(6, 3, decay=0.5).train()
    for step in features:
        alone(step)
    same = all(
        torch.allclose(first[name].float(), value.float(), atol=1e-5) for name, value in alone.state_dict().items()
    )
    assert same == (revive_below == 0.0)  # as one process with all features, unless entries were drawn anew


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, run_two: RunTwo) -> Path:
    """Folder in which each system was trained by two processes (two/) and by one with the whole batch (one/)."""
    folder = tmp_path_factory.mktemp("halves")
    write_halves(folder / "data", folder)
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    halves, wholes = (recipes(tokenizer, batch) for batch in (WHOLE_BATCH // 2, WHOLE_BATCH))
    for system in SYSTEMS:
        (folder / f"halves-{system}.json").write_text(halves[system].model_dump_json())
    run_two(HALVES, folder)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for target, name, rule in RULES:
            patch.setattr(target, name, rule)
        for system in SYSTEMS:
            trainer.train(wholes[system], folder / "data", folder / "one" / system)
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_train_like_one_process_with_the_whole_batch(system: str, halves: Path) -> None:
    one_process, two_processes = (read_log(halves / run / system / "log.jsonl") for run in ("one", "two"))
    assert len(one_process) == len(two_processes) == (2 * STEPS if system == "hd-vila" else STEPS)
    for step, (alone, together) in enumerate(zip(one_process, two_processes, strict=True)):
        losses = {key: value for key, value in alone.items() if key.startswith("loss/")}
        assert len(losses) >= 3
        # Sums in another order differ by rounding, which the optimiser carries on.
        tolerance = 2e-5 if step == 0 else 1e-3
        assert {key: together[key] for key in losses} == pytest.approx(losses, rel=tolerance, abs=tolerance), step
        assert together["norm"] == pytest.approx(alone["norm"], rel=1e-3 if step == 0 else 2e-2), step


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_train_one_model(system: str, halves: Path) -> None:
    first, second = (torch.load(halves / f"{system}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = checkpoint.load(halves / "two" / system / "checkpoint").model.state_dict()
    assert all(torch.equal(first[name], value) for name, value in saved.items())


def test_norms_use_the_statistics_of_all_processes(tmp_path: Path, run_two: RunTwo) -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 3, 4, 4) * 3.0 + 1.0
    torch.save(x, tmp_path / "x.pt")
    run_two(NORMS, tmp_path, "{rank}")
    alone = norms()
    x.requires_grad_()
    out = alone(x)
    out.pow(3).mean().backward()
    halves = [torch.load(tmp_path / f"norms-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for rank, (part, gradients, state) in enumerate(halves):
        assert torch.allclose(part, out[rank::2], atol=1e-5)
        assert torch.allclose(gradients[0] / 2, x.grad[rank::2], atol=1e-6)  # each process took a mean over its half
        assert all(torch.allclose(state[n].float(), v.float(), atol=1e-5) for n, v in alone.state_dict().items())
    for index, parameter in enumerate(alone.parameters(), 1):
        mean = (halves[0][1][index] + halves[1][1][index]) / 2
        assert torch.allclose(mean, parameter.grad, atol=1e-5)


def test_a_corpus_too_small_for_all_processes_is_refused(corpus: Path) -> None:
    stage = recipe(corpus / "tokenizer.json", steps=2).stages[0]
    tokenizer = Tokenizer.open(corpus / "tokenizer.json", max_length=16)
    batches = Batches(stage, corpus / "data", tokenizer, ["red"], 7, STREAMS, rank=0, world=3)
    with pytest.raises(InvalidInput, match=r"batch_size: 8 in each of 3 processes, but squares/train has 16"):
        stage_run._check_batch_sizes(batches)
