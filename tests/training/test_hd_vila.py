"""HD-VILA: shapes, sizes, freezing, token merging and reduced variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from training.models.hd_vila import HdVila, HdVilaConfig, tiny
from training.models.hd_vila.model import DividedSpaceTimeBlock, DropPath, HybridTransformer, apply_to_pairs
from training.models.hd_vila.reduction import (
    MergedHybrid,
    ReducedVideo,
    interpolated_embeddings,
    reduced_config,
    soft_matching,
)
from training.models.text import additive_mask
from vitascope.errors import InvalidInput


@pytest.fixture(scope="module")
def small() -> HdVila:
    torch.manual_seed(0)
    return HdVila(small_config()).eval()


def small_config(**changes: object) -> HdVilaConfig:
    numbers = tiny(answers=7).model_dump() | {
        "high_height": 64,
        "high_width": 64,
        "low_height": 32,
        "low_width": 32,
        "low_frames": 4,
        "grid_height": 2,
        "grid_width": 2,
        "hybrid_width": 32,
        "text_width": 48,
        "text_layers": 1,
        "fused_layers": 1,
        "text_intermediate": 64,
        "vocabulary": 100,
        "max_positions": 32,
        "text_length": 16,
        "vector_width": 24,
        "answer_hidden": 16,
    }
    return HdVilaConfig.model_validate(numbers | changes)


def frames(batch: int, clips: int, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    high = torch.randint(0, 256, (batch, clips, 1, 64, 64, 3), dtype=torch.uint8)
    low = torch.randint(0, 256, (batch, clips, 4, 32, 32, 3), dtype=torch.uint8)
    return {"high": high, "low": low}


def test_shapes_of_all_four_steps(small: HdVila) -> None:
    streams = frames(3, 2)
    ids = torch.randint(1, 100, (3, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        vector, tokens = small.encode_video(streams)
        text, states = small.encode_text(ids, mask)
        seen = small.prepare_visual(tokens)
        fused = small.fuse(states, mask, seen)
        assert vector.shape == text.shape == (3, 24)
        assert tokens.shape == (3, 4, 32)
        assert fused.shape == (3, 9, 48)
        assert small.match_logits(states, mask, seen).shape == (3,)
        assert small.answer_logits(states, mask, seen).shape == (3, 7)
    assert torch.allclose(vector.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(text.norm(dim=-1), torch.ones(3), atol=1e-5)


def test_padding_does_not_change_a_text(small: HdVila) -> None:
    ids = torch.randint(1, 100, (1, 6))
    padded = torch.nn.functional.pad(ids, (0, 5))
    mask = torch.tensor([[1] * 6 + [0] * 5])
    with torch.no_grad():
        alone, _ = small.encode_text(ids, torch.ones_like(ids))
        among, _ = small.encode_text(padded, mask)
    assert torch.allclose(alone, among, atol=1e-5)


@pytest.mark.parametrize("visual_reads_text", [True, False])
def test_many_questions_about_a_video_have_the_answers_of_single_questions(visual_reads_text: bool) -> None:
    torch.manual_seed(1)
    model = HdVila(small_config(fused_layers=2, visual_reads_text=visual_reads_text)).eval()
    tokens = torch.randn(2, 4, 32)
    ids = torch.randint(1, 100, (6, 9))  # three questions about each of two videos
    mask = torch.ones_like(ids)
    mask[4, 6:] = 0
    with torch.no_grad():
        states = model.text.encode(ids, mask)
        together = model.answer_logits(states, mask, model.prepare_visual(tokens))
        whole = model.fuse(states, mask, model.prepare_visual(tokens))[:, 0]
        first = model.text.fuse(states, mask, model.prepare_visual(tokens), first_only=True)[:, 0]
        for i in range(6):
            alone = model.answer_logits(
                states[i : i + 1], mask[i : i + 1], model.prepare_visual(tokens[i // 3 : i // 3 + 1])
            )
            assert torch.allclose(together[i], alone[0], atol=1e-5)
    assert torch.allclose(first, whole, atol=1e-5)


def test_split_attention_equals_the_published_joint_self_attention() -> None:
    torch.manual_seed(2)
    model = HdVila(small_config(fused_layers=2, visual_reads_text=True)).eval()
    tokens = torch.randn(3, 4, 32)
    ids = torch.randint(1, 100, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.no_grad():
        states = model.text.encode(ids, mask)
        hidden = torch.cat([states, model.visual_embeddings(tokens)], dim=1)
        everything = additive_mask(torch.cat([mask, torch.ones(3, 4, dtype=mask.dtype)], dim=1), hidden.dtype)
        for layer in model.text.bert.encoder.layer[1:]:
            hidden = layer(hidden, everything)
        assert torch.allclose(model.fuse(states, mask, model.prepare_visual(tokens)), hidden[:, :9], atol=1e-5)


def test_matching_starts_as_similarity(small: HdVila) -> None:
    tokens = torch.randn(4, 4, 32)
    ids = torch.randint(1, 100, (4, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        text, states = small.encode_text(ids, mask)
        similarity = (text * small.video_embedding(tokens)).sum(dim=-1)
        logits = small.match_logits(states, mask, small.prepare_visual(tokens))
    assert logits.argsort().tolist() == similarity.argsort().tolist()


def test_aligned_visual_tokens_have_the_direction_of_their_words() -> None:
    torch.manual_seed(3)
    model = HdVila(small_config())
    model.align_visual_embeddings()
    tokens = torch.randn(5, 32)
    with torch.no_grad():
        as_words = model.text_project.weight @ model.visual_embeddings.project(tokens).T
        as_video = model.video_project.weight @ tokens.T
    cosine = torch.nn.functional.cosine_similarity(as_words, as_video, dim=0)
    assert torch.allclose(cosine, torch.ones(5), atol=1e-4)


def test_order_of_frames_matters(small: HdVila) -> None:
    streams = frames(1, 1)
    with torch.no_grad():
        forward, _ = small.encode_video(streams)
        backward, _ = small.encode_video(streams | {"low": streams["low"].flip(2)})
    assert (forward - backward).abs().max() > 1e-4


def test_a_depth_map_is_an_additional_frame_without_a_time() -> None:
    torch.manual_seed(0)
    plain = HdVila(small_config()).eval()
    torch.manual_seed(0)
    model = HdVila(small_config(depth=True)).eval()
    assert set(model.state_dict()) - set(plain.state_dict()) == {"video.hybrid.depth"}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert HdVilaConfig.model_validate(plain.cfg.model_dump()) == plain.cfg
    assert "depth" not in plain.cfg.model_dump()
    streams = frames(1, 1)
    near, far = (torch.full((1, 1, 1, 32, 32, 3), grey, dtype=torch.uint8) for grey in (0, 255))
    with torch.no_grad():
        first, second = (model.encode_video(streams | {"depth": depth})[0] for depth in (near, far))
        assert (first - second).abs().max() > 1e-3
        model.video.hybrid.depth.add_(torch.randn(32))
        assert (model.encode_video(streams | {"depth": near})[0] - first).abs().max() > 1e-3
        # Fewer frames interpolate times; depth has none.
        hybrid, maps = model.video.hybrid, torch.zeros(1, 4, 2, 2, 32)
        assert torch.equal(hybrid.add_positions(maps)[0, 3, 0], hybrid.position[0, 0] + hybrid.depth[0, 0])
    with pytest.raises(ValueError, match=r"temporal_shift: 0\.125 with depth"):
        small_config(depth=True, temporal_shift=0.125)


def test_fewer_frames_of_a_model_with_depth_keep_its_depth() -> None:
    model = HdVila(small_config(depth=True)).eval()
    streams = frames(2, 1) | {"depth": torch.randint(0, 256, (2, 1, 1, 32, 32, 3), dtype=torch.uint8)}
    cfg = reduced_config(model.cfg, low_frames=2)
    reduced = ReducedVideo(model, cfg).eval()
    with torch.no_grad():
        vectors, _ = reduced(streams["high"], streams["low"][:, :, [0, 3]], streams["depth"])
        others, _ = reduced(streams["high"], streams["low"][:, :, [0, 3]], 255 - streams["depth"])
    assert [stream.name for stream in cfg.streams()] == ["high", "low", "depth"]
    assert (vectors - others).abs().max() > 1e-4


class Square(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


def test_a_block_attends_over_time_then_over_space_and_then_has_its_mlp() -> None:
    block = DividedSpaceTimeBlock(width=1, heads=1, drop_path=0.0, first=True).eval()
    block.temporal_norm = block.spatial_norm = block.mlp_norm = block.temporal_out = torch.nn.Identity()
    block.mlp = Square()
    with torch.no_grad():
        for attention, bias in ((block.temporal_attention, 0.0), (block.spatial_attention, 10.0)):
            # No query and no key: all are attended to alike, so each reads the mean.
            attention.qkv.weight.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
            attention.qkv.bias.zero_()
            attention.proj.weight.fill_(1.0)
            attention.proj.bias.fill_(bias)
        actual = block(torch.tensor([[[[1.0], [2.0]], [[3.0], [4.0]]]]))  # two frames of two places
    # Time adds the means 2 and 3 of the places: 3 5, 5 7. Space adds the means 4 and 6 of the frames, and 10: 17 19,
    # 21 23 (space first would let time add its 10 once more). The MLP adds squares.
    assert actual.flatten().tolist() == [17 + 17**2, 19 + 19**2, 21 + 21**2, 23 + 23**2]


def test_both_frames_of_a_pair_change_as_their_mean_does() -> None:
    states = torch.tensor([1.0, 3.0, 10.0, 5.0, 7.0, 9.0]).reshape(1, 6, 1, 1)
    changed = apply_to_pairs(lambda x, _: x + x**2, states, None, middle=2)
    # Pairs: 1 3, 5 7. The middle frame, 10, and the last one, without a pair, stand alone.
    assert changed.flatten().tolist() == [1 + 4, 3 + 4, 10 + 100, 5 + 36, 7 + 36, 9 + 81]


def test_both_streams_matter(small: HdVila) -> None:
    streams = frames(1, 1)
    grey = {name: torch.full_like(pixels, 127) for name, pixels in streams.items()}
    with torch.no_grad():
        whole, _ = small.encode_video(streams)
        without_detail, _ = small.encode_video(streams | {"high": grey["high"]})
        without_motion, _ = small.encode_video(streams | {"low": grey["low"]})
    assert (whole - without_detail).abs().max() > 1e-4
    assert (whole - without_motion).abs().max() > 1e-4


@pytest.mark.parametrize("count", [2, 4, 11, 13])
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (4, 4), (3, 5)])
def test_other_frame_counts_and_sizes_run_by_interpolation(small: HdVila, count: int, rows: int, columns: int) -> None:
    torch.manual_seed(count)
    high = torch.randint(0, 256, (1, 1, 1, 32 * rows, 32 * columns, 3), dtype=torch.uint8)
    low = torch.randint(0, 256, (1, 1, count - 1, 16 * rows, 16 * columns, 3), dtype=torch.uint8)
    with torch.no_grad():
        vector, tokens = small.encode_video({"high": high, "low": low})
        changed, _ = small.encode_video({"high": high, "low": torch.cat([low[:, :, :-1], 255 - low[:, :, -1:]], dim=2)})
    assert vector.shape == (1, 24)
    assert tokens.shape == (1, rows * columns, 32)
    assert (vector - changed).abs().max() > 1e-5  # the last frame is seen


def test_low_frames_of_a_quarter_of_the_side_have_the_grid_of_the_high_one() -> None:
    torch.manual_seed(0)
    model = HdVila(small_config(high_height=128, high_width=128, backbone="test_resnet", frozen_stages=0)).eval()
    streams = {"high": torch.randint(0, 256, (1, 1, 1, 128, 128, 3), dtype=torch.uint8), "low": frames(1, 1)["low"]}
    with torch.no_grad():
        vector, tokens = model.encode_video(streams)
        changed, _ = model.encode_video(streams | {"high": 255 - streams["high"]})
    assert tokens.shape == (1, 4, 32)
    assert (vector - changed).abs().max() > 1e-4


def bare_hybrid() -> HybridTransformer:
    """Positions and times alone, of a grid of 2 by 2 and 5 frames, which start as zeros."""
    hybrid = HybridTransformer(small_config(hybrid_layers=0))
    hybrid.norm = torch.nn.Identity()  # type: ignore[assignment]
    torch.nn.init.zeros_(hybrid.position)
    torch.nn.init.zeros_(hybrid.time)
    return hybrid


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (5, [0, 1, 2, 3, 4]),
        (2, [0.75, 3.25]),
        (4, [0.125, 1.375, 2.625, 3.875]),
        (10, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]),
    ],
)
def test_other_frame_counts_have_the_times_between_the_learned_ones(count: int, expected: list[float]) -> None:
    hybrid = bare_hybrid()
    with torch.no_grad():
        hybrid.time += torch.arange(5.0)[None, :, None]
        # Frame i of n is in the middle of its part of the clip: at 5 (i + 0.5) / n - 0.5 of the learned times 0 to 4.
        out = hybrid(torch.zeros(1, count, 2, 2, 32))
    assert out[0, :, 3, 7].tolist() == pytest.approx(expected, abs=1e-5)


def test_other_grids_have_the_positions_between_the_learned_ones() -> None:
    hybrid = bare_hybrid()
    with torch.no_grad():
        hybrid.position += torch.tensor([0.0, 0.0, 1.0, 1.0])[None, :, None]  # the lower row of 2 by 2
        out = hybrid(torch.zeros(1, 5, 4, 3, 32))[0, 2, :, 7].reshape(4, 3)
    # Bicubic weights (a = -0.75) at a quarter: w(0.75) + w(1.75) = 0.2265625; past the edge w(1.25) = -0.10546875.
    for column in range(3):
        assert out[:, column].tolist() == pytest.approx([-0.10546875, 0.2265625, 0.7734375, 1.10546875], abs=1e-5)


@pytest.mark.parametrize(("first", "alone"), [(True, False), (False, True)])
def test_initially_only_the_first_block_mixes_frames(first: bool, alone: bool) -> None:
    torch.manual_seed(5)
    block = DividedSpaceTimeBlock(8, 1, drop_path=0.0, first=first).eval()
    x = torch.randn(1, 3, 4, 8)
    other = x.clone()
    other[:, 2] += torch.randn(4, 8)
    with torch.no_grad():
        assert torch.allclose(block(x)[:, :2], block(other)[:, :2], atol=1e-6) == alone


def test_drop_path_drops_whole_samples_and_scales_the_others() -> None:
    torch.manual_seed(6)
    drop = DropPath(0.25)
    x = torch.randn(2000, 3, 2)
    out = drop.train()(x)
    left_out = (out == 0).flatten(1).all(dim=1)
    assert left_out.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert torch.allclose(out[~left_out], x[~left_out] / 0.75)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_increases_from_zero_to_its_rate_over_the_blocks() -> None:
    blocks = HybridTransformer(small_config(hybrid_layers=4, drop_path=0.3)).blocks
    rates = [block.drop_path.rate for block in blocks if isinstance(block, DividedSpaceTimeBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_each_clip_has_its_own_embedding(small: HdVila) -> None:
    streams = frames(2, 3)
    with torch.no_grad():
        of_clips = small.video_embedding(small.clip_tokens(streams))
        alone = [small.encode_video({name: x[:, i : i + 1] for name, x in streams.items()})[0] for i in range(3)]
    assert torch.allclose(of_clips, torch.stack(alone, dim=1), atol=1e-5)


def test_clips_are_averaged(small: HdVila) -> None:
    streams = frames(1, 2)
    with torch.no_grad():
        _, both = small.encode_video(streams)
        _, first = small.encode_video({name: pixels[:, :1] for name, pixels in streams.items()})
        _, second = small.encode_video({name: pixels[:, 1:] for name, pixels in streams.items()})
    assert torch.allclose(both, (first + second) / 2, atol=1e-5)


def test_frozen_backbone_stages_get_no_gradient() -> None:
    model = HdVila(small_config())
    vector, _ = model.train().encode_video(frames(2, 1))
    vector[0, 0].backward()
    gradients = {n: p.grad is not None for n, p in model.video.high.named_parameters()}
    assert not any(g for n, g in gradients.items() if n.startswith(("stages.0.", "stages.1.", "stages.2.")))
    assert any(g for n, g in gradients.items() if n.startswith("stages.4."))


def test_training_mode_keeps_frozen_statistics() -> None:
    model = HdVila(small_config()).train()
    before = {n: b.clone() for n, b in model.video.named_buffers()}
    model.encode_video(frames(2, 1))
    assert all(torch.equal(before[n], b) for n, b in model.video.named_buffers())


def test_frozen_stages_keep_their_statistics_while_others_update_theirs() -> None:
    model = HdVila(small_config(backbone="test_resnet", frozen_stages=2, frozen_norm=False)).train()
    before = {n: b.clone() for n, b in model.video.high.named_buffers() if "running" in n}
    model.encode_video(frames(2, 1))
    changed = {n for n, b in model.video.high.named_buffers() if n in before and not torch.equal(before[n], b)}
    assert changed == {n for n in before if not n.startswith(("stages.0.", "stages.1."))}


def test_config_refuses_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"grid_height: 3 given.*32 / 16 = 2 was expected"):
        small_config(grid_height=3)


def test_high_and_low_frames_may_have_equal_sizes() -> None:
    alike = HdVila(small_config(high_height=32, high_width=32)).eval()
    streams = frames(2, 1)
    with torch.no_grad():
        vector, tokens = alike.encode_video({"high": streams["high"][:, :, :, ::2, ::2], "low": streams["low"]})
    assert tokens.shape == (2, 4, 32)
    assert torch.allclose(vector.norm(dim=1), torch.ones(2))
    with pytest.raises(ValidationError, match="high_height: 48 given; low_height 32 or a multiple of 32"):
        small_config(high_height=48)


def hybrid(grid: int = 3) -> HybridTransformer:
    torch.manual_seed(0)
    side = {"high_height": 64 * grid, "high_width": 64 * grid, "low_height": 16 * grid, "low_width": 16 * grid}
    made = HybridTransformer(small_config(**side, grid_height=grid, grid_width=grid, hybrid_layers=2)).eval()
    with torch.no_grad():  # later blocks begin as purely spatial ones
        for block in made.blocks:
            torch.nn.init.normal_(block.temporal_out.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    return made


def merged_one_by_one(features: np.ndarray, kept: int) -> set[frozenset[int]]:
    """Return the groups of one clip as in the paper: tokens of A are merged into similar ones of B, best first."""
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
def test_the_most_similar_pairs_are_merged_in_each_clip(count: int, kept: int) -> None:
    features = torch.randn(3, count, 5, generator=torch.Generator().manual_seed(count + kept))
    merging = soft_matching(features, kept)
    assert merging.members.shape == (3, kept, count)
    for clip in range(3):
        actual = {frozenset(np.flatnonzero(row).tolist()) for row in merging.members[clip].numpy()}
        assert actual == merged_one_by_one(features[clip].double().numpy(), kept)


def test_of_equal_pairs_the_first_are_merged() -> None:
    merging = soft_matching(torch.ones(1, 6, 4), 4)
    groups = {tuple(np.flatnonzero(row).tolist()) for row in merging.members[0].numpy()}
    assert groups == {(4,), (0, 1, 2), (3,), (5,)}


def test_each_position_gets_the_mean_of_its_group() -> None:
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]])
    merging = soft_matching(features, 3)  # places 0 and 1 are alike
    values = torch.tensor([2.0, 4.0, 6.0, 8.0]).reshape(1, 1, 4, 1)
    assert merging.unmerge(merging.merge(values)).flatten().tolist() == [3.0, 3.0, 6.0, 8.0]
    assert sorted(merging.sizes.flatten().tolist()) == [1.0, 1.0, 2.0]


def test_merging_no_tokens_changes_nothing() -> None:
    plain = hybrid()
    x = torch.randn(2, 5, 3, 3, 32)
    with torch.no_grad():
        torch.testing.assert_close(MergedHybrid(plain, 9)(x), plain(x), atol=1e-5, rtol=0)


def test_equal_tokens_are_merged_without_loss() -> None:
    """Tokens are weighted by the number of tokens merged into them, so half of the tokens give the same result."""
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


@pytest.fixture(scope="module")
def model() -> HdVila:
    torch.manual_seed(0)
    return HdVila(small_config(low_frames=4, backbone="test_resnet", frozen_stages=0)).eval()


def test_fewer_frames_use_the_time_embeddings_of_the_same_moments() -> None:
    """Two frames are at one and three quarters of the clip, like the second and the fifth of six frames."""
    old, new = tiny(), reduced_config(tiny(), low_frames=2)
    hybrid = HybridTransformer(old)
    with torch.no_grad():
        hybrid.time.copy_(torch.arange(7.0)[None, :, None].expand_as(hybrid.time))
    time = interpolated_embeddings(hybrid, old, new)["time"]
    assert time[0, :, 0].tolist() == [1.0, 3.0, 5.0]  # of seven the fourth is the middle one


def test_time_embeddings_between_learned_times_are_interpolated() -> None:
    old, new = tiny(), reduced_config(tiny(), low_frames=3)
    hybrid = HybridTransformer(old)
    with torch.no_grad():
        hybrid.time.copy_(torch.arange(7.0)[None, :, None].expand_as(hybrid.time))
    # One sixth of the clip lies halfway between the first frame and the second, one half between the third and fourth,
    # which stand before and after the middle frame.
    assert interpolated_embeddings(hybrid, old, new)["time"][0, :, 0].tolist() == pytest.approx([0.5, 3.0, 3.0, 5.5])


def test_smaller_frames_have_a_smaller_grid() -> None:
    small = reduced_config(tiny(), size=160)
    assert [(s.name, s.height, s.width, s.frames) for s in small.streams()] == [
        ("high", 160, 160, 1),
        ("low", 80, 80, 6),
    ]
    assert (small.grid_height, small.grid_width) == (5, 5)


def test_a_reduction_to_the_same_size_changes_nothing(model: HdVila) -> None:
    streams = frames(2, 2)
    with torch.no_grad():
        vector, tokens = ReducedVideo(model, reduced_config(model.cfg))(streams["high"], streams["low"])
        expected = model.encode_video(streams)
    torch.testing.assert_close((vector, tokens), expected)


def test_every_reduction_keeps_the_number_of_output_tokens(model: HdVila) -> None:
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
def test_invalid_reductions_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        reduced_config(tiny(), **changes)


def test_too_few_tokens_are_refused(model: HdVila) -> None:
    with pytest.raises(InvalidInput, match="tokens: 1 of 4; 2 to 4 were expected"):
        ReducedVideo(model, model.cfg, tokens=1)
