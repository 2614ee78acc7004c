"""Videos of several clips, by a checkpoint and by the bundle that was exported from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model_export.export import export_checkpoint
from model_export.parity.checks import real_cases
from tests.training.small_run import write_clips, write_tokenizer
from training import checkpoint
from training.data.packed import Packed, open_packed
from training.evaluation.encoder import embed_texts
from training.evaluation.report import evaluate, open_encoder
from training.evaluation.retrieval import embed_gallery
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder / "data", folder, 4, ("train", "val", "test"), name="pictogram_videos")
    return folder / "data"


def merging(checkpoint_folder: Path, folder: Path) -> Path:
    """A copy of the checkpoint whose clips merge by log-sum-exp."""
    shutil.copytree(checkpoint_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"clip_merge": "logsumexp"}))
    return folder


def assert_same_embeddings(
    checkpoint_folder: Path, bundle: Path, packed: Packed, temperature: float | None, clips: int | None
) -> np.ndarray:
    """Compare what is measured: embeddings of videos and captions. Return those of the videos.

    Ranks are not compared: an untrained model embeds the few videos nearly alike, and rounding decides their order.
    """
    encoders = open_encoder(checkpoint_folder), open_encoder(bundle)
    expected, actual = (embed_gallery(encoder, packed, temperature, clips=clips)[0].vectors for encoder in encoders)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    captions = sorted({caption for example in packed.examples for caption in example.captions})
    np.testing.assert_allclose(*(embed_texts(encoder, captions) for encoder in encoders), atol=1e-4)
    return expected


@pytest.mark.usefixtures("exported_before")
@pytest.mark.parametrize("merge", ["mean", "logsumexp"])
def test_a_bundle_is_measured_as_its_checkpoint(
    folders: tuple[Path, Path], data: Path, tmp_path: Path, merge: str
) -> None:
    held = merging(folders[0], tmp_path / "checkpoint") if merge == "logsumexp" else folders[0]
    bundle = export_checkpoint(held, tmp_path / "bundle", precision="float32", data=folders[1], seed=1)
    packed = open_packed(data / "pictogram_videos" / "test")
    temperature = 0.05 if merge == "logsumexp" else None
    gallery = assert_same_embeddings(held, bundle, packed, temperature, clips=3)
    assert gallery.shape == ((8, 3, 24) if merge == "logsumexp" else (8, 24))
    of_checkpoint, of_bundle = (
        evaluate(model, data, corpora=["pictogram_videos"], clips=3)["pictogram_videos"] for model in (held, bundle)
    )
    assert of_checkpoint.keys() == of_bundle.keys()
    assert of_checkpoint["clips"] == of_bundle["clips"] == 3


@pytest.mark.usefixtures("exported_before")
def test_a_bundle_is_measured_on_any_corpus_whose_frames_it_sees(
    folders: tuple[Path, Path], tmp_path: Path, data: Path
) -> None:
    bundle = export_checkpoint(folders[0], tmp_path / "bundle", precision="float32", data=folders[1], seed=1)
    shutil.copytree(folders[1] / "squares", tmp_path / "data" / "mine")
    shutil.copytree(data / "pictogram_videos", tmp_path / "data" / "talks")
    of_checkpoint, of_bundle = (evaluate(m, tmp_path / "data", "val", clips=None) for m in (folders[0], bundle))
    assert [*of_checkpoint] == [*of_bundle] == ["mine", "talks"]
    for corpus in of_checkpoint:
        assert of_checkpoint[corpus].keys() == of_bundle[corpus].keys()
        assert_same_embeddings(folders[0], bundle, open_packed(tmp_path / "data" / corpus / "val"), None, clips=None)
    packing = tmp_path / "data" / "mine" / "val" / "pack.json"
    packing.write_text(packing.read_text().replace('"height": 32', '"height": 16'))
    low = tmp_path / "data" / "mine" / "val" / "low.npy"
    np.save(low, np.ascontiguousarray(np.load(low)[:, :, ::2]))
    with pytest.raises(InvalidInput, match=r"mine.*: low: 1 frame of 32x16 .* 2 frames of 32x32 .* expected"):
        evaluate(bundle, tmp_path / "data", "val")


def test_parity_is_checked_on_the_clips_that_are_packed(folders: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path / "tokenizer.json"), max_length=16)
    packed = open_packed(data / "pictogram_videos" / "val")
    cases = real_cases(checkpoint.load(folders[0]).model, tokenizer, [packed], count=3)
    assert [case.inputs["high"].shape[:2] for case in cases["video"]] == [(3, 4)]
