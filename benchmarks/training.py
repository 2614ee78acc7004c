"""Cost of training, as Markdown tables: `python -m benchmarks.training recipes`, `base` or `loading`.

`recipes`: steps per second and peak memory of every stage of the shipped recipes, on packed corpora. `base`: parameters
and peak memory of the published sizes, one forward and one backward pass on one sample of random pixels.
`loading`: size of packed splits, and how fast batches are read from them.
Each measurement runs in a separate process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.recipe import RECIPES, Recipe, read_recipe

ARCHITECTURES = ("hd-vila", "soho", "visual-parsing")
EXAMPLES = 256
"""Examples used of each corpus, from its start: a frozen stage encodes all that it uses before its first step."""


def shortened(recipe: Recipe, stage: int, steps: int) -> Recipe:
    """Return a recipe of the first steps of one stage, with its full schedule and without validation."""
    whole = recipe.stages[stage]
    sources = [s.model_copy(update={"limit": min(s.limit or EXAMPLES, EXAMPLES)}) for s in whole.datasets]
    planned = whole.schedule_steps or whole.steps
    only = whole.model_copy(update={"steps": steps, "schedule_steps": planned, "datasets": sources})
    return recipe.model_copy(update={"stages": [only], "validate_on": []})


def recipe_table(names: Sequence[str], data: Path, steps: int, warm_up: int) -> str:
    """Run `steps` steps of every stage of the recipes after a warm-up; return a row per stage and a row per recipe."""
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
    """Return a table with one row per system in its published size."""
    lines = [
        "| system | one sample | parameters, millions | weights, MiB | peak memory of forward and backward, MiB |",
        "|---|---|---|---|---|",
    ]
    for system in systems:
        measured = _in_own_process("sample", system)
        millions, weights = measured["parameters"] / 1e6, measured["parameters"] * 4 / 2**20
        lines.append(f"| {system} | {measured['sample']} | {millions:.1f} | {weights:.0f} | {measured['peak']:.0f} |")
    return "\n".join(lines)


def loading_table(splits: Sequence[Path], steps: int, workers: Sequence[int]) -> str:
    """Return a table with one row per packed split: bytes per clip, and clips per second in batches of 32."""
    lines = [
        "| split | bytes per clip | " + " | ".join(f"clips per second, {n} workers" for n in workers) + " |",
        "|---|---|" + "---|" * len(workers),
    ]
    for split in splits:
        measured = [_in_own_process("load", str(split), str(n), "--steps", str(steps)) for n in workers]
        rates = " | ".join(f"{part['clips_per_second']:.0f}" for part in measured)
        lines.append(f"| {split} | {measured[0]['bytes_per_clip']:.0f} | {rates} |")
    return "\n".join(lines)


def measure_loading(split: Path, workers: int, steps: int) -> dict[str, Any]:
    """Measure bytes per clip on disk, and clips per second over some batches after a pass that fills the page cache."""
    from training.data.batches import Batches, load_batches
    from training.data.packed import open_packed
    from training.models.pretrained import text_folder
    from training.recipe import DatasetConfig, Stage
    from vitascope.tokenizer import Tokenizer

    packed = open_packed(split)
    size = min(32, len(packed))
    dataset = DatasetConfig(
        corpus=split.parent.name, split=split.name, weight=1.0, batch_size=size, objectives={"itc": 1.0}
    )
    stage = Stage(name="loading", steps=steps, learning_rate=1.0, datasets=[dataset])
    tokenizer = Tokenizer.open(text_folder() / "tokenizer.json", max_length=64)
    batches = Batches(stage, split.parent.parent, tokenizer, [], 0, packed.streams)
    for path in split.iterdir():
        path.read_bytes()
    started_at = time.perf_counter()
    clips = sum(size * packed.clips for _ in load_batches(batches, range(steps), workers))
    return {
        "bytes_per_clip": sum(path.stat().st_size for path in split.iterdir()) / len(packed) / packed.clips,
        "clips_per_second": clips / (time.perf_counter() - started_at),
    }


def measure_stage(name: str, stage: int, data: Path, steps: int, warm_up: int) -> dict[str, Any]:
    """Measure the mean seconds per step after the warm-up, and the peak memory of this process in MiB."""
    from training.curves import read_log
    from training.trainer import train

    recipe = shortened(read_recipe(RECIPES / f"{name}.toml"), stage, warm_up + steps)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, data, Path(folder))
        seconds = [row["seconds"] for row in read_log(Path(folder) / "log.jsonl")][warm_up:]
    return {"seconds": sum(seconds) / len(seconds), "peak": peak_memory()}


def measure_sample(system: str, size: str = "base") -> dict[str, Any]:
    """Measure one forward and one backward pass of one sample in float32: embeddings, matching and masked words."""
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
    """Return the peak resident memory of this process in MiB, including pages of memory-mapped corpora."""
    # Not getrusage: for a new process its peak starts at that of the parent process.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _in_own_process(*arguments: str) -> dict[str, Any]:
    """Run this module's command with these arguments; return its last line of output, parsed as JSON."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return result


def _steps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--steps", type=int, default=30, help="number of measured steps of each stage")
    parser.add_argument("--warm-up", type=int, default=5, help="number of steps before them, which are not measured")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    shipped = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser = argparse.ArgumentParser(description="Print the cost of training as Markdown tables.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    recipes = kinds.add_parser("recipes", help="steps per second and peak memory of the shipped recipes")
    recipes.add_argument("names", nargs="*", metavar="RECIPE", help=f"recipes among {shipped} (default: all)")
    _steps(recipes)
    base = kinds.add_parser("base", help="parameters and peak memory of the published sizes")
    base.add_argument(
        "systems", nargs="*", metavar="SYSTEM", help=f"systems among {list(ARCHITECTURES)} (default: all)"
    )
    stage = kinds.add_parser("stage", help="measure one stage for `recipes`; prints JSON")
    stage.add_argument("name")
    stage.add_argument("index", type=int)
    _steps(stage)
    loading = kinds.add_parser("loading", help="size of packed splits, and clips per second in batches")
    loading.add_argument("splits", nargs="+", type=Path, metavar="SPLIT", help="folder of a packed split")
    loading.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    load = kinds.add_parser("load", help="measure one split for `loading`; prints JSON")
    load.add_argument("split", type=Path)
    load.add_argument("workers", type=int)
    for parser_of_kind in (loading, load):
        parser_of_kind.add_argument("--steps", type=int, default=30, help="number of batches to read")
    kinds.add_parser("sample", help="measure one system for `base`; prints JSON").add_argument("system")
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
    elif chosen.kind == "loading":
        print(loading_table(chosen.splits, chosen.steps, chosen.workers))
    elif chosen.kind == "load":
        print(json.dumps(measure_loading(chosen.split, chosen.workers, chosen.steps)))
    else:
        print(json.dumps(measure_sample(chosen.system)))


if __name__ == "__main__":
    main()
