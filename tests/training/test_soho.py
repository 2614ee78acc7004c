"""SOHO: dictionary by hand, masking, gate and training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small_run import IMAGE_MODEL, image_recipe, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.models.soho import Soho, SohoConfig, VisualDictionary, base, sine_positions, tiny
from training.recipe import Recipe
from training.trainer import train
from vitascope.errors import InvalidInput

SMALL = IMAGE_MODEL | {
    "backbone": "test_resnet",
    "grid_height": 2,
    "grid_width": 2,
    "entries": 8,
    "frozen_stages": 0,
}


def small_config(**changes: object) -> SohoConfig:
    return SohoConfig.model_validate(tiny(answers=7).model_dump() | SMALL | changes)


def frames(batch: int, clips: int = 1) -> dict[str, torch.Tensor]:
    return {"high": torch.randint(0, 256, (batch, clips, 1, 64, 64, 3), dtype=torch.uint8)}


def dictionary(entries: list[list[float]], **options: Any) -> VisualDictionary:
    made = VisualDictionary(len(entries), len(entries[0]), decay=options.pop("decay", 0.5), **options)
    made.entries.copy_(torch.tensor(entries))
    made.sums.copy_(made.entries)
    made.sizes.fill_(1.0)
    return made


def test_each_feature_becomes_its_nearest_entry() -> None:
    actual = dictionary([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]).eval()(
        torch.tensor([[1.0, 1.0], [9.0, 2.0], [1.0, 7.0]])
    )
    assert actual.indices.tolist() == [0, 1, 2]
    assert actual.values.tolist() == [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]


def test_autocast_does_not_change_which_entry_is_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(512, 32, generator=generator)
    made = VisualDictionary(256, 32, decay=0.99)
    made.entries.copy_(torch.randn(256, 32, generator=generator) * 0.05)
    expected = made.nearest(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.nearest(features), expected)


def test_entries_follow_the_running_mean_of_their_features() -> None:
    made = dictionary([[0.0], [10.0]], decay=0.5).train()
    made(torch.tensor([[1.0], [2.0], [12.0]]))
    # sizes: 0.5 * 1 + 0.5 * 2 = 1.5 and 0.5 * 1 + 0.5 * 1 = 1; sums: 0 + 0.5 * 3 = 1.5 and 5 + 0.5 * 12 = 11.
    assert made.sizes.tolist() == [1.5, 1.0]
    assert made.sums.flatten().tolist() == [1.5, 11.0]
    total, smoothing = 2.5, 1e-5
    sizes = [(size + smoothing) / (total + 2 * smoothing) * total for size in (1.5, 1.0)]
    assert made.entries.flatten().tolist() == pytest.approx([1.5 / sizes[0], 11.0 / sizes[1]], rel=1e-6)


def test_values_are_those_of_the_entries_before_or_after_the_update() -> None:
    features = torch.tensor([[1.0], [2.0], [12.0]])
    before = dictionary([[0.0], [10.0]]).train()(features)
    assert before.values.flatten().tolist() == [0.0, 0.0, 10.0]
    made = dictionary([[0.0], [10.0]], update_first=True).train()
    after = made(features)
    assert after.indices.tolist() == before.indices.tolist() == [0, 0, 1]  # assigned before the update in either order
    assert torch.allclose(after.values, made.entries[after.indices])
    assert after.values.flatten().tolist() == pytest.approx([1.0, 1.0, 11.0], abs=1e-3)


def test_a_picture_is_masked_with_the_configured_probability() -> None:
    torch.manual_seed(0)
    model = Soho(small_config(mvm_probability=0.3)).eval()
    batch, counts = 8, []

    def mask_all(tokens: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts.append(len(tokens))
        return tokens, torch.ones_like(indices, dtype=torch.bool)

    model.mask_visual = mask_all  # type: ignore[method-assign]
    tokens, indices = torch.randn(batch, 4, 48), torch.randint(0, 8, (batch, 4))
    states, mask = torch.randn(batch, 5, 48), torch.ones(batch, 5, dtype=torch.int64)
    with torch.no_grad():
        losses = [float(model.masked_visual_loss(tokens, indices, states, mask)) for _ in range(200)]
    assert sum(counts) / (200 * batch) == pytest.approx(0.3, abs=0.04)
    assert losses.count(0.0) == 200 - len(counts) > 0  # batches without a masked picture
    assert all(math.isfinite(loss) for loss in losses)


def test_a_step_without_a_masked_picture_can_be_trained() -> None:
    model = Soho(small_config(mvm_probability=1e-9))
    ids = torch.randint(1, 40, (3, 9))
    tokens, indices = model.encode_for_masking(frames(3))
    loss = model.masked_visual_loss(tokens, indices, model.text.encode(ids, torch.ones_like(ids)), torch.ones_like(ids))
    loss.backward()
    assert loss.item() == 0.0


def test_base_has_the_published_order_and_gate_and_tiny_has_its_own() -> None:
    assert [(cfg.update_first, cfg.mvm_probability) for cfg in (base(), tiny())] == [(True, 0.015), (False, 1.0)]


def test_dictionary_entries_do_not_change_outside_training() -> None:
    made = dictionary([[0.0], [10.0]]).eval()
    made(torch.tensor([[1.0], [2.0]]))
    assert made.entries.flatten().tolist() == [0.0, 10.0]


def test_the_dictionary_uses_the_straight_through_gradient() -> None:
    features = torch.tensor([[1.0, 1.0], [9.0, 2.0]], requires_grad=True)
    values = dictionary([[0.0, 0.0], [10.0, 0.0]]).eval()(features).values
    (values * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_an_unused_entry_is_reset_and_usage_shows_it() -> None:
    torch.manual_seed(0)
    made = dictionary([[0.0], [1000.0]], decay=0.0, revive_below=0.5).train()
    made(torch.tensor([[1.0], [2.0], [3.0]]))
    assert made.usage() == {"entries used": 1.0, "perplexity": pytest.approx(1.0)}
    assert made.entries[1].item() in (1.0, 2.0, 3.0)
    made(torch.tensor([[1.0], [3.0], [1.0], [3.0]]))
    assert made.usage()["entries used"] == 2.0
    unguarded = dictionary([[0.0], [1000.0]], decay=0.5).train()
    unguarded(torch.tensor([[1.0], [2.0], [3.0]]))
    assert unguarded.usage()["entries used"] == 1.0
    unguarded(torch.tensor([[1.0], [3.0]]))
    assert unguarded.usage()["entries used"] == 1.0


def test_perplexity_is_computed_from_the_shares_of_entries() -> None:
    made = dictionary([[0.0], [10.0]]).train()
    made(torch.tensor([[0.0], [0.0], [0.0], [10.0]]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert made.usage()["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-5)


def test_all_tokens_of_one_index_are_masked_and_no_other() -> None:
    torch.manual_seed(0)
    model = Soho(small_config())
    indices = torch.tensor([[3, 5, 3, 3], [1, 1, 2, 2]])
    seen = set()
    for _ in range(40):
        tokens = torch.randn(2, 4, 48)
        hidden, masked = model.mask_visual(tokens, indices)
        for row in range(2):
            drawn = set(indices[row][masked[row]].tolist())
            assert len(drawn) == 1
            assert not drawn & set(indices[row][~masked[row]].tolist())
            seen |= {(row, *drawn)}
        assert torch.equal(hidden[~masked], tokens[~masked])
        assert torch.equal(hidden[masked], model.mask_embedding.expand(int(masked.sum()), -1))
    assert seen == {(0, 3), (0, 5), (1, 1), (1, 2)}


def test_masked_tokens_are_classified_by_cosine_with_the_entries() -> None:
    model = Soho(small_config(entry_temperature=0.5))
    states = torch.randn(3, 48)
    logits = model.entry_logits(states)
    expected = torch.nn.functional.cosine_similarity(states[1], model.video.dictionary.entries[4], dim=0) / 0.5
    assert logits.shape == (3, 8)
    assert logits[1, 4].item() == pytest.approx(expected.item(), abs=1e-5)


def test_shapes_of_all_steps() -> None:
    model = Soho(small_config()).eval()
    ids = torch.randint(1, 40, (3, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        vector, tokens = model.encode_video(frames(3, 2))
        text, states = model.encode_text(ids, mask)
        seen = model.prepare_visual(tokens)
        assert vector.shape == text.shape == (3, 24)
        assert tokens.shape == (3, 4, 48)
        assert model.match_logits(states, mask, seen).shape == (3,)
        assert model.answer_logits(states, mask, seen).shape == (3, 7)
        assert model.text.fuse_visual(states, mask, seen).shape == (3, 4, 48)
        assert model.masked_visual_loss(*model.encode_for_masking(frames(3)), states, mask).isfinite()


def test_a_text_embedding_is_that_of_the_text_alone_after_all_layers() -> None:
    torch.manual_seed(0)
    model = Soho(small_config()).eval()
    ids = torch.randint(1, 40, (2, 6))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before, _ = model.encode_text(ids, mask)
        last = model.text.bert.encoder.layer[-1].output.dense
        last.weight.add_(0.3 * torch.randn_like(last.weight))
        after, _ = model.encode_text(ids, mask)
    assert not torch.allclose(before, after, atol=1e-3)


def test_sine_positions_differ_by_row_and_column() -> None:
    places = sine_positions(3, 4, 16).reshape(3, 4, 16)
    assert torch.equal(places[0, 0, 8:], places[2, 0, 8:])  # same column
    assert torch.equal(places[1, 0, :8], places[1, 3, :8])  # same row
    assert len(places.flatten(0, 1).unique(dim=0)) == 12
    assert places[2, 3, 0].item() == pytest.approx(math.sin(2.0 * math.pi), abs=1e-6)  # the last row ends at 2 pi


def test_config_refuses_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"grid_width: 3 given; image_width 64 makes 2"):
        small_config(grid_width=3)


def test_a_run_learns_its_objectives_logs_the_dictionary_and_resumes_exactly(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    made = soho_recipe(write_tokenizer(tmp_path / "tokenizer.json"))
    whole = checkpoint.load(train(made, tmp_path / "data", tmp_path / "whole")).model
    for steps in (4, None):
        ended = train(made, tmp_path / "data", tmp_path / "pieces", stop_after=steps)
    pieces = checkpoint.load(ended).model
    assert isinstance(pieces, Soho)
    for (name, a), b in zip(whole.state_dict().items(), pieces.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").open()]
    assert all({"loss/mvm squares", "entries used", "perplexity"} <= set(row) for row in rows)
    assert all(1.0 <= row["perplexity"] <= 8.0 for row in rows)


def test_masked_visual_needs_the_dictionary(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_corpus(tmp_path / "data", tmp_path)
    plain = recipe(write_tokenizer(tmp_path / "tokenizer.json")).model_dump()
    plain["stages"][0]["datasets"][0]["objectives"] = {"mvm": 1.0}
    with pytest.raises(InvalidInput, match=r"'mvm' for hd-vila-tiny, which masks no visual tokens"):
        train(Recipe.model_validate(plain), tmp_path / "data", tmp_path / "run")


def soho_recipe(tokenizer: Path) -> Recipe:
    return image_recipe(tokenizer, "soho", SMALL)


def test_without_entries_visual_tokens_are_the_features_of_the_neck() -> None:
    model = Soho(small_config(entries=0)).eval()
    streams = frames(2)
    with torch.no_grad():
        features = model.video.reduce(model.visual_features(streams))
        assert torch.equal(model.encode_video(streams)[1], features)
    assert not [name for name in model.state_dict() if "dictionary" in name or "gate" in name]
    assert model.step_metrics() == {}
    with pytest.raises(InvalidInput, match="entries: 0 in this model's config; 'mvm' predicts them"):
        model.encode_for_masking(streams)
