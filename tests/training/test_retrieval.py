"""Finding photographs by the names that the pretrained classifier gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training.data.example import Example
from training.data.packed import Media, Origin, Packed, open_packed, write_packed
from training.evaluation.gallery import Gallery
from training.evaluation.retrieval import name_retrieval
from training.objectives.class_names import class_names, classify
from vitascope.bundle.manifest import FrameStream


class Naming:
    """Knows every class name as a direction of its own."""

    def __init__(self) -> None:
        self.places = {name: i for i, name in enumerate(class_names())}

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(1000, dtype=np.float32)[[self.places[text] for text in texts]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    items: list[tuple[Example, Media]] = []
    for i in range(12):
        pixels = rng.integers(0, 256, (i % 6 + 1, i % 5 + 1, 3), dtype=np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(path)
        items.append((Example(key=str(i), captions=("a picture",), still=True), path))
    stream = FrameStream(name="high", frames=1, height=96, width=96, placement="middle")
    write_packed(folder / "packed", [stream], items, Origin("made in the test", "CC0-1.0", "all"))
    return open_packed(folder / "packed")


def test_who_agrees_with_the_classifier_finds_every_picture(pictures: Packed) -> None:
    teacher = classify(pictures).astype(np.float32)
    assert np.allclose(teacher.sum(axis=1), 1.0, atol=0.01)
    agreeing = np.eye(teacher.shape[1], dtype=np.float32)[teacher.argmax(axis=1)]
    found = name_retrieval(Naming(), pictures, Gallery(agreeing))  # type: ignore[arg-type]
    assert found["name R@1"] == 100.0
    assert 1 < found["name queries"] == len(set(teacher.argmax(axis=1).tolist()))
    contrary = name_retrieval(Naming(), pictures, Gallery(-agreeing))  # type: ignore[arg-type]
    assert contrary["name R@1"] == 0.0


def test_of_several_clips_the_classifier_is_asked_about_each(pictures: Packed) -> None:
    alone = classify(pictures).astype(np.float32)
    pairs = pictures.arrays["high"].reshape(6, 2, 1, 96, 96, 3)  # neighbours as two clips of one video
    together = classify(replace(pictures, arrays={"high": pairs}, info={**pictures.info, "clips": 2}))
    np.testing.assert_allclose(together.astype(np.float32), alone.reshape(6, 2, -1).mean(axis=1), atol=2e-3)
