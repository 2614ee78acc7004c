"""The decoder of captions, and its training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.small_bundle import make_small_bundle
from tests.training.small_run import COLOURS, recipe, write_corpus, write_tokenizer
from tests.training.test_audio import LENGTHS, small_model, sounds
from tests.vitascope.test_captions import tokens_of
from training import checkpoint
from training.curves import read_log
from training.data.example import Example
from training.data.packed import Packed, open_packed
from training.data.scenes.generate import make_example
from training.evaluation.encoder import embed_corpus
from training.evaluation.generated_captions import caption_metrics, ngram_metrics, scene_metrics
from training.evaluation.report import evaluate, open_encoder
from training.evaluation.retrieval import Gallery
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import load_or_initialize
from training.models.fusion import CAPTION_PREFIX
from training.objectives.captions import sample_vocabulary
from training.recipe import Recipe
from training.trainer import train
from vitascope.captions import CaptionOptions
from vitascope.errors import InvalidInput
from vitascope.model import Model


@pytest.mark.parametrize("hears", [False, True])
def test_decoding_word_by_word_equals_one_pass_and_is_causal(hears: bool) -> None:
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


WORDS = [3, 5, 6, 7, 12, 13, 14, 15]
"""Ids of [SEP], of all words in the captions of `squares`, and of "what", the first other word of the tokenizer."""


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
    made = caption_recipe(tokenizer, {"caption_layers": 1, "caption_words": 8}, {"captions": 1.0})
    return data, start, train(made, data, folder / "run", start_from=start)


def test_captions_become_more_probable_and_all_other_weights_stay_equal(runs: tuple[Path, Path, Path]) -> None:
    _, start, trained = runs
    before, after = (checkpoint.load(path).model.state_dict() for path in (start, trained))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(name.startswith(CAPTION_PREFIX) for name in after.keys() - before)
    assert after[f"{CAPTION_PREFIX}words"].tolist() == WORDS
    first, *_, last = (row["loss/captions squares"] for row in read_log(trained.parent / "log.jsonl"))
    assert last < 0.75 * first


def test_a_decoder_is_a_copy_of_the_fused_layers_and_only_captions_train_it(
    runs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, start, trained = runs
    tokenizer = start / "tokenizer.json"
    made = caption_recipe(tokenizer, {"caption_layers": 2, "caption_words": 4}, {"captions": 1.0})
    model = load_or_initialize(made, data, tmp_path / "checkpoint", start).model
    copied, fused = model.get_caption_decoder().layers[0].state_dict(), model.text.fused_layers[0].state_dict()
    assert all(torch.equal(weight, copied[name]) for name, weight in fused.items())
    assert model.state_dict()[f"{CAPTION_PREFIX}words"].tolist() == [3, 5, 6, 12]  # the most frequent words
    later = made.model_copy(update={"model": {"caption_layers": 1, "caption_words": 8, "dropout": 0.1}})
    kept = load_or_initialize(later, tmp_path / "unread", tmp_path / "checkpoint", trained).model
    assert kept.state_dict()[f"{CAPTION_PREFIX}words"].tolist() == WORDS
    with pytest.raises(InvalidInput, match="caption_layers = 3"):
        train(caption_recipe(tokenizer, {}, {"captions": 1.0}), data, tmp_path, start_from=start)
    with pytest.raises(ValidationError, match=r"some of \['caption_reward', 'captions'\] were expected"):
        caption_recipe(tokenizer, {"caption_layers": 1}, {"captions": 1.0, "itc": 1.0})


def test_generated_captions_are_those_of_the_most_probable_tokens_and_are_measured(
    runs: tuple[Path, Path, Path],
) -> None:
    data, start, trained = runs
    measured = evaluate(trained, data, "val", ["squares"], captions=CaptionOptions(beams=1))["squares"]
    assert measured["generated captions"] == 8
    assert 0.0 <= measured["BLEU-4"] <= 100.0
    assert -100.0 <= measured["similarity (generated)"] <= 100.0
    assert -100.0 <= measured["similarity (written)"] <= 100.0
    encoder = open_encoder(trained)
    assert isinstance(encoder, TorchEncoder)
    _, tokens = embed_corpus(encoder, open_packed(data / "squares" / "val"))
    captions = encoder.generate_captions(tokens, None, CaptionOptions(beams=1))
    words = [2]  # [CLS]
    with torch.no_grad():
        prepared = encoder.model.prepare_captions(torch.from_numpy(tokens[:1].astype(np.float32)))
        none = prepared[0][:, :, :, :0]
        while words[-1] != 3 and len(words) < 16:  # [SEP], and the longest caption
            logits, *_ = encoder.model.next_word_logits(torch.tensor([words]), none, none, *prepared)
            logits[:, 3] = logits[:, 3] if len(words) > 1 else -torch.inf
            words.append(int(logits.argmax()))
    assert captions[0][0].text == encoder.tokenizer.decode([word for word in words[1:] if word != 3])
    random = encoder.generate_captions(tokens, None, CaptionOptions(beams=1, temperature=100.0, count=8))
    written = {word for captions in random for caption in captions for word in caption.text.split()}
    assert {"a", "square"} < written <= {"a", "square", "what", *COLOURS}  # the words of the decoder
    with pytest.raises(InvalidInput, match="generates none"):
        evaluate(start, data, "val", ["squares"], captions=CaptionOptions(beams=1))
    beams = CaptionOptions(beams=4, rerank=True)
    reranked = evaluate(trained, data, "val", ["squares"], captions=beams)["squares"]
    assert reranked.keys() == measured.keys()
    for of_clip, clip in zip(encoder.generate_captions(tokens, None, beams), tokens, strict=True):
        match = encoder.match([of_clip[0].text], clip[None]).probabilities
        assert of_clip[0].match == pytest.approx(match[0], abs=1e-5)


def test_captions_of_scenes_are_compared_with_the_contents_of_the_scenes() -> None:
    examples = [make_example(0, "test", index) for index in range(60)]
    worlds = [world for world, _ in examples]
    assert set(scene_metrics([record["captions"][0] for _, record in examples], worlds).values()) == {100.0}
    partly = scene_metrics([record["captions"][4] for _, record in examples], worlds)
    assert partly.pop("whole scenes") < 50.0
    assert set(partly.values()) == {100.0}
    for kind, right in (("shape", 0), ("colour", 1), ("direction", 2)):  # right in so many of the metrics
        negatives = [(n, world) for world, record in examples for n in record["negatives"]]
        wrong = [(n["caption"], world) for n, world in negatives if n["kind"] == kind and n["grade"] == 1]
        texts, shown = zip(*wrong, strict=True)
        expected = [100.0] * right + [0.0] * (4 - right)
        assert list(scene_metrics(texts, shown).values()) == expected


def test_evaluated_captions_of_a_bundle_are_those_that_it_serves(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path, tasks=("retrieval", "captioning")), threads=1, device="cpu")
    texts = ["a red thing moves", "a blue thing moves"]  # greedily; "the red thing moves" is more probable
    packed = Packed(tmp_path, (), {}, [Example(text, (text.capitalize() + ".",)) for text in texts], {})
    videos, tokens = Gallery(model.embed_text(texts)), tokens_of(model, "red", "blue")
    greedy, searched = (
        caption_metrics(model, packed, videos, tokens, None, CaptionOptions(beams=beams)) for beams in (1, 3)
    )
    assert greedy["BLEU-4"] == pytest.approx(greedy["similarity (generated)"]) == pytest.approx(100.0)
    assert searched["BLEU-4"] < 1.0 < searched["CIDEr-D"] < greedy["CIDEr-D"]


def test_captions_of_held_out_combinations_are_also_measured_alone(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path, tasks=("retrieval", "captioning")), threads=1, device="cpu")
    worlds = [make_example(0, "test", index)[0] for index in range(60)]
    unseen = next(world for world in worlds if world.held_out and "red" in {thing.colour for thing in world.things})
    seen = next(world for world in worlds if not world.held_out and "blue" not in {t.colour for t in world.things})
    texts = ["a red thing", "a blue thing"]
    examples = [
        Example(text, (text,), attributes={"scene": asdict(world)})
        for text, world in zip(texts, (unseen, seen), strict=True)
    ]
    videos, tokens = Gallery(model.embed_text(texts)), tokens_of(model, "red", "blue")
    options = CaptionOptions(beams=1, max_tokens=3)
    measured = caption_metrics(model, Packed(tmp_path, (), {}, examples, {}), videos, tokens, None, options)
    assert measured["right objects and colours"] == 50.0
    assert measured["right objects and colours (held-out combinations)"] == 100.0


def test_equal_captions_have_the_highest_scores_and_punctuation_does_not_count() -> None:
    written = [["A dog runs on the beach .", "The dog plays."], ["Two men play cards, and a woman watches."]]
    equal = ngram_metrics(["a dog runs on the beach", "Two men play cards and a woman watches"], written)
    swapped = ngram_metrics([written[1][0], written[0][0]], written)
    assert [equal["BLEU-4"], equal["ROUGE-L"]] == pytest.approx([100.0, 100.0])
    assert swapped["BLEU-4"] < 1.0 < swapped["ROUGE-L"] < 50.0
    assert equal["CIDEr-D"] > 100.0 > 1.0 > swapped["CIDEr-D"]


def test_a_loss_over_sampled_tokens_approximates_that_over_the_vocabulary() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(30_000), torch.tensor([7, 7, 29_000])
    sums = []
    for _ in range(30):
        ids, weights = sample_vocabulary(targets, len(logits))
        assert ids[torch.searchsorted(ids, targets)].tolist() == targets.tolist()
        sums.append((logits[ids] + weights).logsumexp(dim=0))
    assert torch.stack(sums).mean() == pytest.approx(float(logits.logsumexp(dim=0)), abs=0.01)
