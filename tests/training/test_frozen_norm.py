"""A folded norm changes how a convolution is computed, and nothing else."""

from __future__ import annotations

import copy

import timm
import torch
from torch import nn

from training.models.batch_norm import fold_frozen_norms


def network() -> nn.Module:
    """An EfficientNet whose norms are not the identity, in training mode with its norms at fixed statistics."""
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
    expected, found = plain(pixels), folded(pixels)
    assert torch.allclose(expected, found, atol=1e-10)
    expected.square().sum().backward()
    found.square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), folded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-10), name


def test_in_evaluation_mode_nothing_is_folded() -> None:
    plain = network().eval()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(plain(pixels), folded(pixels))
