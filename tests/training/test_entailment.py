"""The classifier of sentences about a video or two pictures, its data from scenes, and its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests.training.small_run import COLOURS, MODEL, STREAMS, recipe, write_tokenizer
from tests.training.test_audio import LENGTHS, small_model, sounds
from training import checkpoint
from training.checkpoint import Checkpoint
from training.curves import read_log
from training.data.example import Example, Hypothesis, Negative
from training.data.hypotheses import hypotheses_of, sample_hypotheses
from training.data.packed import Media, Origin, PicturePair, write_packed
from training.data.scenes.generate import make_example
from training.data.scenes.parsing import parse
from training.evaluation.report import evaluate
from training.models.fusion import ENTAILMENT_PREFIX, FusedModel
from training.recipe import Recipe
from training.trainer import train
from vitascope.entailment import LABELS
from vitascope.errors import InvalidInput

ORIGIN = Origin(source="made in the test", licence="CC0-1.0", split_rule="all")

TRAINED = {"entailment": 1.0}


def write_squares(data: Path, folder: Path, kind: str) -> None:
    """Pictures of a colour with a sentence of each class, or pairs of pictures with one that is true or false."""
    paths = {name: folder / f"{name}.png" for name in COLOURS}
    for name, path in paths.items():
        Image.new("RGB", (64, 64), COLOURS[name]).save(path)
    names = list(COLOURS)

    def items() -> Iterator[tuple[Example, Media]]:
        for i in range(16):
            name, other = names[i % 4], names[(i + 1 + i // 4) % 4]
            if kind == "video":
                true, false = (
                    Hypothesis(f"a {name} square", "entailed"),
                    Hypothesis(f"a {other} square", "contradicted"),
                )
                known = (true, *([] if other == name else [false]), Hypothesis("what is it ?", "neutral"))
                yield Example(f"{i}", (true.text,), still=True, hypotheses=known), paths[name]
            else:  # is there a red square?
                known = (Hypothesis("a red square", "true" if "red" in (name, other) else "false"),)
                yield Example(f"dev-{i}-0-0", still=True, hypotheses=known), PicturePair(paths[name], paths[other])

    for split in ("train", "val"):
        write_packed(data / kind / split, STREAMS, items(), ORIGIN, clips=2 if kind == "pair" else 1)


def small_recipe(tokenizer: Path, kind: str | None, objectives: dict[str, float], **stage: object) -> Recipe:
    dataset = {"corpus": kind or "video", "weight": 1.0, "batch_size": 8, "objectives": objectives}
    fields = {"name": "only", "steps": 60, "learning_rate": 0.01, "text_lr_mult": 1.0, "fused_lr_mult": 1.0, **stage}
    model = MODEL | ({} if kind is None else {"entailment": kind})
    return recipe(tokenizer, model=model, answers_from=[], stages=[{**fields, "datasets": [dataset]}])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data folder, and the checkpoint of a model without a classifier."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("entailment")
    data, tokenizer = folder / "data", write_tokenizer(folder / "tokenizer.json")
    for kind in ("video", "pair"):
        write_squares(data, folder, kind)
    return data, train(small_recipe(tokenizer, None, {"itc": 1.0}, steps=4), data, folder / "start")


def negatives_of(record: Mapping[str, Any]) -> tuple[Negative, ...]:
    return tuple(Negative(**negative) for negative in record["negatives"])


def test_contents_of_scenes_determine_the_classes_of_sentences() -> None:
    made = [make_example(0, "test", index) for index in range(40)]
    examples = [
        Example(record["key"], tuple(record["captions"]), (), negatives_of(record), attributes={"scene": asdict(world)})
        for world, record in made
    ]
    known = hypotheses_of(examples)
    assert known == hypotheses_of(examples)
    for (world, record), of_scene in zip(made, known, strict=True):
        texts = {label: [h.text for h in of_scene if h.label == label] for label in LABELS}
        assert texts["entailed"] == record["captions"]
        assert set(texts["contradicted"]) <= {n["caption"] for n in record["negatives"] if n["grade"] == 1}
        colours, shapes = ({getattr(thing, name) for thing in world.things} for name in ("colour", "shape"))
        for text in texts["neutral"]:
            mentions = parse(text).mentions
            assert mentions
            assert not any(m.colour in colours or m.shape in shapes for m in mentions)
        sampled = sample_hypotheses(of_scene, 6, Random(1))
        assert [[h.label for h in sampled].count(label) for label in LABELS] == [2, 2, 2]


def test_the_classifier_learns_and_all_other_weights_stay_equal(
    start: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, initial = start
    fused = []
    forward = FusedModel.entailment_inputs

    def counted(self: FusedModel, text_BLD: torch.Tensor, *others: Any) -> torch.Tensor:
        fused.append(len(text_BLD))
        return forward(self, text_BLD, *others)

    monkeypatch.setattr(FusedModel, "entailment_inputs", counted)
    made = small_recipe(initial / "tokenizer.json", "video", TRAINED, frozen="all_but_entailment")
    trained = train(made, data, tmp_path, start_from=initial)
    assert sum(fused) == 16 * 3  # each sentence once, in 60 steps
    before, after = (checkpoint.load(path).model.state_dict() for path in (initial, trained))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(name.startswith(ENTAILMENT_PREFIX) for name in after.keys() - before)
    first, *_, last = (row["loss/entailment video"] for row in read_log(tmp_path / "log.jsonl"))
    assert last < 0.75 * first
    measured = evaluate(trained, data, "val", ["video"], entailment=True)["video"]
    assert measured["entailment sentences"] == 44
    assert measured["entailment accuracy (neutral)"] == 100.0
    with pytest.raises(InvalidInput, match="classifies no sentences"):
        evaluate(initial, data, "val", ["video"], entailment=True)


def test_sentences_about_two_pictures_are_learned_from_both(start: tuple[Path, Path], tmp_path: Path) -> None:
    data, initial = start
    made = small_recipe(initial / "tokenizer.json", "pair", TRAINED, backbone_lr_mult=1.0, steps=30)
    trained = train(made, data, tmp_path / "pair", start_from=initial)
    measured = evaluate(trained, data, "val", ["pair"], entailment=True)
    assert measured["pair"]["entailment accuracy"] == measured["pair"]["entailment consistency"] == 100.0
    with pytest.raises(InvalidInput, match=r"'neutral'\] in .*, and the model's are \['false', 'true'\]"):
        evaluate(trained, data, "val", ["video"], entailment=True)
    of_videos = small_recipe(initial / "tokenizer.json", "video", TRAINED, steps=1)
    with pytest.raises(InvalidInput, match=r"\['false', 'true'\] in .*, and the model's are \['contradicted'"):
        evaluate(train(of_videos, data, tmp_path / "video", start_from=initial), data, "val", ["pair"], entailment=True)


@pytest.mark.parametrize("kind", ["video", "pair"])
def test_a_sentence_is_classified_by_its_own_pictures_and_sounds(kind: str) -> None:
    model = small_model(entailment=kind, dropout=0.0)
    count = 2 if kind == "pair" else 1
    generator = torch.Generator().manual_seed(1)
    visual = torch.randn(3 * count, 4, 32, generator=generator)
    states, mask = torch.randn(6, 5, 48, generator=generator), torch.ones(6, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    with torch.no_grad():
        audio = model.encode_audio(sounds(), LENGTHS)[1] if kind == "video" else None
        together = model.entailment_logits(states, mask, model.prepare_visual(visual, audio))
        for i in range(6):
            rows, length = slice(i // 2 * count, (i // 2 + 1) * count), 3 if i == 1 else 5
            cache = model.prepare_visual(visual[rows], None if audio is None else audio[rows])
            alone = model.entailment_logits(states[i : i + 1, :length], mask[i : i + 1, :length], cache)
            assert torch.allclose(alone, together[i : i + 1], atol=1e-5)


def test_parts_that_were_trained_separately_become_one_model(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")

    def saved(name: str, **part: object) -> Path:
        model = small_model(backbone="test_resnet", frozen_stages=0, audio=None, **part)
        made = Checkpoint(model, [], small_recipe(tokenizer, None, {"itc": 1.0}), tokenizer, step=1)
        checkpoint.save(tmp_path / name, made)
        return tmp_path / name

    captions = saved("captions", caption_layers=1, caption_words=5)
    entailment = saved("entailment", entailment="video")
    base = checkpoint.load(captions)
    for first, second in ((base, entailment), (checkpoint.load(entailment), captions)):
        both = checkpoint.add_part(first, second).model
        assert (both.cfg.caption_layers, both.cfg.caption_words, both.cfg.entailment) == (1, 5, "video")
        for path in (captions, entailment):
            for name, weight in checkpoint.load(path).model.state_dict().items():
                assert torch.equal(weight, both.state_dict()[name])
    with pytest.raises(InvalidInput, match="has none of"):
        checkpoint.add_part(base, captions)
    torch.nn.init.normal_(base.model.match_head.weight)
    with pytest.raises(InvalidInput, match=r"another match_head\.weight \(1 tensors\)"):
        checkpoint.add_part(base, entailment)


def test_objectives_models_and_corpora_that_do_not_fit_are_named(start: tuple[Path, Path], tmp_path: Path) -> None:
    data, initial = start
    tokenizer = initial / "tokenizer.json"
    with pytest.raises(InvalidInput, match="entailment = 'video'"):
        train(small_recipe(tokenizer, None, TRAINED), data, tmp_path, start_from=initial)
    with pytest.raises(ValidationError, match=r"some of \['entailment'\] were expected"):
        small_recipe(tokenizer, "video", {"itc": 1.0}, frozen="all_but_entailment")
    made = small_recipe(tokenizer, "pair", TRAINED)
    of_videos = made.stages[0].datasets[0].model_copy(update={"corpus": "video"})
    stage = made.stages[0].model_copy(update={"datasets": [of_videos]})
    with pytest.raises(InvalidInput, match=r"\['contradicted', 'entailed', 'neutral'\], for a model"):
        train(made.model_copy(update={"stages": [stage]}), data, tmp_path, start_from=initial)
