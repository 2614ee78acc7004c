"""Export of SOHO and Visual Parsing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.export import export_checkpoint
from model_export.weights import Precision
from tests.once import made_once
from tests.training.small_run import write_corpus, write_tokenizer
from tests.training.test_soho import soho_recipe
from tests.training.test_visual_parsing import parsing_recipe
from training import checkpoint
from training.data.packed import open_packed
from training.evaluation.encoder import TorchEncoder, streams_of
from training.from_bundle import model_of_bundle
from training.models import soho, visual_parsing
from training.models.config import FusedConfig
from training.models.pretrained import starts_of
from training.recipe import Recipe
from training.trainer import train
from vitascope.errors import InvalidInput
from vitascope.model import Model

Folders = tuple[str, Path, Path, Path]
"""Name of the system, checkpoint, packed corpora, bundle."""


RECIPES: dict[str, tuple[Callable[[Path], Recipe], dict[str, Any]]] = {
    "soho": (soho_recipe, {"fused_layers": 1}),
    "visual-parsing": (parsing_recipe, {"fused_layers": 1, "swin_depths": [1, 2, 1]}),
}
"""Recipes of the training tests with fewer layers, as the exporter takes seconds per layer; one window is shifted."""


@pytest.fixture(scope="module", params=RECIPES)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    system: str = request.param

    def make(root: Path) -> None:
        torch.set_num_threads(1)
        (root / "pictures").mkdir()
        write_corpus(root / "data", root / "pictures")
        make_recipe, sizes = RECIPES[system]
        recipe = make_recipe(write_tokenizer(root / "tokenizer.json"))
        recipe = recipe.model_copy(update={"model": recipe.model | sizes})
        found = train(recipe, root / "data", root / "run")
        # After seven steps a Swin from nothing sees all squares nearly alike: at reduced precision ties fall otherwise.
        precision: Precision = "int8-weights" if system == "soho" else "float32"
        export_checkpoint(found, root / "bundle", data=root / "data", seed=1, precision=precision)

    root = made_once(tmp_path_factory, system, make)
    return system, root / "run" / "checkpoint", root / "data", root / "bundle"


def test_the_bundle_equals_its_checkpoint(folders: Folders) -> None:
    _, found, data, bundle = folders
    runtime, held = Model.open(bundle, threads=1), checkpoint.load(found)
    reference = TorchEncoder(held.model, runtime.bundle.tokenizer(), held.answers, runtime.bundle.manifest.calibration)
    packed = open_packed(data / "squares" / "val")
    streams = streams_of(packed, np.arange(4), runtime.streams)
    assert set(streams) == {"high"}
    captions = [example.captions[0] for example in packed.examples[:4]]
    ours, theirs = runtime.embed_video(streams), reference.embed_video(streams)
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=0.02)  # weights are stored small
    np.testing.assert_allclose(runtime.embed_text(captions), reference.embed_text(captions), atol=0.02)
    match, expected = runtime.match(captions, ours.visual_tokens), reference.match(captions, theirs.visual_tokens)
    np.testing.assert_allclose(match.probabilities, expected.probabilities, atol=0.02)
    asked = ["what color is it ?"] * 4
    best = [answers[0].text for answers in runtime.answer(asked, ours.visual_tokens)]
    assert best == [answers[0].text for answers in reference.answer(asked, theirs.visual_tokens)]


def test_the_card_describes_the_architecture(folders: Folders) -> None:
    system, _, _, folder = folders
    bundle = Model.open(folder).bundle
    assert bundle.manifest.architecture == f"{system}-tiny"
    card = (folder / bundle.manifest.model_card).read_text()
    assert {"soho": "SOHO, size tiny (Huang", "visual-parsing": "Visual Parsing, size tiny (Xue"}[system] in card
    assert "it sees one frame of a clip" in card


@pytest.mark.parametrize(
    ("cfg", "parts"),
    [(soho.tiny(3), ("EfficientNet-Lite0", "all-MiniLM-L6-v2")), (visual_parsing.tiny(3), ("all-MiniLM-L6-v2",))],
    ids=lambda one: getattr(one, "system", None),
)
def test_only_pretrained_parts_of_the_architecture_are_listed(cfg: FusedConfig, parts: tuple[str, ...]) -> None:
    assert starts_of(cfg, "pretrained") == parts


def test_training_continues_from_the_checkpoint_only(folders: Folders) -> None:
    with pytest.raises(InvalidInput, match=rf"holds a model of {folders[0]}; its checkpoint was expected"):
        model_of_bundle(folders[3])
