"""Temporal shift: which frames a frame's convolutions see."""

from __future__ import annotations

import pytest
import torch

from training.models.convolution import temporal_shift
from training.models.hd_vila import HdVila, tiny


def test_channels_come_from_the_frames_beside() -> None:
    frames = torch.arange(1.0, 4.0).repeat_interleave(8).reshape(3, 8, 1, 1)  # frame t holds t in all 8 channels
    shifted = temporal_shift(frames, 3, 0.25)[..., 0, 0]
    assert shifted[:, :2].tolist() == [[1, 1], [1, 1], [2, 2]]  # from the frame before; the first keeps its own
    assert shifted[:, 2:4].tolist() == [[2, 2], [3, 3], [3, 3]]  # from the frame after; the last keeps its own
    assert torch.equal(shifted[:, 4:], frames[:, 4:, 0, 0])


def test_videos_of_a_batch_do_not_meet() -> None:
    one, other = torch.rand(3, 8, 2, 2), torch.rand(3, 8, 2, 2)
    together = temporal_shift(torch.cat([one, other]), 3, 0.125)
    assert torch.equal(together, torch.cat([temporal_shift(one, 3, 0.125), temporal_shift(other, 3, 0.125)]))


def test_only_with_a_shift_does_a_frame_see_its_neighbours() -> None:
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


def test_a_video_that_stands_still_is_seen_as_its_frame() -> None:
    torch.manual_seed(0)
    low = HdVila(tiny().model_copy(update={"temporal_shift": 0.125})).eval().video.low
    still = torch.randint(0, 256, (1, 3, 112, 112)).float()
    with torch.no_grad():
        (alone,) = low(still, (3,), 1)
        (repeated,) = low(still.expand(6, -1, -1, -1), (3,), 6)
    assert torch.allclose(repeated, alone.expand_as(repeated), atol=1e-4)


def test_a_backbone_whose_shortcuts_are_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temporal_shift: 0\.125 with backbone 'resnet18'"):
        HdVila(tiny().model_copy(update={"temporal_shift": 0.125, "backbone": "resnet18"}))
