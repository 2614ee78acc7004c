"""Visual Parsing: attention-guided masking, regression, shapes and training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.small_run import IMAGE_MODEL, image_recipe
from training.models.pretrained import PretrainedMaps, imagenet_classifier
from training.models.visual_parsing import VisualParsing, VisualParsingConfig, frequency_filters, tiny
from training.objectives import losses
from training.recipe import Recipe

SMALL = IMAGE_MODEL | {
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
    """The block's output, made again from the weights of one head, is the one that Swin makes."""
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


def test_features_are_regressed_from_what_is_left(small: VisualParsing) -> None:
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


def test_the_first_filters_are_orthogonal_frequencies_the_lowest_first() -> None:
    filters = frequency_filters(100, 4)
    assert filters.shape == (48, 3, 4, 4)  # as many as a patch has values
    assert torch.allclose(filters[0], filters[0].mean().expand(3, 4, 4))  # mean brightness
    products = filters.flatten(1) @ filters.flatten(1).T
    assert torch.allclose(products, torch.diag(products.diagonal()), atol=1e-5)
    assert torch.equal(frequency_filters(8, 4), filters[:8])
    assert torch.equal(VisualParsing(small_config()).video.swin.patch_embed.proj.weight, filters[:8])


def test_each_level_predicts_the_map_of_its_stride_of_the_pretrained_cnn() -> None:
    torch.manual_seed(0)
    model = VisualParsing(small_config(predicts_cnn=True))
    streams = frames(2, clips=2)
    tokens, predicted = model.predict_maps(streams)
    maps = PretrainedMaps(model.cfg.cnn_stages, torch.device("cpu"))(streams)
    assert [x.shape for x in maps] == [(4, 16, 16, 24), (4, 8, 8, 40), (4, 4, 4, 112)]
    assert [x.shape for x in predicted] == [x.shape for x in maps]
    pixels = (streams["high"].flatten(0, 2).permute(0, 3, 1, 2).float() - 127.0) / 128.0
    expected = imagenet_classifier().forward_intermediates(pixels, indices=[1, 2, 3], intermediates_only=True)
    assert all(torch.allclose(x.permute(0, 3, 1, 2), y, atol=1e-4) for x, y in zip(maps, expected, strict=True))
    assert torch.allclose(tokens, model.encode_video(streams)[1], atol=1e-5)


def test_the_loss_of_predicted_maps_is_the_fraction_of_variance_they_miss() -> None:
    torch.manual_seed(0)
    maps = [3.0 + 2.0 * torch.randn(6, size, size, 5) for size in (4, 2)]
    standardised = [(x - x.mean(dim=(0, 1, 2))) / x.std(dim=(0, 1, 2), correction=0) for x in maps]
    assert losses.map_regression(standardised, maps).item() == pytest.approx(0.0, abs=1e-5)
    nothing = [torch.zeros_like(x) for x in maps]
    assert losses.map_regression(nothing, maps).item() == pytest.approx(2.0, abs=1e-4)  # all, of maps and of means
    half = [0.5 * x for x in standardised]
    assert losses.map_regression(half, maps).item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 2}, "micro_batch_size: 2 of 'squares' with 'cnn_features'"),
        ({"objectives": {"cnn_features": 1.0, "mvm": 1.0}}, "'mvm' and 'cnn_features' of 'squares'"),
    ],
)
def test_options_that_exclude_the_prediction_of_maps_are_refused(changes: dict[str, object], message: str) -> None:
    plain = parsing_recipe(Path("t.json")).model_dump()
    plain["stages"][0]["datasets"][0] |= {"objectives": {"cnn_features": 1.0}} | changes
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(plain)
    plain["stages"][0]["datasets"][0] |= {"objectives": {"cnn_features": 1.0}, "micro_batch_size": None}
    with pytest.raises(ValueError, match="'cnn_features' for soho; visual-parsing was expected"):
        Recipe.model_validate(plain | {"architecture": "soho"})


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
