"""Several clips per video, from the packed corpus through training to evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.small_run import COLOURS, MODEL, VIDEO_STREAMS, recipe, write_clips, write_tokenizer
from training import checkpoint
from training.data.batch import Batch
from training.data.batches import Batches
from training.data.packed import open_packed
from training.evaluation.encoder import embed_corpus
from training.evaluation.retrieval import Gallery, embed_gallery, join_galleries, merge_temperature
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import model_config
from training.models.architectures import build
from training.models.hd_vila import HdVila
from training.objectives import losses
from training.recipe import Recipe
from training.train_step import compute_losses, word_masking
from training.trainer import train
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, where corpora are packed as four clips, and `tokenizer.json`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder / "data", folder, 4, SPLITS, name="pictogram_videos")
    write_tokenizer(folder / "tokenizer.json")
    return folder


def clip_recipe(corpus: Path, *, clips: int | None = 2, steps: int = 3, **model: object) -> Recipe:
    """Contrast, then a fusion stage whose encoders stand still."""
    plain = recipe(corpus / "tokenizer.json", steps=steps).model_dump()
    for stage in plain["stages"]:
        stage["datasets"][0] |= {
            "corpus": "pictogram_videos",
            "group_by": None,
            "clips_per_video": clips,
            "batch_size": 4,
        }
    changes = {"answers_from": ["pictogram_videos"], "model": MODEL | model, "checkpoint_every": 2}
    return Recipe.model_validate(plain | changes)


def made(merge: str) -> tuple[HdVila, Recipe]:
    torch.manual_seed(0)
    held = clip_recipe(Path(), clip_merge=merge, temperature=0.2)
    model = build(model_config(held, len(COLOURS)))
    assert isinstance(model, HdVila)
    return model.eval(), held


def batch_of(corpus: Path, held: Recipe) -> Batch:
    tokenizer = Tokenizer.open(corpus / "tokenizer.json", max_length=16)
    return Batches(held.stages[0], corpus / "data", tokenizer, [*COLOURS], 7, VIDEO_STREAMS)[0]


@pytest.mark.parametrize("merge", ["mean", "logsumexp"])
def test_the_contrastive_loss_merges_clips_as_the_model_says(corpus: Path, merge: str) -> None:
    model, held = made(merge)
    batch = batch_of(corpus, held)
    assert batch.streams is not None
    assert batch.captions is not None
    with torch.no_grad():
        actual = compute_losses(model, batch, word_masking(corpus / "tokenizer.json", 40), None)
        text = model.encode_text(batch.captions.ids, batch.captions.mask)[0]
        whole, _ = model.encode_video(batch.streams)
        alone = [model.encode_video({n: x[:, i : i + 1] for n, x in batch.streams.items()})[0] for i in (0, 1)]
    video = {"mean": whole, "logsumexp": torch.stack(alone, dim=1)}
    expected = {name: losses.itc(x, text, 0.2, batch.groups).item() for name, x in video.items()}
    assert abs(expected["mean"] - expected["logsumexp"]) > 1e-4
    assert actual["itc"].item() == pytest.approx(expected[merge], abs=1e-5)


def test_the_fused_layers_read_the_mean_of_the_clips_in_either_case(corpus: Path) -> None:
    actual = []
    for merge in ("mean", "logsumexp"):
        model, held = made(merge)
        with torch.no_grad():
            actual.append(
                compute_losses(model, batch_of(corpus, held), word_masking(corpus / "tokenizer.json", 40), None)
            )
    assert actual[0]["vqa"].item() == actual[1]["vqa"].item()


def test_frozen_encoders_encode_all_clips_once_or_sampled_clips_in_several_views(corpus: Path, tmp_path: Path) -> None:
    def kept(clips: int | None, **changes: Any) -> Path:
        plain = clip_recipe(corpus, clips=clips, steps=1).model_dump()
        plain["stages"][1]["datasets"][0] |= {"min_crop": 1.0, "jitter": 0.0} | changes
        out = tmp_path / f"{clips}-{len(changes)}"
        train(Recipe.model_validate(plain), corpus / "data", out)
        return out / "visual" / "0-pictogram_videos-train" / "visual.npy"

    every = np.load(kept(None))
    assert every.shape[:2] == (1, 8)
    model = checkpoint.load(tmp_path / "None-0" / "checkpoint").model
    encoder = TorchEncoder(model, Tokenizer.open(corpus / "tokenizer.json", max_length=16), [])
    expected = embed_corpus(encoder, open_packed(corpus / "data" / "pictogram_videos" / "train"))[1]
    np.testing.assert_allclose(every[0].astype(float), expected.astype(float), atol=0.05)  # bfloat16 and float16
    views = np.load(kept(1, num_views=3))
    assert views.shape[:2] == (3, 8)
    assert np.abs(views[0].astype(float) - views[1].astype(float)).max() > 1e-3  # other clips were drawn
    assert not kept(1).exists()  # encoded at every step


def test_a_model_learns_from_the_matching_clip_and_is_tested_with_more_clips(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(clip_recipe(corpus), corpus / "data", tmp_path / "mean")
    tuned = clip_recipe(corpus, clip_merge="logsumexp", temperature=0.08)
    ended = train(tuned, corpus / "data", tmp_path / "tuned", start_from=first)
    config = checkpoint.load(ended).model.cfg
    assert (config.clip_merge, config.temperature) == ("logsumexp", 0.08)
    options = ["--data", str(corpus / "data"), "--corpus", "pictogram_videos", "--json"]

    def measured(*more: str) -> dict[str, float]:
        capsys.readouterr()  # what training said
        assert main(["evaluate", str(ended), *options, *more]) == 0
        actual: dict[str, float] = json.loads(capsys.readouterr().out)["pictogram_videos"]
        return actual

    whole, four, two = measured(), measured("--clips", "4"), measured("--clips", "2")
    assert whole == four
    assert (four["clips"], two["clips"]) == (4, 2)
    assert four["gallery"] == 24
    assert main(["evaluate", str(ended), *options, "--clips", "5"]) == 2
    assert "where 4 of each video are packed; from 1 to 4 were expected" in " ".join(capsys.readouterr().err.split())


def test_evaluation_compares_texts_with_each_clip(corpus: Path) -> None:
    model, _ = made("logsumexp")
    packed = open_packed(corpus / "data" / "pictogram_videos" / "test")
    encoder = TorchEncoder(model, Tokenizer.open(corpus / "tokenizer.json", max_length=16), [])
    assert merge_temperature(model.cfg) == 0.2
    videos, tokens = embed_gallery(encoder, packed, 0.2, clips=2)
    assert videos.vectors.shape == (8, 2, 24)
    streams = {name: packed.frames(name)[:, [0, 2]] for name in ("high", "low")}  # the middles of both halves
    together = encoder.embed_video(streams)
    np.testing.assert_allclose(tokens.astype(np.float32), together.visual_tokens, atol=2e-3)
    second = encoder.embed_video({name: x[:, 1:] for name, x in streams.items()}).vectors
    np.testing.assert_allclose(videos.vectors[:, 1], second, atol=1e-5)
    plain, _ = embed_gallery(encoder, packed, None, clips=2)
    np.testing.assert_allclose(plain.vectors, together.vectors, atol=1e-5)


def test_similarities_of_a_gallery_are_those_that_training_merges() -> None:
    torch.manual_seed(0)
    clips, texts = torch.randn(5, 3, 4), torch.randn(2, 4)
    gallery = Gallery(clips.numpy(), 0.3)
    expected = losses.pool_clip_similarity(clips @ texts.T, 0.3)  # (5, 2)
    np.testing.assert_allclose(gallery.scores(texts.numpy()), expected.T, atol=1e-6)
    np.testing.assert_allclose(gallery.pairs(texts.numpy(), [4, 1]), [expected[4, 0], expected[1, 1]], atol=1e-6)
    alone = Gallery(clips[:, 0].numpy())
    np.testing.assert_allclose(alone.scores(texts.numpy())[1, 3], float(texts[1] @ clips[3, 0]), atol=1e-6)
    np.testing.assert_allclose(alone.pairs(texts.numpy(), [4, 3])[1], float(texts[1] @ clips[3, 0]), atol=1e-6)


def test_splits_of_one_gallery_have_equally_many_clips() -> None:
    single, two = Gallery(np.ones((2, 4), np.float32)), Gallery(np.ones((3, 2, 4), np.float32))
    assert join_galleries([two, two]).vectors.shape == (6, 2, 4)
    with pytest.raises(InvalidInput, match=r"clips: \[1, 2\] in the splits of one gallery"):
        join_galleries([single, two])
