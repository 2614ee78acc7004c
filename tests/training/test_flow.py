"""Inter-modality flow on attention whose answer is known, and of models as they are."""

from __future__ import annotations

import pytest
import torch

from tests.training.test_hdvila import small_config
from training.evaluation.flow import Flow, FlowOptions, flow_by_layer, inter_modality_flow
from training.models.hd_vila import HdVila

# Two text tokens and two visual ones; the first text token is [CLS].
ROWS = [[0.5, 0.1, 0.2, 0.2], [0.1, 0.3, 0.5, 0.1], [0.3, 0.1, 0.3, 0.3], [0.0, 0.2, 0.4, 0.4]]
WORDS = torch.tensor([[True, True]])


def weights(*heads: list[list[float]]) -> torch.Tensor:
    return torch.tensor(heads)[None]


def test_shares_of_a_known_attention() -> None:
    found = inter_modality_flow(weights(ROWS), WORDS)
    # Text: 0.4 + 0.6 of 2; video: 0.4 + 0.2 of 2; both: 1.6 of 4.
    assert found == pytest.approx(Flow(0.5, 0.3, 0.4))


def test_residual_halves_what_crosses() -> None:
    assert inter_modality_flow(weights(ROWS), WORDS, FlowOptions(residual=True)) == pytest.approx(Flow(0.25, 0.15, 0.2))


def test_special_tokens_and_padding_do_not_count() -> None:
    found = inter_modality_flow(weights(ROWS), torch.tensor([[False, True]]))
    # Text: 0.6 of 0.9; video: 0.1 + 0.2 of 0.7 + 1.0; both: 0.9 of 2.6.
    assert found == pytest.approx(Flow(0.6 / 0.9, 0.3 / 1.7, 0.9 / 2.6))


def test_heads_are_averaged_or_the_largest_counts() -> None:
    within = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    across = [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    assert inter_modality_flow(weights(within, across), WORDS).crossing == pytest.approx(0.5)
    assert inter_modality_flow(weights(within, within), WORDS).crossing == 0.0
    assert inter_modality_flow(weights(across, across), WORDS, FlowOptions(heads="max")).crossing == 1.0
    half = [[0.5, 0.0, 0.5, 0.0]] * 2 + [[0.5, 0.0, 0.5, 0.0]] * 2
    assert inter_modality_flow(
        weights(within, half), WORDS, FlowOptions(heads="max")
    ).text_reads_video == pytest.approx(1.0 / 3.5)


def test_visual_tokens_that_read_one_another_only_read_no_text() -> None:
    found = inter_modality_flow(weights(ROWS[:2]), WORDS)
    assert found == pytest.approx(Flow(0.5, 0.0, 0.25))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"weights: \(1, 1, 3, 4\) for 2 text tokens"):
        inter_modality_flow(weights(ROWS[:3]), WORDS)


@pytest.mark.parametrize("reads", [True, False])
def test_the_weights_are_those_that_the_layers_use(reads: bool) -> None:
    """Each layer's attention output, made again from the weights, is the one that the model's layers make."""
    torch.manual_seed(0)
    model = HdVila(small_config(fused_layers=1, visual_reads_text=reads)).eval()
    ids, mask = torch.randint(1, 100, (2, 5)), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    visual = torch.randn(2, 4, 32)
    with torch.no_grad():
        states, seen = model.text.encode(ids, mask), model.prepare_visual(visual)
        (found,) = model.text.fused_attention(states, mask, seen)
        layer = model.text.bert.encoder.layer[-1]
        both = torch.cat([states, seen.tokens], dim=1)
        values = layer.attention.self.value(both).unflatten(2, (12, 4)).transpose(1, 2)
        context = (found[:, :, :5] @ values).transpose(1, 2).flatten(2)
        attended = layer.attention.output(context, states)
        made = layer.output(layer.intermediate(attended), attended)
        expected = model.fuse(states, mask, seen)
    assert found.shape == (2, 12, 9 if reads else 5, 9)
    assert torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-5)
    assert (found[1, :, :, 3:5] < 1e-6).all()  # padding is not read
    assert torch.allclose(made, expected, atol=1e-5)


def test_flow_of_each_fused_layer() -> None:
    torch.manual_seed(0)
    model = HdVila(small_config(fused_layers=2, visual_reads_text=True)).eval()
    ids, mask = torch.randint(5, 100, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    ids[:, 0] = 2
    found = flow_by_layer(model, ids, mask, torch.randn(3, 4, 32), special=[2])
    without = flow_by_layer(model, ids, mask, torch.randn(3, 4, 32), special=[2], options=FlowOptions(special=False))
    assert len(found) == len(without) == 2
    # An untrained model attends to all alike: four of its ten tokens are visual, or four of nine.
    assert all(flow.text_reads_video == pytest.approx(0.4, abs=0.02) for flow in found)
    assert all(flow.text_reads_video == pytest.approx(4 / 9, abs=0.02) for flow in without)
