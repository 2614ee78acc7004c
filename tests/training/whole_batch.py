"""A corpus and recipes of which two processes with half of each batch must make what one process makes with all of it.

What training draws at random by process (masks, negatives) is made a rule here; the corpus has two kinds of pictures,
so that every foreign caption of a picture reads the same, whichever picture it is taken from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.training.small_run import COLOURS, MODEL, VIDEO_STREAMS, recipe
from tests.training.test_soho import SMALL as SOHO
from tests.training.test_visual_parsing import SMALL as VISUAL_PARSING
from training.data.example import Example, Negative, Question
from training.data.packed import Media, Origin, write_packed
from training.data.scenes.sampling import sample_world
from training.objectives import losses
from training.recipe import Recipe

TEXTS = {"red": "a red square", "green": "what is it ? it is a green square"}
WHOLE_BATCH = 8
STEPS = 4
SEED = 23
"""With it every half of a batch has both colours, and the two halves mostly not as many of each."""


def write_halves(data: Path, folder: Path) -> None:
    """Corpus `halves`: val has 16 pictures, train the two whose answers make the vocabulary."""
    origin = Origin(source="made in the test", licence="CC0-1.0", split_rule="all")
    # Two neighbours of each frame: of a still with one, the place in time would be drawn.
    for split, count in (("train", 2), ("val", 16)):
        write_packed(data / "halves" / split, VIDEO_STREAMS, _items(folder, split, count), origin)


def _items(folder: Path, split: str, count: int) -> Iterator[tuple[Example, Media]]:
    rng = np.random.default_rng(count)
    for i in range(count):
        colour = ("red", "green")[i % 2]
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 60, (64, 64, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{split}-{i}.png"
        Image.fromarray(pixels).save(path)
        answer = ("red", "blue")[i] if split == "train" else colour  # green is not in the vocabulary
        example = Example(
            key=path.stem,
            captions=(TEXTS[colour],),
            questions=(Question("what color is it ?", (answer,), "colour"),),
            # One picture has no negative caption, so its whole batch uses none, in either process.
            negatives=() if i == 5 else (Negative("a blue square", 0, 1, "colour"),),
            still=True,
            attributes={"colour": colour, "scene": asdict(sample_world(0, "train", i))},
        )
        yield example, path


def recipes(tokenizer: Path, batch: int) -> dict[str, Recipe]:
    """Return one recipe per system, with all its objectives."""
    seen = {"itc": 1.0, "correlation": 0.5, "itm": 1.0, "vqa": 1.0, "mlm": 0.5, "class_names": 0.5}
    fused = {"itm": 1.0, "vqa": 1.0, "mlm": 0.5}
    # As in `base`: a ResNet whose norms learn their statistics. This one is shallow, so that rounding stays small.
    backbone = {"backbone": "resnet10t", "frozen_norm": False}
    hd_vila = MODEL | backbone | {"drop_path": 0.0}
    soho = SOHO | backbone | {"revive_below": 0.0}
    stages: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
        "hd-vila": (
            hd_vila,
            [_stage("all", batch, seen | {"objects": 1.0}), _stage("fusion", batch, fused, frozen="encoders")],
        ),
        "soho": (soho, [_stage("all", batch, seen | {"mvm": 1.0})]),
        "visual-parsing": (VISUAL_PARSING, [_stage("all", batch, seen | {"mvm": 1.0})]),
    }
    return {
        system: recipe(
            tokenizer,
            name=system,
            seed=SEED,
            architecture=system,
            model=model,
            stages=of_system,
            answers_from=["halves"],
            precision="float32",
            threads=1,
        )
        for system, (model, of_system) in stages.items()
    }


def _stage(name: str, batch: int, objectives: dict[str, float], **options: object) -> dict[str, Any]:
    source = {
        "corpus": "halves",
        "split": "val",
        "weight": 1.0,
        "batch_size": batch,
        "group_by": "colour",
        "soft_targets": 0.2,
    }
    return {"name": name, "steps": STEPS, "learning_rate": 1e-3, "datasets": [source | {"objectives": objectives}]} | (
        options
    )


def _mask_all(
    ids: Tensor, mask: Tensor, *, mask_id: int, vocabulary: int, special: Tensor, ratio: float
) -> tuple[Tensor, Tensor]:
    chosen = mask.bool() & ~torch.isin(ids, special)
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, losses.IGNORE_INDEX)


def _first(_high: int, size: tuple[int, ...], **_rest: object) -> Tensor:
    return torch.zeros(size, dtype=torch.int64)


RULES = ((losses, "mask_words", _mask_all), (torch, "randint", _first))
"""(module, name, what takes the place of the random choice): all words are masked, and of visual tokens the first."""
