"""Merged tokens: the right ones, counted as often as they stand for, and put back where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.test_hdvila import small_config
from training.models.hd_vila.merging import MergedHybrid, soft_matching
from training.models.hd_vila.video import HybridTransformer


def hybrid(grid: int = 3) -> HybridTransformer:
    torch.manual_seed(0)
    side = {"high_height": 64 * grid, "high_width": 64 * grid, "low_height": 16 * grid, "low_width": 16 * grid}
    made = HybridTransformer(small_config(**side, grid_height=grid, grid_width=grid, hybrid_layers=2)).eval()
    with torch.no_grad():  # later blocks begin as purely spatial ones
        for block in made.blocks:
            torch.nn.init.normal_(block.temporal_out.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    return made


def merged_one_by_one(features: np.ndarray, kept: int) -> set[frozenset[int]]:
    """The groups of one clip, by the words of the paper: A proposes to B, the best proposals are taken."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    count = len(unit)
    proposals = []
    for even in range(0, count, 2):
        partner = max(range(1, count, 2), key=lambda odd: (unit[even] @ unit[odd], -odd))
        proposals.append((-(unit[even] @ unit[partner]), even, partner))
    groups = {odd: {odd} for odd in range(1, count, 2)}
    taken = sorted(proposals)[: count - kept]
    for _, even, partner in taken:
        groups[partner].add(even)
    alone = set(range(0, count, 2)) - {even for _, even, _ in taken}
    return {frozenset(group) for group in groups.values()} | {frozenset([even]) for even in alone}


@pytest.mark.parametrize(("count", "kept"), [(9, 9), (9, 7), (9, 4), (8, 4), (49, 25)])
def test_the_likest_pairs_are_merged_in_each_clip(count: int, kept: int) -> None:
    features = torch.randn(3, count, 5, generator=torch.Generator().manual_seed(count + kept))
    merging = soft_matching(features, kept)
    assert merging.members.shape == (3, kept, count)
    for clip in range(3):
        found = {frozenset(np.flatnonzero(row).tolist()) for row in merging.members[clip].numpy()}
        assert found == merged_one_by_one(features[clip].double().numpy(), kept)


def test_of_equal_pairs_the_first_are_merged() -> None:
    merging = soft_matching(torch.ones(1, 6, 4), 4)
    groups = {tuple(np.flatnonzero(row).tolist()) for row in merging.members[0].numpy()}
    assert groups == {(4,), (0, 1, 2), (3,), (5,)}


def test_each_place_gets_the_mean_of_its_group() -> None:
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]])
    merging = soft_matching(features, 3)  # places 0 and 1 are alike
    values = torch.tensor([2.0, 4.0, 6.0, 8.0]).reshape(1, 1, 4, 1)
    assert merging.unmerge(merging.merge(values)).flatten().tolist() == [3.0, 3.0, 6.0, 8.0]
    assert sorted(merging.sizes.flatten().tolist()) == [1.0, 1.0, 2.0]


def test_without_anything_merged_nothing_changes() -> None:
    plain = hybrid()
    x = torch.randn(2, 5, 3, 3, 32)
    with torch.no_grad():
        torch.testing.assert_close(MergedHybrid(plain, 9)(x), plain(x), atol=1e-5, rtol=0)


def test_places_that_show_the_same_are_merged_without_loss() -> None:
    """That a token counts as often as it stands for makes this exact: half of the places, the same result."""
    plain = hybrid(grid=4)
    with torch.no_grad():
        plain.position.zero_()  # places differ by what they show alone
        pairs = torch.randn(2, 5, 8, 32)
        x = pairs.repeat_interleave(2, dim=2).reshape(2, 5, 4, 4, 32)
        torch.testing.assert_close(MergedHybrid(plain, 8)(x), plain(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kept", [3, 10])
def test_at_most_half_can_be_merged(kept: int) -> None:
    with pytest.raises(ValueError, match=rf"tokens: {kept} of 9; 4 to 9 were expected"):
        MergedHybrid(hybrid(), kept)
