"""A SOHO checkpoint becomes a bundle that the runtime and the index serve as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.export import export_checkpoint
from tests.training.small_run import write_corpus, write_tokenizer
from tests.training.test_soho import soho_recipe
from training import checkpoint
from training.data.packed import open_packed
from training.evaluation.embedding import streams_of
from training.evaluation.encoder import TorchEncoder
from training.from_bundle import model_of_bundle
from training.loop import train
from vitascope.errors import InvalidInput
from vitascope.model import Model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(checkpoint, packed corpora, bundle)."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("soho")
    (root / "pictures").mkdir()
    write_corpus(root / "data", root / "pictures")
    found = train(soho_recipe(write_tokenizer(root / "tokenizer.json")), root / "data", root / "run")
    bundle = export_checkpoint(found, root / "bundle", data=root / "data", seed=1)
    return found, root / "data", bundle


def test_the_bundle_answers_as_the_checkpoint_does(folders: tuple[Path, Path, Path]) -> None:
    found, data, bundle = folders
    runtime, held = Model.open(bundle, threads=1), checkpoint.load(found)
    reference = TorchEncoder(held.model, runtime.bundle.tokenizer(), held.answers, runtime.bundle.manifest.calibration)
    packed = open_packed(data / "squares" / "val")
    streams = streams_of(packed, np.arange(4), runtime.streams)
    assert set(streams) == {"high"}
    captions = [example.captions[0] for example in packed.examples[:4]]
    ours, theirs = runtime.embed_video(streams), reference.embed_video(streams)
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=0.02)  # weights are stored small
    np.testing.assert_allclose(runtime.embed_text(captions), reference.embed_text(captions), atol=0.02)
    match, wanted = runtime.match(captions, ours.visual_tokens), reference.match(captions, theirs.visual_tokens)
    np.testing.assert_allclose(match.probabilities, wanted.probabilities, atol=0.02)
    asked = ["what color is it ?"] * 4
    best = [answers[0].text for answers in runtime.answer(asked, ours.visual_tokens)]
    assert best == [answers[0].text for answers in reference.answer(asked, theirs.visual_tokens)]


def test_its_card_says_what_it_is(folders: tuple[Path, Path, Path]) -> None:
    bundle = Model.open(folders[2]).bundle
    assert bundle.manifest.architecture == "soho-tiny"
    card = (folders[2] / bundle.manifest.model_card).read_text()
    assert "SOHO, size tiny (Huang et al., CVPR 2021)" in card
    assert "it sees 1 frames of a clip" not in card
    assert "it sees one frame of a clip" in card


def test_training_goes_on_from_its_checkpoint_not_from_its_bundle(folders: tuple[Path, Path, Path]) -> None:
    with pytest.raises(InvalidInput, match=r"holds a model of soho; its checkpoint was expected"):
        model_of_bundle(folders[2])
