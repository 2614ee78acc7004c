"""Correction of embeddings for hubs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from tests.training.small_run import MODEL, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.initialization import model_config
from training.models.architectures import build
from training.models.fusion import FusedModel
from training.models.hubness import SIMILARITY_SCALE, HubnessCorrection
from training.trainer import train
from vitascope.errors import InvalidInput


def small_model() -> FusedModel:
    torch.manual_seed(0)
    return build(model_config(recipe(Path("unused"), model=MODEL), 4)).eval()


def test_a_hub_video_is_found_only_by_its_own_texts() -> None:
    torch.manual_seed(0)
    topic = normalize(torch.randn(1, 62), dim=1)
    things = normalize(torch.randn(400, 62), dim=1)
    videos = torch.cat([normalize(things + 0.3 * topic, dim=1), topic])  # the last one is the hub
    texts = normalize(0.5 * things + 0.8 * topic + 0.03 * torch.randn(400, 62), dim=1)
    pad = torch.zeros(401, 2)
    hubness = HubnessCorrection(64, 16)
    hubness.fit(torch.cat([texts, pad[1:]], dim=1), torch.cat([videos, pad], dim=1), seed=0)
    corrected = (
        hubness.correct_text(torch.cat([texts, pad[1:]], dim=1))
        @ hubness.correct_video(torch.cat([videos, pad], dim=1)).T
    )
    nearest = [similarity.argmax(dim=1) for similarity in (texts @ videos.T, corrected)]
    assert (nearest[0] == 400).sum() > 100
    assert (nearest[1] == 400).sum() < 5
    assert (nearest[1] == torch.arange(400)).float().mean() > 0.95


def test_a_correction_without_references_keeps_the_order_of_similarities() -> None:
    torch.manual_seed(0)
    videos, texts = torch.randn(5, 64), torch.randn(7, 64)
    hubness = HubnessCorrection(64, 8)
    corrected = hubness.correct_text(texts) @ hubness.correct_video(videos).T
    similarity = normalize(texts[:, :-2], dim=1) @ normalize(videos[:, :-2], dim=1).T
    assert torch.allclose(corrected, SIMILARITY_SCALE * similarity, atol=1e-6)


def test_rotated_projections_keep_what_a_model_finds_similar() -> None:
    model = small_model()
    width = model.cfg.vector_width
    plane = torch.randn(2, width - 2, width)[0]  # embeddings that leave two directions free
    texts, videos = (normalize(torch.randn(60, width - 2) @ plane, dim=1) for _ in range(2))
    words, tokens = torch.randn(6, model.cfg.text_width), torch.randn(6, 5, model.cfg.visual_width)
    before = model.embedding_of_text_mean(words) @ model.video_embedding(tokens).T
    model.add_hubness_correction(texts, videos, references=4, seed=0)
    assert model.cfg.hub_references == 4
    for embedding in (model.embedding_of_text_mean(words), model.video_embedding(tokens)):
        assert torch.allclose(embedding.norm(dim=1), torch.ones(6), atol=1e-5)
    model.remove_hubness_correction()
    after = model.embedding_of_text_mean(words) @ model.video_embedding(tokens).T
    assert torch.allclose(after, before, atol=1e-5)
    with pytest.raises(InvalidInput, match="hub_references: 100, but there are 60 embeddings"):
        model.add_hubness_correction(texts, videos, references=100, seed=0)


def test_a_stage_ends_with_a_correction_that_its_checkpoint_contains(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    dataset = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "objectives": {"itm": 1.0}}
    stage = {"name": "fusion", "steps": 2, "learning_rate": 1e-3, "hub_references": 4, "datasets": [dataset]}
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    made = recipe(tokenizer, model=MODEL, stages=[{**stage, "frozen": "encoders"}])
    for steps in (1, None):  # the second call continues
        model = checkpoint.load(train(made, tmp_path / "data", tmp_path / "run", stop_after=steps)).model
        assert (model.hubness is None) == (steps == 1)
    assert model.hubness is not None
    assert float(model.hubness.get_buffer("text_references").abs().max()) > 0
    anew = recipe(tokenizer, model=MODEL | {"hub_references": 0}, stages=[{**stage, "hub_references": 0}])
    uncorrected = train(anew, tmp_path / "data", tmp_path / "anew", start_from=tmp_path / "run" / "checkpoint")
    assert checkpoint.load(uncorrected).model.hubness is None
    every_step = recipe(tokenizer, model=MODEL, stages=[stage])
    with pytest.raises(InvalidInput, match=r"hub_references: 4 in stage 'fusion'.* cached videos were expected"):
        train(every_step, tmp_path / "data", tmp_path / "not_cached")
