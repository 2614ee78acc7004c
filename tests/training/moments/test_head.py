"""Heads and losses: padding, targets of windows, and what the losses reward."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from training.moments.head import MomentHead
from training.moments.losses import Batch, boundary_losses, coverage, foreground
from training.moments.recipe import HeadConfig, moment_recipe


def small_head(patch: int = 1) -> MomentHead:
    torch.manual_seed(0)
    return MomentHead(HeadConfig(width=16, layers=2, patch=patch), 12).eval()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_outputs_do_not_depend_on_padding_and_spans_lie_within_the_video(patch: int) -> None:
    head = small_head(patch)
    windows, text = normalize(torch.randn(2, 9, 12), dim=-1), normalize(torch.randn(2, 12), dim=-1)
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    windows[1, 5:] = 3.0
    padded = head(windows, mask, text)
    alone = head(windows[1:, :5], mask[1:, :5], text[1:])
    for whole, part in zip(padded, alone, strict=True):
        torch.testing.assert_close(whole[1:, :5], part, atol=1e-5, rtol=1e-5)
    saliency, spans, scores = padded
    assert not saliency[1, 5:].any()
    assert not scores[1, 5:].any()
    assert (spans[..., 0] <= spans[..., 1]).all()
    assert spans.min() >= 0
    assert spans[1].max() <= 5
    assert spans[0].max() <= 9


def test_the_shipped_head_has_less_than_a_million_parameters() -> None:
    head = MomentHead(moment_recipe("spans").head, 256)
    assert sum(parameter.numel() for parameter in head.parameters()) < 1_000_000


MOMENTS = torch.tensor([[[1.0, 4.2], [2.4, 3.6], [6.1, 6.3]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])


def test_a_window_belongs_to_the_shortest_moment_around_its_middle() -> None:
    positive, targets = foreground(MOMENTS, 8)
    assert positive[0].tolist() == [False, True, True, True, False, False, True, False]  # 6: the nearest to 6.2
    assert not positive[1].any()
    assert targets[0, 1].tolist() == pytest.approx([1.0, 4.2])
    assert targets[0, 2].tolist() == pytest.approx([2.4, 3.6])
    expected = [0, 1, 1, 1, 0.2, 0, 0.2, 0]
    assert coverage(MOMENTS, 8)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_boundary_losses_are_zero_for_exact_spans_and_grow_with_distance() -> None:
    targets = torch.tensor([[[2.0, 4.0]]])
    positive = torch.ones(1, 1, dtype=torch.bool)
    values = [
        [float(x) for x in boundary_losses(torch.tensor([[span]]), targets, positive)]
        for span in ([2.0, 4.0], [2.0, 5.0], [5.0, 7.0], [8.0, 10.0])
    ]
    assert values[0] == pytest.approx([0, 0], abs=1e-6)
    assert values[1][1] == pytest.approx(1 / 3, abs=1e-5)
    assert values[2][1] == pytest.approx(1 + 1 / 5, abs=1e-5)  # apart: 1 of the hull's 5 is in neither
    assert values[3] > values[2]  # also without overlap
    none = boundary_losses(targets, targets, ~positive)
    assert [float(x) for x in none] == [0, 0]


def test_a_batch_without_any_moment_has_finite_losses() -> None:
    head = small_head()
    windows, text = normalize(torch.randn(2, 4, 12), dim=-1), normalize(torch.randn(2, 12), dim=-1)
    losses = head.losses(Batch(windows, torch.ones(2, 4, dtype=torch.int64), text, torch.zeros(2, 1, 2)))
    assert all(torch.isfinite(loss) for loss in losses.values())
