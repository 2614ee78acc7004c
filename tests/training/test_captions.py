"""The decoder of captions, and its training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.training.small_run import recipe, write_corpus, write_tokenizer
from tests.training.test_audio import LENGTHS, small_model, sounds
from training import checkpoint
from training.curves import read_log
from training.initialization import load_or_initialize
from training.models.fusion import CAPTION_PREFIX
from training.objectives.captions import sample_vocabulary
from training.recipe import Recipe
from training.trainer import train
from vitascope.errors import InvalidInput


@pytest.mark.parametrize("hears", [False, True])
def test_words_decoded_one_by_one_are_those_of_one_pass_and_read_nothing_after_them(hears: bool) -> None:
    model = small_model(caption_layers=2, **({} if hears else {"audio": None}))
    visual = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(1, 100, (3, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        audio = model.encode_audio(sounds(), LENGTHS)[1] if hears else None
        prepared = model.prepare_captions(visual, audio)
        none = prepared[0][:, :, :, :0]
        whole = [model.next_word_logits(ids[:, :length], none, none, *prepared)[0] for length in range(1, 7)]
        keys, values = none, none
        for position in range(6):
            logits, keys, values = model.next_word_logits(ids[:, position : position + 1], keys, values, *prepared)
            assert torch.allclose(logits, whole[position], atol=1e-5)
        later, more_keys, _ = model.next_word_logits(ids[:, 2:], keys[:, :, :, :2], values[:, :, :, :2], *prepared)
        other, *_ = model.next_word_logits(ids, none, none, *model.prepare_captions(visual + 1, audio))
    assert torch.allclose(later, whole[5], atol=1e-5)
    assert torch.allclose(more_keys, keys, atol=1e-5)  # with a causal mask, states do not depend on later words
    assert (other - whole[5]).abs().max() > 1e-3
    if audio is not None:
        assert prepared[2][2].tolist() == [1] * 4 + [0] * audio.shape[1]  # the third clip is silent


def caption_recipe(tokenizer: Path, model: dict[str, object], objectives: dict[str, float]) -> Recipe:
    dataset = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "captions_per_video": 2, "objectives": objectives}
    stage = {"name": "captions", "steps": 12, "learning_rate": 0.05, "frozen": "all_but_captions"}
    return recipe(tokenizer, model=model, stages=[{**stage, "datasets": [dataset]}])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A data folder, the checkpoint of a model without a decoder, and that of a run that adds one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("captions")
    data, tokenizer = folder / "data", write_tokenizer(folder / "tokenizer.json")
    write_corpus(data, folder, copies=2)
    plain = recipe(tokenizer, steps=1)
    start = train(plain.model_copy(update={"stages": plain.stages[:1]}), data, folder / "start")
    made = caption_recipe(tokenizer, {"caption_layers": 1}, {"captions": 1.0})
    return data, start, train(made, data, folder / "run", start_from=start)


def test_captions_become_more_probable_and_all_else_stays_bit_for_bit(runs: tuple[Path, Path, Path]) -> None:
    _, start, trained = runs
    before, after = (checkpoint.load(path).model.state_dict() for path in (start, trained))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(name.startswith(CAPTION_PREFIX) for name in after.keys() - before)
    first, *_, last = (row["loss/captions squares"] for row in read_log(trained.parent / "log.jsonl"))
    assert last < 0.75 * first


def test_a_decoder_is_a_copy_of_the_fused_layers_and_only_captions_train_it(
    runs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, start, _ = runs
    tokenizer = start / "tokenizer.json"
    made = caption_recipe(tokenizer, {"caption_layers": 2}, {"captions": 1.0})
    model = load_or_initialize(made, data, tmp_path / "checkpoint", start).model
    copied, fused = model.get_caption_decoder().layers[0].state_dict(), model.text.fused_layers[0].state_dict()
    assert all(torch.equal(weight, copied[name]) for name, weight in fused.items())
    with pytest.raises(InvalidInput, match="caption_layers = 3"):
        train(caption_recipe(tokenizer, {}, {"captions": 1.0}), data, tmp_path, start_from=start)
    with pytest.raises(ValidationError, match="'captions' alone was expected"):
        caption_recipe(tokenizer, {"caption_layers": 1}, {"captions": 1.0, "itc": 1.0})


def test_sampled_tokens_stand_for_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(30_000), torch.tensor([7, 7, 29_000])
    sums = []
    for _ in range(30):
        ids, weights = sample_vocabulary(targets, len(logits))
        assert ids[torch.searchsorted(ids, targets)].tolist() == targets.tolist()
        sums.append((logits[ids] + weights).logsumexp(dim=0))
    assert torch.stack(sums).mean() == pytest.approx(float(logits.logsumexp(dim=0)), abs=0.01)
