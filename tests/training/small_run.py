"""A packed corpus of a few coloured squares and a recipe that learns from it in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.training.data.corpus_files import movie
from training.data.example import Example, Negative, Question
from training.data.packed import Media, Origin, write_packed
from training.data.strided_frames import Stride
from training.recipe import Recipe
from vitascope.bundle.manifest import FrameStream

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
MODEL = {
    "backbone": "test_resnet",
    "high_height": 64,
    "high_width": 64,
    "low_height": 32,
    "low_width": 32,
    "low_frames": 2,
    "grid_height": 2,
    "grid_width": 2,
    "hybrid_width": 32,
    "hybrid_layers": 1,
    "text_width": 48,
    "text_layers": 1,
    "fused_layers": 1,
    "text_intermediate": 64,
    "vocabulary": 40,
    "max_positions": 32,
    "text_length": 16,
    "vector_width": 24,
    "answer_hidden": 16,
    "frozen_stages": 0,
    "dropout": 0.0,
}
IMAGE_MODEL = {
    name: MODEL[name]
    for name in ("text_width", "text_intermediate", "vocabulary", "max_positions", "text_length", "vector_width")
} | {"image_height": 64, "image_width": 64, "fused_layers": 2, "answer_hidden": 16, "dropout": 0.0}
"""Configuration shared by small models of SOHO and Visual Parsing."""
VIDEO_STREAMS = [
    FrameStream(name="high", frames=1, height=64, width=64, placement="middle"),
    FrameStream(name="low", frames=2, height=32, width=32, placement="uniform"),
]
STREAMS = [stream.model_copy(update={"frames": 1}) for stream in VIDEO_STREAMS]
"""Streams of images, which are packed with one frame."""


def write_tokenizer(path: Path) -> Path:
    """A word-level tokenizer with BERT's special words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "square", "what", "color", "is", "it", "?", *COLOURS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(words[:5])
    made.save(str(path))
    return path


def write_corpus(data: Path, folder: Path, copies: int = 4) -> None:
    """`copies` noisy pictures of each colour as the corpus `squares`, splits train and val."""
    origin = Origin(source="made in the test", licence="CC0-1.0", split_rule="all")
    for number, split in enumerate(("train", "val")):
        write_packed(
            data / "squares" / split,
            STREAMS,
            _items(folder, split, copies, seed=number),
            origin,
        )


def _items(folder: Path, split: str, copies: int, seed: int) -> Iterator[tuple[Example, Media]]:
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    for copy in range(copies):
        for i, (name, colour) in enumerate(COLOURS.items()):
            pixels = np.clip(np.array(colour) + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
            path = folder / f"{split}-{name}-{copy}.png"
            Image.fromarray(pixels).save(path)
            wrong = names[(i + 1 + copy) % len(names)]
            yield (
                Example(
                    key=path.stem,
                    captions=(f"a {name} square",),
                    questions=(Question("what color is it ?", (name,), "colour"),),
                    negatives=(Negative(f"a {wrong} square", 0, 1, "colour"),) if wrong != name else (),
                    still=True,
                    attributes={"colour": name},
                ),
                path,
            )


def write_clips(
    data: Path,
    folder: Path,
    clips: int,
    splits: tuple[str, ...] = ("train",),
    videos: int = 8,
    name: str = "changing",
    stride: Stride | None = None,
) -> None:
    """Videos that show the colours one after another, each beginning with another, as the corpus `name`.

    Of four clips each shows one colour, in the order of `COLOURS` turned by the number of the video; caption and
    answer name the first.
    """
    origin = Origin(source="made in the test", licence="CC0-1.0", split_rule="all")
    for split in splits:
        items: list[tuple[Example, Media]] = []
        for i in range(videos):
            shown = [*COLOURS][i % 4 :] + [*COLOURS][: i % 4]
            path = folder / f"{split}-{i}.mp4"
            movie(path, [COLOURS[colour] for colour in shown])
            requested = Question("what color is it ?", (shown[0],), "colour")
            items.append((Example(path.stem, captions=(f"a {shown[0]} square",), questions=(requested,)), path))
        write_packed(data / name / split, VIDEO_STREAMS, items, origin, clips=clips, stride=stride)


def recipe(tokenizer: Path, *, steps: int = 8, **changes: object) -> Recipe:
    """Two stages: contrast with answers, then the frozen fusion stage."""
    objectives = {"itc": 1.0, "vqa": 1.0}
    source = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "group_by": "colour", "min_crop": 0.8, "jitter": 0.1}
    fusion = {"mlm": 0.5, "itm": 1.0, "vqa": 1.0}
    stage = {"steps": steps, "learning_rate": 3e-3, "text_lr_mult": 1.0, "fused_lr_mult": 1.0, "backbone_lr_mult": 1.0}
    fields: dict[str, object] = {
        "name": "squares",
        "size": "tiny",
        "init": "scratch",
        "tokenizer": str(tokenizer),
        "checkpoint_every": 3,
        "answers_from": ["squares"],
        "model": MODEL,
        "stages": [
            {"name": "contrast", "datasets": [source | {"objectives": objectives}], **stage},
            {"name": "fusion", "frozen": "encoders", "datasets": [source | {"objectives": fusion}], **stage},
        ],
    }
    return Recipe.model_validate(fields | changes)


def image_recipe(tokenizer: Path, architecture: str, model: dict[str, object]) -> Recipe:
    """One stage with all objectives of an image model."""
    objectives = {"itc": 1.0, "mvm": 0.5, "mlm": 0.5, "itm": 1.0, "vqa": 1.0}
    source = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "group_by": "colour", "objectives": objectives}
    stage = {"name": "all", "steps": 7, "learning_rate": 1e-3, "datasets": [source]}
    return recipe(tokenizer, architecture=architecture, model=model, stages=[stage], checkpoint_every=3)
