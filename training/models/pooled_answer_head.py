"""The pooled answer head: answers from the embedding of a question and the means of the tokens of a video.

With few questions it overfits less than the fused layers, because it is small and has a strong dropout. The
probabilities of both answer heads are mixed, with shares that depend on the question (mixture of experts: Jacobs et
al., Neural Computation 1991). The mixture is multiplied by a third estimate, the similarity of the embeddings of an
answer and of the video (product of experts: Hinton, Neural Computation 2002), since retrieval knows many more things
than the questions of the training data ask for.

Shape letters: B questions, P videos, V visual tokens, A audio tokens, W width of visual or audio tokens, E embedding
dim, N answers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.config import FusedConfig
from training.models.text import masked_mean, repeated, tokens_present

INPUT_DROPOUT = 0.2
SIMILARITY_WEIGHT = 4.0
"""Scale of the weights of similarities: log-probabilities differ by more than cosines."""


class AnswerLogits(NamedTuple):
    """The estimates (B, N) of answers, and the embeddings (B, E) of the questions.

    `fused`, `pooled`: logits of both answer heads. `similarity`: cosines of the embeddings of answer and video.
    """

    fused: Tensor
    pooled: Tensor
    similarity: Tensor
    question: Tensor


def mix_answers(logits: AnswerLogits, gate: Tensor, scales: Tensor, similarity_gate: Tensor) -> Tensor:
    """Return the log-probabilities (B, N) of the answers. Arguments as in `PooledAnswerHead`."""
    question = _with_unit_variance(logits.question)
    pooled_share = (question @ gate[:-1] + gate[-1])[:, None]
    fused = F.log_softmax(logits.fused * scales[0], dim=-1) + F.logsigmoid(-pooled_share)
    pooled = F.log_softmax(logits.pooled * scales[1], dim=-1) + F.logsigmoid(pooled_share)
    mixture = fused + F.softplus(pooled - fused)  # the logarithm of the sum of both probabilities
    weight = SIMILARITY_WEIGHT * F.softplus(question @ similarity_gate[:-1] + similarity_gate[-1])[:, None]
    return F.log_softmax(mixture + weight * logits.similarity, dim=-1)


def _with_unit_variance(normalized_BE: Tensor) -> Tensor:
    """Scale normalised embeddings to a variance of about 1."""
    scaled: Tensor = normalized_BE * normalized_BE.shape[1] ** 0.5
    return scaled


class PooledAnswerHead(nn.Module):
    """Two linear layers: one of the question, one of the question times the tokens.

    cfg: Configuration of the model. `pooled_answers` is the width of the hidden layers, `dropout` is theirs.
    """

    gate: Tensor
    """(E + 1,) weights of the question and bias; they give the logit of this head's share. Fitted after training."""
    scales: Tensor
    """(2,) factors of the logits of the answer head on the fused states, and of this head. Fitted after training."""
    answer_embeddings: Tensor
    """(N, E) L2-normalised embeddings of the answers. Computed after training; 0 before."""
    similarity_gate: Tensor
    """(E + 1,) weights of the question and bias; they give the weight of similarities. Fitted after training."""

    def __init__(self, cfg: FusedConfig) -> None:
        super().__init__()
        self.audio_width = cfg.audio.width if cfg.audio is not None and cfg.audio.fused else 0
        self.inputs = nn.Dropout(INPUT_DROPOUT)
        self.question = nn.Linear(cfg.vector_width, cfg.pooled_answers)
        self.media = nn.Linear(cfg.visual_width + self.audio_width, cfg.pooled_answers)
        self.hidden = nn.Dropout(cfg.dropout)
        self.output = nn.Linear(2 * cfg.pooled_answers, cfg.answers)
        self.register_buffer("gate", torch.zeros(cfg.vector_width + 1))
        self.register_buffer("scales", torch.ones(2))
        self.register_buffer("answer_embeddings", torch.zeros(cfg.answers, cfg.vector_width))
        self.register_buffer("similarity_gate", torch.zeros(cfg.vector_width + 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also load the weights of earlier versions, which did not use similarities."""
        for name in ("answer_embeddings", "similarity_gate"):
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, question_BE: Tensor, visual_PVW: Tensor, audio_PAW: Tensor | None = None) -> Tensor:
        """Return the logits (B, N) of questions about P videos, those about a video adjacent.

        audio_PAW: Audio tokens, 0 where there is no sound; None: the videos have none.
        """
        question = F.gelu(self.question(self.inputs(_with_unit_variance(question_BE))))
        media = torch.tanh(self.media(self.inputs(self._pool(visual_PVW, audio_PAW))))
        seen = repeated(media, question.shape[0])
        logits: Tensor = self.output(self.hidden(torch.cat([question, question * seen], dim=1)))
        return logits

    def _pool(self, visual_PVW: Tensor, audio_PAW: Tensor | None) -> Tensor:
        """Return the normalised means of the visual tokens and of the audio tokens, concatenated; 0 where missing."""
        means = [visual_PVW.mean(dim=1)]
        if self.audio_width:
            silent = visual_PVW.new_zeros(visual_PVW.shape[0], self.audio_width)
            means.append(silent if audio_PAW is None else masked_mean(audio_PAW, tokens_present(audio_PAW)))
        return torch.cat([F.layer_norm(mean, mean.shape[-1:]) for mean in means], dim=1)

    def similarity(self, media_PE: Tensor, questions: int) -> Tensor:
        """Return the cosines (B, N) of the answers to B `questions` about P videos with embeddings (P, E)."""
        return repeated(media_PE @ self.answer_embeddings.T, questions)

    def mix(self, logits: AnswerLogits) -> Tensor:
        """Return the log-probabilities (B, N) of the answers."""
        return mix_answers(logits, self.gate, self.scales, self.similarity_gate)
