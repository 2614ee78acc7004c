"""Visual Parsing: attention-guided masking, regression, shapes and training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.small_run import IMAGE_MODEL, image_recipe
from training.models.visual_parsing import VisualParsing, VisualParsingConfig, tiny
from training.recipe import Recipe

SMALL = IMAGE_MODEL | {
    "backbone": "test_resnet",
    "grid_height": 4,
    "grid_width": 4,
    "patch": 4,
    "swin_width": 8,
    "swin_depths": [1, 2, 2],
    "swin_heads": [1, 2, 4],
    "window": 4,
    "masked_with": 3,
}


def small_config(**changes: object) -> VisualParsingConfig:
    return VisualParsingConfig.model_validate(tiny(answers=7).model_dump() | SMALL | changes)


def frames(batch: int, clips: int = 1) -> dict[str, torch.Tensor]:
    return {"high": torch.randint(0, 256, (batch, clips, 1, 64, 64, 3), dtype=torch.uint8)}


@pytest.fixture(scope="module")
def small() -> VisualParsing:
    torch.manual_seed(0)
    return VisualParsing(small_config()).eval()


def test_shapes_of_all_steps(small: VisualParsing) -> None:
    ids = torch.randint(1, 40, (3, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        vector, tokens = small.encode_video(frames(3, 2))
        text, states = small.encode_text(ids, mask)
        seen = small.prepare_visual(tokens)
        assert vector.shape == text.shape == (3, 24)
        assert tokens.shape == (3, 16, 32)
        assert small.match_logits(states, mask, seen).shape == (3,)
        assert small.answer_logits(states, mask, seen).shape == (3, 7)


def test_attention_is_that_of_the_last_block(small: VisualParsing) -> None:
    """The output of the block, computed from the weights of one head, equals that of Swin."""
    model = VisualParsing(small_config(swin_heads=[1, 1, 1])).eval()
    with torch.no_grad():
        parsed = model.video.parse(frames(2)["high"].flatten(0, 1))
        weights = model.video.attention(parsed.before)
        block = model.video.swin.layers[-1].blocks[-1]
        x = parsed.before.flatten(1, 2)
        values = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)[2]
        x = x + block.attn.proj(weights @ values)
        x = x + block.mlp(block.norm2(x))
        assert torch.allclose(model.video.swin.norm(x), parsed.tokens, atol=1e-5)
    assert weights.shape == (2, 16, 16)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(()), atol=1e-5)


def test_a_token_is_masked_with_those_that_it_attends_to_most(small: VisualParsing) -> None:
    # Token i attends to i + 1, i + 2 and i + 3 (in a ring) most, and least to itself.
    ring = torch.zeros(16, 16)
    for i in range(16):
        for step, weight in ((1, 0.4), (2, 0.3), (3, 0.2)):
            ring[i, (i + step) % 16] = weight
    expected = {tuple(sorted((i + step) % 16 for step in range(4))) for i in range(16)}
    torch.manual_seed(0)
    actual = set()
    for _ in range(60):
        tokens = torch.randn(2, 16, 32)
        hidden, masked = small.mask_visual(tokens, ring.expand(2, -1, -1))
        actual |= {tuple(row.nonzero().flatten().tolist()) for row in masked}
        assert torch.equal(hidden[~masked], tokens[~masked])
        assert torch.equal(hidden[masked], small.mask_embedding.expand(int(masked.sum()), -1))
    assert actual == expected


def test_masked_features_are_predicted_from_the_other_tokens(small: VisualParsing) -> None:
    ids = torch.randint(1, 40, (4, 9))
    mask = torch.ones_like(ids)
    torch.manual_seed(1)
    tokens, attention = small.encode_for_masking(frames(4))
    _, states = small.encode_text(ids, mask)
    with torch.no_grad():
        small.feature_head.weight.zero_()
        small.feature_head.bias.zero_()
    torch.manual_seed(2)
    loss = small.masked_visual_loss(tokens, attention, states, mask)
    torch.manual_seed(2)
    _, masked = small.mask_visual(tokens, attention)
    assert loss.item() == pytest.approx(tokens[masked].pow(2).mean().item(), rel=1e-5)  # the head predicts zero


def test_each_level_reads_the_map_of_its_stride(small: VisualParsing) -> None:
    streams = frames(2, clips=2)
    with torch.no_grad():
        maps = small.video.features({"high": streams["high"].flatten(0, 1)})
        assert [tuple(x.shape[:3]) for x in maps.values()] == [(4, 16, 16), (4, 8, 8), (4, 4, 4)]
        tokens = small.video.merge(maps)
        assert torch.allclose(tokens.reshape(2, 2, 16, 32).mean(dim=1), small.encode_video(streams)[1], atol=1e-5)
        for name in maps:
            without = small.video.merge(maps | {name: torch.zeros_like(maps[name])})
            assert (without - tokens).abs().max() > 0.01


def test_the_first_level_of_a_swin_without_a_cnn_reads_patches() -> None:
    torch.manual_seed(0)
    model = VisualParsing(small_config(backbone="")).eval()
    with torch.no_grad():
        tokens = model.encode_video(frames(3))[1]
        patches = model.video.swin.patch_embed.proj
    assert tokens.shape == (3, 16, 32)
    assert tuple(patches.weight.shape) == (8, 3, 4, 4)
    assert not [name for name, _ in model.named_parameters() if "cnn" in name]


def test_config_refuses_a_grid_that_no_window_spans() -> None:
    with pytest.raises(ValueError, match=r"grid_height: 4 given; at most the window of 2"):
        small_config(window=2)
    with pytest.raises(ValueError, match=r"grid_height: 3 given; image_height 64 / 16"):
        small_config(grid_height=3)


def parsing_recipe(tokenizer: Path) -> Recipe:
    return image_recipe(tokenizer, "visual-parsing", SMALL)


def test_masking_visual_tokens_of_frozen_encoders_is_refused() -> None:
    plain = parsing_recipe(Path("t.json")).model_dump()
    plain["stages"][0]["frozen"] = "encoders"
    with pytest.raises(ValueError, match=r"'mvm' of 'squares' in stage 'all', whose encoders are frozen"):
        Recipe.model_validate(plain)
