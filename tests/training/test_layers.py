"""Attention, temporal shift and folded norms."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from training.models.batch_norm import fold_frozen_norms
from training.models.convolution import temporal_shift
from training.models.hd_vila import HdVila, tiny
from training.models.text import attend
from vitascope.errors import InvalidInput


@pytest.mark.parametrize("masked", [False, True])
def test_training_and_serving_attend_alike(masked: bool) -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(3, 2, n, 8) for n in (4, 6, 6))
    mask = torch.zeros(3, 1, 1, 6)
    mask[1, ..., 4:] = -1e4
    inputs = mask if masked else None
    with torch.no_grad():
        served = attend(queries, keys, values, inputs)
    trained = attend(queries.requires_grad_(), keys, values, inputs)
    assert trained.requires_grad
    assert torch.allclose(served, trained, atol=1e-6)


def test_masked_tokens_are_not_attended_to() -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(1, 1, n, 4) for n in (2, 5, 5))
    mask = torch.zeros(1, 1, 1, 5)
    mask[..., 3:] = -1e4
    once = attend(queries.requires_grad_(), keys, values, mask)
    values[:, :, 3:] = 100.0
    assert torch.allclose(once, attend(queries, keys, values, mask))


def test_shifted_channels_come_from_neighbouring_frames() -> None:
    frames = torch.arange(1.0, 4.0).repeat_interleave(8).reshape(3, 8, 1, 1)  # frame t holds t in all 8 channels
    shifted = temporal_shift(frames, 3, 0.25)[..., 0, 0]
    assert shifted[:, :2].tolist() == [[1, 1], [1, 1], [2, 2]]  # from the frame before; the first keeps its own
    assert shifted[:, 2:4].tolist() == [[2, 2], [3, 3], [3, 3]]  # from the frame after; the last keeps its own
    assert torch.equal(shifted[:, 4:], frames[:, 4:, 0, 0])


def test_videos_of_a_batch_are_not_mixed() -> None:
    first, other = torch.rand(3, 8, 2, 2), torch.rand(3, 8, 2, 2)
    together = temporal_shift(torch.cat([first, other]), 3, 0.125)
    assert torch.equal(together, torch.cat([temporal_shift(first, 3, 0.125), temporal_shift(other, 3, 0.125)]))


def test_a_frame_depends_on_its_neighbours_only_with_a_shift() -> None:
    def first_frame(share: float) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        cfg = tiny().model_copy(update={"temporal_shift": share})
        low = HdVila(cfg).eval().video.low
        pixels = torch.randint(0, 256, (2, 3, 112, 112)).float()
        changed = torch.stack([pixels[0], 255 - pixels[1]])
        with torch.no_grad():
            return low(pixels, (3,), 2)[0][0], low(changed, (3,), 2)[0][0]

    before, after = first_frame(0.0)
    assert torch.allclose(before, after, atol=1e-6)
    before, after = first_frame(0.125)
    assert (before - after).abs().max() > 1e-3


def test_a_still_video_has_the_features_of_its_frame() -> None:
    torch.manual_seed(0)
    low = HdVila(tiny().model_copy(update={"temporal_shift": 0.125})).eval().video.low
    still = torch.randint(0, 256, (1, 3, 112, 112)).float()
    with torch.no_grad():
        (alone,) = low(still, (3,), 1)
        (repeated,) = low(still.expand(6, -1, -1, -1), (3,), 6)
    assert torch.allclose(repeated, alone.expand_as(repeated), atol=1e-4)


def test_a_backbone_whose_shortcuts_are_not_known_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"temporal_shift: 0\.125 with backbone 'resnet18'"):
        HdVila(tiny().model_copy(update={"temporal_shift": 0.125, "backbone": "resnet18"}))


def network() -> nn.Module:
    """An EfficientNet in training mode, whose norms are not the identity and use fixed statistics."""
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return made.double()


def frozen(module: nn.Module) -> nn.Module:
    module.train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return module


def test_outputs_gradients_and_names_are_those_of_separate_layers() -> None:
    plain = network()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert list(plain.state_dict()) == list(folded.state_dict())
    frozen(plain), frozen(folded)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected, actual = plain(pixels), folded(pixels)
    assert torch.allclose(expected, actual, atol=1e-10)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), folded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-10), name


def test_norms_are_not_folded_in_evaluation_mode() -> None:
    plain = network().eval()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(plain(pixels), folded(pixels))
