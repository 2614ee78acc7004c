"""Rewards of captions, and the training of a decoder by them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider import Cider

from tests.training.small_run import MODEL, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.curves import read_log
from training.data.example import Example
from training.models.fusion import CAPTION_PREFIX
from training.objectives.caption_rewards import CiderReward
from training.trainer import train


def corpus_of(examples: list[Example]) -> Any:
    return SimpleNamespace(examples=examples, audio=None)


def test_captions_of_photographs_are_rewarded_by_cider_d_over_the_whole_corpus() -> None:
    written = [
        ("A dog runs on the beach.", "The dog plays."),
        ("Two men play cards, and a woman watches.", "People at a table play cards."),
        ("A man climbs a rock.", "A climber on a steep rock."),
    ]
    reward = CiderReward(corpus_of([Example(f"{i}", captions=own) for i, own in enumerate(written)]))
    generated = ["a dog plays on the beach", "two men play", "a dog on a rock"]
    words = {i: [c.lower().replace(".", "").replace(",", "") for c in own] for i, own in enumerate(written)}
    _, expected = Cider().compute_score(words, {i: [text] for i, text in enumerate(generated)})
    assert [reward(i, [text])[0] for i, text in enumerate(generated)] == pytest.approx(expected.tolist())
    first, second = reward(0, ["The dog plays!", "people play cards"])
    assert first > 1.0 > second


def test_rewarded_captions_become_more_frequent_and_all_other_weights_stay_equal(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data, tokenizer = tmp_path / "data", write_tokenizer(tmp_path / "tokenizer.json")
    write_corpus(data, tmp_path, copies=2)
    dataset = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "captions_per_video": 2}
    stage = {"name": "captions", "steps": 60, "learning_rate": 0.01, "frozen": "all_but_captions"}
    made = recipe(
        tokenizer,
        model={**MODEL, "caption_layers": 1, "caption_words": 8},
        stages=[
            {**stage, "steps": 6, "datasets": [{**dataset, "objectives": {"captions": 1.0}}]},
            {**stage, "name": "rewarded", "datasets": [{**dataset, "objectives": {"caption_reward": 1.0}}]},
        ],
    )
    train(made, data, tmp_path / "run", stop_after=6)
    before = checkpoint.load(tmp_path / "run" / "checkpoint").model.state_dict()
    train(made, data, tmp_path / "run", stop_after=20)  # interrupted
    after = checkpoint.load(train(made, data, tmp_path / "run")).model.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed
    assert all(name.startswith(CAPTION_PREFIX) for name in changed)
    rewards = [row["reward squares"] for row in read_log(tmp_path / "run" / "log.jsonl") if "reward squares" in row]
    assert len(rewards) == 60
    assert np.mean(rewards[-10:]) > 1.2 * np.mean(rewards[:10])
