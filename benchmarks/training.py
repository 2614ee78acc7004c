"""Cost of training, as Markdown tables: `python -m benchmarks.training recipes` or `base`.

`recipes`: steps per second and peak memory of every stage of the shipped recipes, on packed corpora. `base`: parameters
and peak memory of the published sizes, one forward and one backward pass on one sample of random pixels.
Everything is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.cli import RECIPES
from training.recipe import Recipe, read_recipe

ARCHITECTURES = ("hd-vila", "soho", "visual-parsing")
EXAMPLES = 256
"""Examples used of each corpus, from its start: a frozen stage encodes all that it uses before its first step."""


def shortened(recipe: Recipe, stage: int, steps: int) -> Recipe:
    """The first steps of one stage alone, scheduled as in the whole recipe; nothing is validated."""
    whole = recipe.stages[stage]
    sources = [s.model_copy(update={"limit": min(s.limit or EXAMPLES, EXAMPLES)}) for s in whole.datasets]
    planned = whole.schedule_steps or whole.steps
    only = whole.model_copy(update={"steps": steps, "schedule_steps": planned, "datasets": sources})
    return recipe.model_copy(update={"stages": [only], "validate_on": []})


def recipe_table(names: Sequence[str], data: Path, steps: int, warm_up: int) -> str:
    """Runs every stage of the recipes for so many steps after a warm-up; one row per stage, and one per recipe."""
    lines = ["| recipe | stage | steps | steps per second | peak memory, MiB |", "|---|---|---|---|---|"]
    for name in names:
        recipe = read_recipe(RECIPES / f"{name}.toml")
        measured = []
        for index, stage in enumerate(recipe.stages):
            options = [name, str(index), "--data", str(data), "--steps", str(steps), "--warm-up", str(warm_up)]
            measured.append(_in_own_process("stage", *options))
            seconds, peak = measured[-1]["seconds"], measured[-1]["peak"]
            lines.append(f"| {name} | {stage.name} | {stage.steps} | {1 / seconds:.2f} | {peak:.0f} |")
        whole = sum(stage.steps * part["seconds"] for stage, part in zip(recipe.stages, measured, strict=True))
        peak = max(part["peak"] for part in measured)
        lines.append(f"| {name} | all | {recipe.total_steps} | {recipe.total_steps / whole:.2f} | {peak:.0f} |")
    return "\n".join(lines)


def base_table(systems: Sequence[str]) -> str:
    """A table with one row per system in its published size."""
    lines = [
        "| system | one sample | parameters, millions | weights, MiB | peak memory of forward and backward, MiB |",
        "|---|---|---|---|---|",
    ]
    for system in systems:
        measured = _in_own_process("sample", system)
        millions, weights = measured["parameters"] / 1e6, measured["parameters"] * 4 / 2**20
        lines.append(f"| {system} | {measured['sample']} | {millions:.1f} | {weights:.0f} | {measured['peak']:.0f} |")
    return "\n".join(lines)


def measure_stage(name: str, stage: int, data: Path, steps: int, warm_up: int) -> dict[str, Any]:
    """Seconds per step, mean over the steps after the warm-up, and the peak of this process in MiB."""
    from training.curves import read_log
    from training.trainer import train

    recipe = shortened(read_recipe(RECIPES / f"{name}.toml"), stage, warm_up + steps)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, data, Path(folder))
        seconds = [row["seconds"] for row in read_log(Path(folder) / "log.jsonl")][warm_up:]
    return {"seconds": sum(seconds) / len(seconds), "peak": peak_memory()}


def measure_sample(system: str, size: str = "base") -> dict[str, Any]:
    """One sample through all that learns in pre-training, float32: vectors, matching, masked words; and back."""
    import torch
    import torch.nn.functional as F

    from training.models.architectures import ARCHITECTURES as REGISTRY
    from training.models.architectures import build

    torch.manual_seed(0)
    model = build(REGISTRY[system].sizes[size](0)).train()
    cfg = model.cfg
    streams = {
        s.name: torch.randint(0, 256, (1, 1, s.frames, s.height, s.width, 3), dtype=torch.uint8) for s in cfg.streams()
    }
    ids = torch.randint(0, cfg.vocabulary, (1, cfg.text_length))
    mask = torch.ones_like(ids)
    vector, visual = model.encode_video(streams)
    text, states = model.encode_text(ids, mask)
    cache = model.prepare_visual(visual)
    words = model.word_logits(model.fuse(states, mask, cache).flatten(0, 1))
    match = model.match_logits(states, mask, cache)
    loss = F.cross_entropy(words, ids.flatten()) + F.softplus(-match).mean() - (vector * text).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    frames = " + ".join(f"{s.frames} x {s.height}x{s.width}" for s in cfg.streams())
    return {
        "sample": f"{frames} pixels, {cfg.text_length} tokens",
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak": peak_memory(),
    }


def peak_memory() -> float:
    """The most that this process has had resident so far, MiB; pages of memory-mapped corpora count."""
    # Not getrusage: there the peak of a new process begins at that of the one that started it.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _in_own_process(*arguments: str) -> dict[str, Any]:
    """The last line that the command of these arguments prints, which is JSON."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return result


def _steps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--steps", type=int, default=30, help="steps that are measured, of each stage")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them that are not")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    shipped = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser = argparse.ArgumentParser(description="What training costs, as markdown tables.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    recipes = kinds.add_parser("recipes", help="steps per second and peak memory of the shipped recipes")
    recipes.add_argument("names", nargs="*", metavar="RECIPE", help=f"some of {shipped}; default all")
    _steps(recipes)
    base = kinds.add_parser("base", help="parameters and peak memory of the published sizes")
    base.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"some of {list(ARCHITECTURES)}; default all")
    stage = kinds.add_parser("stage", help="what `recipes` runs for each stage; prints JSON")
    stage.add_argument("name")
    stage.add_argument("index", type=int)
    _steps(stage)
    kinds.add_parser("sample", help="what `base` runs for each system; prints JSON").add_argument("system")
    chosen = parser.parse_args(arguments)
    if chosen.kind == "recipes":
        for name in chosen.names:
            if name not in shipped:
                parser.error(f"recipe: {name!r}; one of {shipped} was expected")
        print(recipe_table(chosen.names or shipped, chosen.data, chosen.steps, chosen.warm_up))
    elif chosen.kind == "base":
        print(base_table(chosen.systems or ARCHITECTURES))
    elif chosen.kind == "stage":
        print(json.dumps(measure_stage(chosen.name, chosen.index, chosen.data, chosen.steps, chosen.warm_up)))
    else:
        print(json.dumps(measure_sample(chosen.system)))


if __name__ == "__main__":
    main()
