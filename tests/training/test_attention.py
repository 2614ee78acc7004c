"""Attention while training and attention while serving are one function, whichever way it is computed."""

from __future__ import annotations

import pytest
import torch

from training.models.attention import attend


@pytest.mark.parametrize("masked", [False, True])
def test_training_and_serving_attend_alike(masked: bool) -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(3, 2, n, 8) for n in (4, 6, 6))
    mask = torch.zeros(3, 1, 1, 6)
    mask[1, ..., 4:] = -1e4
    given = mask if masked else None
    with torch.no_grad():
        served = attend(queries, keys, values, given)
    trained = attend(queries.requires_grad_(), keys, values, given)
    assert trained.requires_grad
    assert torch.allclose(served, trained, atol=1e-6)


def test_what_is_masked_is_not_read() -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(1, 1, n, 4) for n in (2, 5, 5))
    mask = torch.zeros(1, 1, 1, 5)
    mask[..., 3:] = -1e4
    once = attend(queries.requires_grad_(), keys, values, mask)
    values[:, :, 3:] = 100.0
    assert torch.allclose(once, attend(queries, keys, values, mask))
