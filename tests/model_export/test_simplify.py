"""Simplified video encoders have equal outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model_export.graphs import VideoGraph
from model_export.simplify import simplify
from tests.training.test_hd_vila import frames, small_config
from training.models.hd_vila import HdVila
from training.models.hd_vila.reduction import ReducedVideo, reduced_config


@pytest.fixture(scope="module", params=[False, True])
def model(request: pytest.FixtureRequest) -> HdVila:
    torch.manual_seed(0)
    changes = {"temporal_shift": 0.125, "frozen_stages": 3, "keep_pretrained": True, "early_fusion": 6}
    model = HdVila(small_config(**changes, paired_frames=request.param))
    with torch.no_grad():
        for values in model.video.parameters():
            if values.ndim <= 1 or not values.any():
                values.add_(0.1 * torch.randn_like(values))
    return model.eval()


def outputs(graph: nn.Module, low_frames: int = 4) -> tuple[Tensor, Tensor]:
    streams = frames(2, 2)
    with torch.no_grad():
        vector, tokens = graph(streams["high"], streams["low"][:, :, :low_frames])
    return vector, tokens


@pytest.mark.parametrize("tokens", [None, 3])
def test_simplified_encoder_has_equal_outputs(model: HdVila, tokens: int | None) -> None:
    graph = VideoGraph(model) if tokens is None else ReducedVideo(model, model.cfg, tokens).eval()
    simplified = simplify(graph)
    torch.testing.assert_close(outputs(simplified), outputs(graph), atol=2e-5, rtol=1e-4)
    count = sum(p.numel() for p in graph.parameters())
    assert sum(p.numel() for p in simplified.parameters()) < count, "layers are joined"


def test_simplified_encoder_of_fewer_frames_has_equal_outputs(model: HdVila) -> None:
    graph = ReducedVideo(model, reduced_config(model.cfg, low_frames=3)).eval()
    torch.testing.assert_close(outputs(simplify(graph), 3), outputs(graph, 3), atol=2e-5, rtol=1e-4)


def test_model_itself_is_unchanged(model: HdVila) -> None:
    names = list(model.state_dict())
    before = outputs(VideoGraph(model))
    simplify(VideoGraph(model))
    torch.testing.assert_close(outputs(VideoGraph(model)), before, atol=0.0, rtol=0.0)
    assert list(model.state_dict()) == names
