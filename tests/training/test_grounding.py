"""The head that finds phrases: its training, and its phrases about scenes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_run import COLOURS, STREAMS, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.curves import read_log
from training.data.example import Box, Example, ExampleError, Region
from training.data.packed import Media, Origin, write_packed
from training.data.scenes.generate import make_example
from training.data.scenes.phrases import object_box, sample_region
from training.data.scenes.render import render
from training.data.scenes.world import World
from training.evaluation.grounding import intersection_over_union
from training.evaluation.report import evaluate
from training.objectives.grounding import grounding_loss
from training.recipe import Recipe
from training.trainer import train
from vitascope.errors import InvalidInput


def write_squares(data: Path, folder: Path) -> None:
    """Pictures of two squares of different colours, with a phrase about each and one about a third, as `places`."""
    rng, names = np.random.default_rng(0), list(COLOURS)

    def items(split: str) -> Iterator[tuple[Example, Media]]:
        for number in range(12):
            first, second, absent = rng.permutation(names)[:3]
            pixels, regions = np.full((64, 64, 3), 128, np.uint8), [Region(f"a {absent} square", None)]
            for name, left in zip((first, second), rng.permutation([2, 34]), strict=True):
                top = int(rng.integers(2, 38))
                pixels[top : top + 24, left : left + 28] = COLOURS[name]
                box = (left / 64, top / 64, (left + 28) / 64, (top + 24) / 64)
                regions.append(Region(f"a {name} square", box))
            path = folder / f"{split}-{number}.png"
            Image.fromarray(pixels).save(path)
            yield Example(path.stem, regions=tuple(regions), still=True), path

    for split in ("train", "val"):
        write_packed(data / "places" / split, STREAMS, items(split), Origin("made", "CC0-1.0", "all"))


def grounding_recipe(tokenizer: Path, model: dict[str, object]) -> Recipe:
    dataset = {"corpus": "places", "weight": 1.0, "batch_size": 8, "captions_per_video": 3}
    stage: dict[str, object] = {"name": "grounding", "steps": 16, "learning_rate": 0.02, "frozen": "all_but_grounding"}
    stage |= {"datasets": [dataset | {"objectives": {"grounding": 1.0}}]}
    return recipe(tokenizer, model=model, answers_from=[], stages=[stage])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A data folder, the checkpoint of a model without the head, and that of a run that adds one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("grounding")
    data, tokenizer = folder / "data", write_tokenizer(folder / "tokenizer.json")
    write_corpus(data, folder, copies=2)
    write_squares(data, folder)
    plain = recipe(tokenizer, steps=1)
    start = train(plain.model_copy(update={"stages": plain.stages[:1]}), data, folder / "start")
    made = grounding_recipe(tokenizer, {"grounding_layers": 1})
    return data, start, train(made, data, folder / "run", start_from=start)


def test_the_head_alone_is_trained_from_the_fused_layers_and_measured(runs: tuple[Path, Path, Path]) -> None:
    data, start, trained = runs
    before, after = (checkpoint.load(path).model.state_dict() for path in (start, trained))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(name.startswith("grounding_head.") for name in after.keys() - before)
    first, *_, last = (row["loss/grounding places"] for row in read_log(trained.parent / "log.jsonl"))
    assert last < 0.8 * first
    measured = evaluate(trained, data, "val", ["places"])["places"]
    assert measured["phrases"] == 36
    assert 0 <= measured["pointing"] <= 100
    assert 0 <= measured["mean IoU"] <= 100
    with pytest.raises(InvalidInput, match="grounding_layers = 2"):
        train(grounding_recipe(start / "tokenizer.json", {}), data, trained.parent / "none", start_from=start)


def test_the_loss_is_lowest_for_the_right_heat_map_and_boxes() -> None:
    target = torch.tensor([[0.2, 0.3, 0.6, 0.9], [0.0, 0.0, 0.0, 0.0]])
    heat = torch.full((2, 8, 8), -9.0)
    heat[0, 4, 3] = 9.0
    right = grounding_loss(heat, target, target)
    moved = grounding_loss(heat, target + 0.2, target)
    heat[1, 4, 3] = 9.0
    assert right < moved
    assert right < grounding_loss(heat, target, target)


def drawn_box(world: World, number: int) -> Box:
    """Return the box of the pixels that change in the middle frame when an object is left out."""
    order = tuple(i - (i > number) for i in world.drawing_order if i != number)
    others = replace(world, things=world.things[:number] + world.things[number + 1 :], drawing_order=order)
    frames = [np.asarray(next(islice(render(each), 18, None)), np.int16) for each in (world, others)]
    rows, columns = np.nonzero(np.abs(frames[0] - frames[1]).sum(axis=2))
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    left, top, right, bottom = (float(edge / size) for edge, size in zip(edges, (320, 180) * 2, strict=True))
    return left, top, right, bottom


def test_boxes_of_objects_in_scenes_match_the_drawn_pixels() -> None:
    overlaps = []
    for index in range(8):
        world, _ = make_example(0, "train", index)
        boxes = {number: box for number in range(len(world.things)) if (box := object_box(world, number))}
        for number, box in boxes.items():
            if not any(intersection_over_union(box, other) for i, other in boxes.items() if i != number):
                overlaps.append(intersection_over_union(box, drawn_box(world, number)))
    assert len(overlaps) >= 8
    assert min(overlaps) > 0.8


def test_a_phrase_about_a_scene_names_one_object_or_none() -> None:
    rng, present = Random(0), 0
    world, record = make_example(0, "train", 0)  # a striped orange square and a black triangle
    for _ in range(40):
        region = sample_region(world, rng, held_out_allowed=False)
        subject = re.split(" coming| hit| bump| collid", region.phrase)[0]
        words = [{thing.colour, thing.shape, thing.pattern} - {"plain"} for thing in world.things]
        fitting = [object_box(world, number) for number in range(2) if any(word in subject for word in words[number])]
        assert region.box is None or not fitting or fitting == [region.box], region.phrase
        present += region.box is not None
    assert 20 <= present <= 36
    stored = Example(record["key"], regions=(region, Region("a red one", None)))
    assert Example.from_json(stored.to_json()) == stored
    with pytest.raises(ExampleError, match=r"regions\[0\]\.box: \[0, 0, 2, 1\]; left, top, right and bottom"):
        Example.from_json('{"key": "a", "regions": [{"phrase": "b", "box": [0, 0, 2, 1]}]}')
