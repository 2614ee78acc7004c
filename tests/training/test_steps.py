"""Which texts a step's matching holds against a video, and what it learns where there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from tests.training.test_hdvila import small_config
from training.data.batches import Batch, Tokens
from training.models.hd_vila import HdVila
from training.models.text import VisualCache
from training.recipe import DatasetConfig
from training.train_step import WordMasking, compute_losses

WORDS = WordMasking(mask_id=4, special=torch.arange(5), vocabulary=100)
VIDEOS, PAIRS = 4, 2


@pytest.fixture
def model() -> HdVila:
    torch.manual_seed(0)
    return HdVila(small_config(dropout=0.0, drop_path=0.0)).eval()


def batch(model: HdVila, groups: list[int], negatives: Literal["hard", "random"]) -> Batch:
    """Four videos that an encoder has seen already, each with two captions of its own."""
    torch.manual_seed(1)
    dataset = DatasetConfig(
        corpus="made",
        weight=1,
        batch_size=VIDEOS,
        objectives={"itm": 1.0},
        captions_per_video=PAIRS,
        negatives=negatives,
    )
    ids = torch.arange(5, 5 + VIDEOS * PAIRS)[:, None].expand(-1, 3).contiguous()
    return Batch(
        dataset=dataset,
        streams=None,
        visual={"visual": torch.randn(VIDEOS, 4, model.cfg.visual_width)},
        times=None,
        groups=torch.tensor(groups),
        rows=np.arange(VIDEOS),
        captions=Tokens(ids, torch.ones_like(ids)),
        negatives=None,
        questions=None,
        answers=None,
    )


def held_against(
    model: HdVila, made: Batch, monkeypatch: pytest.MonkeyPatch, times: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(right, wrong), each (times, videos, pairs): numbers of the captions that matching was given."""
    assert made.captions is not None
    states = model.text.encode(made.captions.ids, made.captions.mask)
    given: list[torch.Tensor] = []
    logits = model.match_logits

    def noticing(texts: torch.Tensor, mask: torch.Tensor, seen: VisualCache) -> torch.Tensor:
        given.append((texts[:, None] - states).abs().flatten(2).sum(dim=2).argmin(dim=1))
        return logits(texts, mask, seen)

    monkeypatch.setattr(model, "match_logits", noticing)
    torch.manual_seed(2)
    with torch.no_grad():
        for _ in range(times):
            compute_losses(model, made, WORDS, None)
    numbers = torch.stack(given).reshape(times, VIDEOS, 2, PAIRS)
    return numbers[:, :, 0], numbers[:, :, 1]


@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_each_video_is_matched_with_its_own_captions_and_with_those_of_another_group(
    negatives: Literal["hard", "random"], model: HdVila, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = torch.tensor([0, 0, 1, 2])
    right, wrong = held_against(model, batch(model, groups.tolist(), negatives), monkeypatch, times=20)
    assert torch.equal(right, torch.arange(8).reshape(4, 2).expand(20, -1, -1))
    assert (groups[wrong // PAIRS] != groups[:, None]).all()


def test_random_negatives_come_from_every_other_video_and_hard_ones_from_the_most_similar(
    model: HdVila, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batch(model, [0, 1, 2, 3], "hard")
    assert made.visual is not None
    assert made.captions is not None
    # Videos are turned to where the first caption of the next one lies, so that none is nearer than that.
    with torch.no_grad():
        text, _ = model.encode_text(made.captions.ids, made.captions.mask)
        inverse = torch.linalg.pinv(model.video_project.weight)
        made.visual["visual"].copy_(((text[::PAIRS].roll(-1, 0) - model.video_project.bias) @ inverse.T)[:, None])
        similarity = model.video_embedding(made.visual["visual"]) @ text[::PAIRS].T
    assert similarity.argmax(dim=1).tolist() == [1, 2, 3, 0]
    monkeypatch.setattr(model, "cfg", model.cfg.model_copy(update={"temperature": 1e-3}))
    _, wrong = held_against(model, made, monkeypatch, times=10)
    assert (wrong // PAIRS == torch.tensor([1, 2, 3, 0])[:, None]).all()
    monkeypatch.undo()
    _, wrong = held_against(model, batch(model, [0, 1, 2, 3], "random"), monkeypatch, times=60)
    assert [set(column.flatten().tolist()) for column in (wrong // PAIRS).unbind(1)] == [
        {1, 2, 3},
        {0, 2, 3},
        {0, 1, 3},
        {0, 1, 2},
    ]


def test_where_all_videos_are_of_one_group_nothing_is_wrong(model: HdVila) -> None:
    made = batch(model, [5, 5, 5, 5], "hard")
    loss = compute_losses(model, made, WORDS, None)["itm"]
    assert loss.item() == 0.0
    loss.backward()
    assert not model.match_threshold.grad
    assert made.captions is not None
    wrong = Tokens(made.captions.ids + 20, made.captions.mask)
    assert (
        compute_losses(model, replace(made, negatives=wrong), WORDS, None)["itm"].item() > 0.0
    )  # minimally wrong ones are
