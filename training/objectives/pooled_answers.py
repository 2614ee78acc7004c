"""Training of the pooled answer head, and the fit of the weights of all estimates of an answer.

Shape letters: B questions, n questions of a corpus, N answers, E embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.batch_encoding import encode_audio, encode_video
from training.data.batch import Batch, Tokens
from training.data.packed import Packed
from training.evaluation.answers import answerable_questions
from training.evaluation.encoder import embed_corpus, embed_texts
from training.evaluation.sound import embed_fused_sounds, no_pictures
from training.evaluation.torch_encoder import TorchEncoder
from training.models.fusion import FusedModel
from training.models.pooled_answer_head import AnswerLogits, mix_answers
from training.objectives.losses import vqa

LABEL_SMOOTHING = 0.1
MAX_EXAMPLES, MAX_QUESTIONS = 500, 1500
"""Maximum examples and questions of a corpus to which shares are fitted; the questions are spread over the examples."""
GATE_PENALTY = 1e-3
"""Weight of the squared norm of the gates. Chosen on validation questions of other videos than those of the fit."""


def pooled_answer_loss(model: FusedModel, batch: Batch, mean_states: Callable[[Tokens], Tensor]) -> Tensor:
    """Compute the cross-entropy of the pooled answer head alone, with smoothed labels.

    mean_states: Returns the mean states (B, D) of texts.
    """
    assert batch.questions is not None
    assert batch.answers is not None
    with torch.no_grad():
        visual, audio = encode_video(model, batch).tokens, encode_audio(model, batch)
        question = model.embedding_of_text_mean(mean_states(batch.questions))
    logits = model.get_pooled_answer_head()(question, visual, None if audio is None else audio.tokens)
    return vqa(logits, batch.answers, LABEL_SMOOTHING)


class _Answered(NamedTuple):
    """The questions of a corpus."""

    logits: AnswerLogits
    targets: Tensor
    """(n,) int64"""


def fit_gates(encoder: TorchEncoder, splits: Iterable[Packed]) -> None:
    """Fit how estimates of answers are mixed, by the probabilities of the right answers to validation questions.

    All corpora have the same weight. Without questions both heads have a share of one half, and similarities are not
    used.

    Args:
        encoder: A model with a pooled answer head, which is changed.
        splits: Validation splits.
    """
    head = encoder.model.get_pooled_answer_head()
    head.answer_embeddings.copy_(torch.from_numpy(embed_texts(encoder, encoder.answers)))
    corpora = [answered for packed in splits if (answered := _answer(encoder, packed)) is not None]
    if not corpora:
        head.answer_embeddings.zero_()
        return
    gates, scales = torch.zeros(2, len(head.gate), requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([gates, scales], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        errors = [
            F.nll_loss(mix_answers(logits, gates[0], scales.exp(), gates[1]), targets) for logits, targets in corpora
        ]
        total = torch.stack(errors).mean() + GATE_PENALTY * gates[:, :-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.gate.copy_(gates[0])
        head.similarity_gate.copy_(gates[1])
        head.scales.copy_(scales.exp())


def _answer(encoder: TorchEncoder, packed: Packed) -> _Answered | None:
    """Return the estimates of the answers to those questions of a corpus whose answers are known; None for none."""
    packed = replace(packed, examples=packed.examples[:MAX_EXAMPLES])
    answerable = answerable_questions(packed, encoder.answers, MAX_QUESTIONS)
    if not answerable:
        return None
    rows, questions, targets = zip(*answerable, strict=True)
    visual = no_pictures(encoder, packed) if packed.sound_alone else embed_corpus(encoder, packed)[1]
    sounds = embed_fused_sounds(encoder, packed)
    logits = encoder.answer_logits_by_head(questions, rows, visual, None if sounds is None else sounds.tokens)
    return _Answered(logits, torch.tensor(targets))
