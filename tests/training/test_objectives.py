"""Losses, masking, and the pairs that ITM compares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.training.small_run import write_corpus
from tests.training.test_hd_vila import small_config
from training.data.batch import Batch, Tokens
from training.data.packed import Packed, open_packed
from training.models.hd_vila import HdVila
from training.models.text import VisualCache
from training.objectives import class_names, losses
from training.recipe import DatasetConfig
from training.train_step import WordMasking, compute_losses


def test_losses_over_embeddings_are_computed_in_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    video, text = (torch.nn.functional.normalize(torch.randn(8, 64, generator=generator)) for _ in range(2))
    groups, teacher = torch.arange(8), torch.full((8, 8), 1 / 8)
    exact = losses.itc(video, text, 0.01, groups), losses.class_names(video, text, teacher, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = losses.itc(video, text, 0.01, groups), losses.class_names(video, text, teacher, 0.01)
    assert under_autocast == exact


def test_class_probabilities_of_another_corpus_of_the_same_size_are_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []

    def classify(packed: Packed, *, bf16: bool) -> np.ndarray:
        computed.append(packed.folder)
        return np.zeros((len(packed), 1000), np.float16)

    monkeypatch.setattr(class_names, "classify", classify)
    for name in ("first", "first", "second"):
        (tmp_path / name).mkdir(exist_ok=True)
        write_corpus(tmp_path / name, tmp_path / name, copies=1 if name == "first" else 2)
        packed = open_packed(tmp_path / name / "squares" / "train")
        packed = replace(packed, examples=packed.examples[:4])
        class_names.teacher_probabilities(packed, tmp_path / "cache")
    assert [folder.parts[-3] for folder in computed] == ["first", "second"]


def test_one_group_is_not_its_own_negative() -> None:
    pair = torch.eye(4)[[0, 0, 1, 2]]
    shared = losses.itc(pair, pair, 0.05, torch.tensor([0, 0, 1, 2]))
    apart = losses.itc(pair, pair, 0.05, torch.arange(4))
    # The best possible loss for a shared target is log 2 on the two shared rows, nothing on the others.
    assert shared.item() == pytest.approx(math.log(2) / 2, abs=1e-3)
    assert apart.item() == pytest.approx(shared.item(), abs=1e-3)
    wrong = torch.eye(4)[[0, 1, 1, 2]]
    assert losses.itc(wrong, wrong, 0.05, torch.tensor([0, 0, 1, 2])) > shared


def test_similarities_of_clips_merge_by_log_sum_exp() -> None:
    of_clips = torch.tensor([[[0.2, 0.0], [0.6, 0.0]]])  # one video of two clips, two texts
    merged = losses.pool_clip_similarity(of_clips, 0.5)
    # 0.5 * (ln(e^0.4 + e^1.2) - ln 2) = 0.5 * (ln 4.811941 - 0.693147); 0 for the text that both clips miss alike
    assert merged.tolist() == [[pytest.approx(0.438976, abs=1e-5), pytest.approx(0.0, abs=1e-7)]]


def test_equal_clips_merge_to_one_and_a_low_temperature_selects_the_best() -> None:
    alone = torch.tensor([[0.3, -0.7]])
    assert torch.allclose(losses.pool_clip_similarity(alone[:, None].repeat(1, 5, 1), 0.05), alone, atol=1e-6)
    apart = torch.tensor([[[0.1], [0.9], [0.5]]])
    assert losses.pool_clip_similarity(apart, 0.001).item() == pytest.approx(0.9, abs=2e-3)


def reference(video: list, text: list, wrong: list, groups: list[int], temperature: float) -> float:  # type: ignore[type-arg]
    """The contrastive loss of videos of several clips, written out in plain Python."""

    def logit(clips: list[list[float]], words: list[float]) -> float:
        similarities = [sum(a * b for a, b in zip(clip, words, strict=True)) for clip in clips]
        return math.log(sum(math.exp(s / temperature) for s in similarities) / len(clips))

    n = len(video)
    loss = 0.0
    for i in range(n):
        mates = [j for j in range(n) if groups[j] == groups[i]]
        to_texts = [logit(video[i], words) for words in text + wrong]
        to_videos = [logit(clips, text[i]) for clips in video]
        for scores in (to_texts, to_videos):
            total = math.log(sum(math.exp(s) for s in scores))
            loss += 0.5 * sum(total - scores[j] for j in mates) / len(mates) / n
    return loss


@pytest.mark.parametrize("groups", [[0, 1, 2], [0, 1, 0]])
def test_the_contrastive_loss_of_two_clips_equals_a_plain_reference(groups: list[int]) -> None:
    torch.manual_seed(0)
    video, text, wrong = (
        torch.nn.functional.normalize(torch.randn(shape), dim=-1) for shape in ((3, 2, 4), (3, 4), (2, 4))
    )
    expected = reference(video.tolist(), text.tolist(), wrong.tolist(), groups, 0.2)
    actual = losses.itc(video, text, 0.2, torch.tensor(groups), wrong)
    assert actual.item() == pytest.approx(expected, abs=1e-5)


def test_unknown_answers_do_not_affect_the_loss() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert losses.vqa(logits, torch.tensor([0, -100])) < 0.01
    assert losses.vqa(logits, torch.tensor([-100, -100])) == 0.0


def test_matching_weights_right_and_wrong_captions_equally() -> None:
    right, wrong = torch.tensor([0.0]), torch.zeros(5)
    assert losses.itm(right, wrong).item() == pytest.approx(math.log(2))
    assert losses.itm(right + 3, wrong).item() == pytest.approx(losses.itm(right, wrong - 3).item())


def test_the_ranking_loss_depends_only_on_the_difference_of_a_pair() -> None:
    right, wrong = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -3.0])
    assert losses.itm_ranking(right, wrong) < losses.itm_ranking(wrong, right)
    assert losses.itm_ranking(right, wrong).item() == pytest.approx(losses.itm_ranking(right + 9, wrong + 9).item())


def described(places: list[list[float]], classes: list[list[int]], logits: torch.Tensor) -> float:
    """Loss of one video on a 2 by 2 grid, one attribute of three classes."""
    required = torch.tensor([classes]), torch.tensor([places])
    return losses.objects(logits, required[1], required[0], (2, 2), [3], [1.0]).item()


def test_an_object_is_predicted_from_the_token_at_its_position() -> None:
    logits = torch.full((1, 4, 4), -9.0)
    logits[0, 1, 0] = 9.0  # something is in the upper right token
    logits[0, 1, 2] = 9.0  # and it is of class 1
    assert described([[0.9, 0.1]], [[1]], logits) < 0.01
    assert described([[0.9, 0.1]], [[2]], logits) > 1.0
    assert described([[0.1, 0.9]], [[1]], logits) > 1.0


def test_absent_or_hidden_objects_do_not_affect_the_loss() -> None:
    logits = torch.full((1, 4, 4), -9.0)
    logits[0, 1, [0, 2]] = 9.0
    alone = described([[0.9, 0.1]], [[1]], logits)
    assert described([[0.9, 0.1], [0.0, 0.0]], [[1], [-100]], logits) == pytest.approx(alone)
    assert described([[0.9, 0.1], [0.8, 0.2]], [[1], [0]], logits) == pytest.approx(alone)


def test_masking_leaves_special_words_and_padding() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[2, 7, 8, 9, 3, 0, 0]]).repeat(400, 1)
    attention = (ids != 0).long()
    special = torch.tensor([0, 1, 2, 3, 4])
    masked, targets = losses.mask_words(ids, attention, mask_id=4, vocabulary=20, special=special, ratio=0.15)
    chosen = targets != losses.IGNORE_INDEX
    assert not chosen[:, [0, 4, 5, 6]].any()
    assert torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert chosen[:, 1:4].float().mean().item() == pytest.approx(0.15, abs=0.04)
    assert (masked[chosen] == 4).float().mean().item() == pytest.approx(0.8, abs=0.1)


def test_of_fifteen_percent_of_the_words_eight_in_ten_are_masked_one_is_another_and_one_stays() -> None:
    torch.manual_seed(0)
    ids = torch.randint(5, 10_000, (400, 250))
    special = torch.arange(5)
    masked, targets = losses.mask_words(ids, torch.ones_like(ids), mask_id=4, vocabulary=10_000, special=special)
    chosen = targets != losses.IGNORE_INDEX
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.005)
    became, was = masked[chosen], ids[chosen]
    shares = [(became == 4), (became != 4) & (became != was), became == was]
    assert [share.float().mean().item() for share in shares] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    others = became[shares[1]].float()
    assert others.mean().item() == pytest.approx(5_000, abs=250)  # any word of the vocabulary
    more, _ = losses.mask_words(ids, torch.ones_like(ids), mask_id=4, vocabulary=10_000, special=special, ratio=0.4)
    assert (more == 4).float().mean().item() == pytest.approx(0.32, abs=0.01)


OF_TWO = torch.tensor([0, 0, 1, 2, 3])
"""Groups of five videos; the first two are of one."""


def drawn(draw: Callable[[], torch.Tensor], times: int = 4000) -> torch.Tensor:
    """(B, B): how often each row was given each column, as shares."""
    torch.manual_seed(0)
    picked = torch.stack([draw() for _ in range(times)])
    return torch.nn.functional.one_hot(picked, picked.shape[1]).float().mean(dim=0)


def test_hard_negatives_are_sampled_by_similarity_and_never_from_the_same_group() -> None:
    # exp(similarity / 0.5) of the first row: 9, 9, 1, 3, 4; its own group's are left out, so 1/8, 3/8 and 4/8.
    # Of the third row: 2, 6, 9, 1, 1 without its own 9.
    similarity = torch.ones(5, 5)
    similarity[0] = 0.5 * torch.tensor([9.0, 9.0, 1.0, 3.0, 4.0]).log()
    similarity[2] = 0.5 * torch.tensor([2.0, 6.0, 9.0, 1.0, 1.0]).log()
    shares = drawn(lambda: losses.hard_negatives(similarity, OF_TWO, 0.5))
    assert shares[0].tolist() == pytest.approx([0.0, 0.0, 1 / 8, 3 / 8, 4 / 8], abs=0.03)
    assert shares[2].tolist() == pytest.approx([0.2, 0.6, 0.0, 0.1, 0.1], abs=0.03)
    assert not shares[OF_TWO[:, None] == OF_TWO].any()


def test_random_negatives_are_uniform_over_the_other_groups() -> None:
    shares = drawn(lambda: losses.random_negatives(OF_TWO))
    assert shares[0].tolist() == pytest.approx([0.0, 0.0, 1 / 3, 1 / 3, 1 / 3], abs=0.03)
    assert shares[4].tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0], abs=0.03)
    assert not shares[OF_TWO[:, None] == OF_TWO].any()


def test_if_all_rows_are_of_one_group_each_row_is_its_own_negative() -> None:
    same = torch.zeros(3, dtype=torch.long)
    assert losses.random_negatives(same).tolist() == [0, 1, 2]
    assert losses.hard_negatives(torch.rand(3, 3), same, 0.05).tolist() == [0, 1, 2]


WORDS = WordMasking(mask_id=4, special=torch.arange(5), vocabulary=100)
VIDEOS, PAIRS = 4, 2


@pytest.fixture
def model() -> HdVila:
    torch.manual_seed(0)
    return HdVila(small_config(dropout=0.0, drop_path=0.0)).eval()


def batch(model: HdVila, groups: list[int], negatives: Literal["hard", "random"]) -> Batch:
    """Four encoded videos with two captions each."""
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
    """Return indices of the right and of the wrong captions that matching was given, (times, videos, pairs) each."""
    assert made.captions is not None
    states = model.text.encode(made.captions.ids, made.captions.mask)
    inputs: list[torch.Tensor] = []
    logits = model.match_logits

    def recording(texts: torch.Tensor, mask: torch.Tensor, seen: VisualCache) -> torch.Tensor:
        inputs.append((texts[:, None] - states).abs().flatten(2).sum(dim=2).argmin(dim=1))
        return logits(texts, mask, seen)

    monkeypatch.setattr(model, "match_logits", recording)
    torch.manual_seed(2)
    with torch.no_grad():
        for _ in range(times):
            compute_losses(model, made, WORDS, None)
    numbers = torch.stack(inputs).reshape(times, VIDEOS, 2, PAIRS)
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


def test_if_all_videos_are_of_one_group_there_are_no_negatives(model: HdVila) -> None:
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


def test_correlation_compares_all_similarities_with_those_of_captions() -> None:
    states = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))  # two captions each of six videos
    centred = torch.nn.functional.normalize(states - states.mean(dim=0), dim=-1)
    video = torch.nn.functional.normalize(centred.reshape(6, 2, 16).mean(dim=1), dim=-1)
    assert losses.correlation(video, centred, states).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.correlation(-video, centred, states).item() == pytest.approx(2.0, abs=1e-6)
    # Each video is nearest to its own captions, but its similarities are on a scale of their own.
    widened = torch.cat([video, torch.arange(6.0)[:, None]], dim=1), torch.cat([centred, torch.ones(12, 1)], dim=1)
    assert losses.correlation(*widened, states).item() > 0.2
