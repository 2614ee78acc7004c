"""A cheaper HD-VILA: the places and times that fewer frames and smaller pictures have."""

from __future__ import annotations

import pytest
import torch

from tests.training.test_hdvila import frames, small_config
from training.models.hd_vila import HdVila, tiny
from training.models.hd_vila.reduction import ReducedVideo, interpolated_embeddings, reduced_config
from training.models.hd_vila.video import HybridTransformer
from vitascope.errors import InvalidInput


@pytest.fixture(scope="module")
def model() -> HdVila:
    torch.manual_seed(0)
    return HdVila(small_config(low_frames=4, backbone="test_resnet", frozen_stages=0)).eval()


def test_the_times_of_fewer_frames_are_those_of_the_same_moments() -> None:
    """Two frames of six lie at a quarter and at three quarters of the clip, where the second and the fifth lay."""
    old, new = tiny(), reduced_config(tiny(), low_frames=2)
    hybrid = HybridTransformer(old)
    with torch.no_grad():
        hybrid.time.copy_(torch.arange(7.0)[None, :, None].expand_as(hybrid.time))
    time = interpolated_embeddings(hybrid, old, new)["time"]
    assert time[0, :, 0].tolist() == [1.0, 3.0, 5.0]  # of seven the fourth is the middle one


def test_between_learned_times_they_are_mixed() -> None:
    old, new = tiny(), reduced_config(tiny(), low_frames=3)
    hybrid = HybridTransformer(old)
    with torch.no_grad():
        hybrid.time.copy_(torch.arange(7.0)[None, :, None].expand_as(hybrid.time))
    # One sixth of the clip lies halfway between the first frame and the second, one half between the third and fourth,
    # which stand before and after the middle frame.
    assert interpolated_embeddings(hybrid, old, new)["time"][0, :, 0].tolist() == pytest.approx([0.5, 3.0, 3.0, 5.5])


def test_smaller_pictures_have_a_smaller_grid() -> None:
    small = reduced_config(tiny(), size=160)
    assert [(s.name, s.height, s.width, s.frames) for s in small.streams()] == [
        ("high", 160, 160, 1),
        ("low", 80, 80, 6),
    ]
    assert (small.grid_height, small.grid_width) == (5, 5)


def test_what_is_left_as_it_is_gives_the_same(model: HdVila) -> None:
    streams = frames(2, 2)
    with torch.no_grad():
        vector, tokens = ReducedVideo(model, reduced_config(model.cfg))(streams["high"], streams["low"])
        expected = model.encode_video(streams)
    torch.testing.assert_close((vector, tokens), expected)


def test_there_are_as_many_tokens_whatever_is_reduced(model: HdVila) -> None:
    cfg = reduced_config(model.cfg, low_frames=2, size=32)
    streams = frames(3, 1)
    high, low = streams["high"][:, :, :, ::2, ::2], streams["low"][:, :, :2, ::2, ::2]
    with torch.no_grad():
        vector, tokens = ReducedVideo(model, cfg)(high, low)
    assert vector.shape == (3, 24)
    assert tokens.shape == (3, 4, 32)
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low_frames": 7}, "frames: 7; 2 to 6 were expected"),
        ({"low_frames": 1}, "frames: 1; 2 to 6 were expected"),
        ({"size": 256}, "size: 256 pixels; a multiple of 32 up to 224 was expected"),
        ({"size": 150}, "size: 150 pixels; a multiple of 32 up to 224 was expected"),
    ],
)
def test_what_cannot_be_reduced_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        reduced_config(tiny(), **changes)


def test_too_few_tokens_are_refused(model: HdVila) -> None:
    with pytest.raises(InvalidInput, match="tokens: 1 of 4; 2 to 4 were expected"):
        ReducedVideo(model, model.cfg, tokens=1)
