"""The pooled answer head: its mixture with the answers from the fused states, and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.training.small_run import MODEL, recipe, write_corpus, write_tokenizer
from training import checkpoint
from training.data.example import canonical_answer
from training.data.packed import open_packed
from training.evaluation.answers import exact_answers
from training.evaluation.encoder import embed_corpus, embed_texts
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import load_or_initialize
from training.models.fusion import POOLED_ANSWER_PREFIX
from training.models.pooled_answer_head import SIMILARITY_WEIGHT, AnswerLogits, mix_answers
from training.recipe import Recipe
from training.trainer import train
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

TARGETS = torch.tensor([0, 1])


def pooled_recipe(tokenizer: Path, **changes: object) -> Recipe:
    dataset = {"corpus": "squares", "weight": 1.0, "batch_size": 8, "objectives": {"vqa": 1.0}}
    stage = {"name": "answers", "steps": 60, "learning_rate": 0.01, "frozen": "all_but_pooled_answers"}
    return recipe(tokenizer, stages=[stage | {"datasets": [dataset]}], **changes)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Packed corpora, a tokenizer, and the checkpoint of a model whose answers are hardly trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pooled")
    (folder / "pictures").mkdir()
    write_corpus(folder / "data", folder / "pictures")
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    return folder / "data", tokenizer, train(recipe(tokenizer, steps=2), folder / "data", folder / "start")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_probabilities_of_both_heads_are_mixed_by_the_share_of_the_question(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    fused, pooled, question = (torch.randn(3, n, generator=generator) for n in (5, 5, 4))
    bias = torch.logit(torch.tensor([share]), eps=1e-7)
    gate, scales = torch.cat([torch.zeros(4), bias]), torch.tensor([0.5, 2.0])
    logits = AnswerLogits(fused, pooled, torch.zeros(3, 5), F.normalize(question))
    mixed = mix_answers(logits, gate, scales, torch.zeros(5))
    expected = (1 - share) * (0.5 * fused).softmax(dim=1) + share * (2.0 * pooled).softmax(dim=1)
    torch.testing.assert_close(mixed.exp(), expected, atol=1e-5, rtol=1e-4)


def test_answers_that_are_similar_to_the_video_are_more_probable() -> None:
    similarity, weights = torch.tensor([[0.5, 0.1, -0.2]]), torch.tensor([0.0, 0.0, 1.0])
    question = F.normalize(torch.tensor([[3.0, 4.0]]))
    logits = AnswerLogits(torch.tensor([[0.0, 1.0, 0.0]]), torch.zeros(1, 3), similarity, question)
    gate, scales = torch.tensor([0.0, 0.0, -50.0]), torch.ones(2)
    mixed = mix_answers(logits, gate, scales, weights).exp()
    expected = (logits.fused + SIMILARITY_WEIGHT * F.softplus(torch.tensor(1.0)) * similarity).softmax(dim=1)
    torch.testing.assert_close(mixed, expected)
    assert mixed.argmax() == 0


def test_impossible_answers_have_finite_logits() -> None:
    logits = AnswerLogits(torch.tensor([[0.0, 1e4]]), torch.tensor([[0.0, 1e4]]), torch.zeros(1, 2), torch.ones(1, 4))
    assert bool(mix_answers(logits, torch.zeros(5), torch.ones(2), torch.zeros(5)).isfinite().all())


def test_only_the_head_is_trained_and_its_answers_are_preferred_where_they_are_right(
    start: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, tokenizer, initial = start
    made = pooled_recipe(tokenizer, model=MODEL | {"pooled_answers": 16})
    trained = checkpoint.load(train(made, data, tmp_path / "run", start_from=initial))
    before, after = (c.model.state_dict() for c in (checkpoint.load(initial), trained))
    assert {name for name in after if not name.startswith(POOLED_ANSWER_PREFIX)} == {*before}
    assert all(torch.equal(after[name], before[name]) for name in before)

    packed = open_packed(data / "squares" / "val")
    encoder = TorchEncoder(trained.model, Tokenizer.open(tokenizer, max_length=16), trained.answers)
    tokens = embed_corpus(encoder, packed)[1]
    assert exact_answers(encoder, packed, tokens)["exact"] == 100.0
    questions = [example.questions[0] for example in packed.examples]
    targets = torch.tensor([trained.answers.index(canonical_answer(question)) for question in questions])
    logits = encoder.answer_logits_by_head([q.question for q in questions], range(len(questions)), tokens)
    assert float((logits.fused.argmax(dim=1) == targets).float().mean()) < 0.9
    head = trained.model.get_pooled_answer_head()
    video, answers = embed_corpus(encoder, packed)[0], embed_texts(encoder, trained.answers)
    torch.testing.assert_close(logits.similarity, torch.from_numpy(video @ answers.T), atol=1e-3, rtol=0)
    mixed = head.mix(logits)
    assert float(F.nll_loss(mixed, targets)) < 0.5 * float(F.cross_entropy(logits.fused, targets))


def test_known_answers_keep_their_scores_when_answers_are_added(start: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, tokenizer, initial = start
    made = pooled_recipe(tokenizer, model=MODEL | {"pooled_answers": 16}, extend_answers=True)
    first = load_or_initialize(made, data, tmp_path / "first" / "checkpoint", initial)
    checkpoint.save(tmp_path / "other", replace(first, answers=[*first.answers[:-1], "another"]))
    extended = load_or_initialize(made, data, tmp_path / "second" / "checkpoint", tmp_path / "other")
    assert extended.answers == [*first.answers[:-1], "another", first.answers[-1]]
    question, tokens = torch.randn(2, MODEL["vector_width"]), torch.randn(2, 4, MODEL["hybrid_width"])
    old, new = (c.model.eval().get_pooled_answer_head()(question, tokens) for c in (first, extended))
    torch.testing.assert_close(new[:, : old.shape[1]], old)


def test_weights_of_earlier_versions_use_no_similarities(start: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, tokenizer, initial = start
    made = pooled_recipe(tokenizer, model=MODEL | {"pooled_answers": 16})
    head = load_or_initialize(made, data, tmp_path / "checkpoint", initial).model.get_pooled_answer_head()
    weights = {n: w for n, w in head.state_dict().items() if n not in ("answer_embeddings", "similarity_gate")}
    head.answer_embeddings.fill_(1.0)
    head.load_state_dict(weights)
    assert not head.similarity(torch.ones(1, MODEL["vector_width"]), 1).any()


def test_a_recipe_without_the_head_is_refused(start: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, tokenizer, initial = start
    with pytest.raises(InvalidInput, match=r"'all_but_pooled_answers' .* pooled_answers = 512 .* expected"):
        train(pooled_recipe(tokenizer), data, tmp_path / "run", start_from=initial)
