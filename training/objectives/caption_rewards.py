"""The objective `caption_reward`: sampled captions with higher rewards become more likely.

Self-critical sequence training (Rennie et al., CVPR 2017). The baseline of a sample is the mean reward of the other
samples of the same video (Luo, 2020). Cross-entropy trains only the next word after human-written words; this objective
trains whole generated captions.

Shape letters: P videos, B = P * SAMPLES captions, L tokens of a caption, V visual tokens, A audio tokens, W the width
of either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import distributed
from training.data.batch import Tokens
from training.data.packed import Packed
from training.evaluation.generated_captions import words_of
from training.evaluation.torch_encoder import TorchEncoder, inference_mode
from training.models.fusion import FusedModel
from training.objectives.captions import caption_states
from vitascope.captions import CaptionOptions
from vitascope.tokenizer import Tokenizer

SAMPLES = 5
"""Number of captions that are sampled for each video."""
TEMPERATURE = 0.7
"""Sampling temperature. At 1, words that do not fit have a tenth of the probability, because of label smoothing."""


class CiderReward:
    """CIDEr-D (Vedantam et al., CVPR 2015) with the corpus's captions as references; rare words count most."""

    def __init__(self, packed: Packed) -> None:
        from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, precook

        self.scorer, self.cook = CiderScorer(), precook
        self.written = [cook_refs([words_of(caption) for caption in e.captions]) for e in packed.examples]
        self.scorer.crefs = self.written
        self.scorer.compute_doc_freq()

    def __call__(self, row: int, captions: Sequence[str]) -> list[float]:
        """Return the rewards (0 or more) of captions of the example at index `row` of the corpus."""
        self.scorer.ctest = [self.cook(words_of(caption)) for caption in captions]
        # CiderScorer takes the document count from len(crefs) but reads one reference per candidate.
        self.scorer.crefs = [self.written[row]] * len(self.written)
        return [float(score) for score in self.scorer.compute_cider()]


class SampledCaptions(NamedTuple):
    """Captions that a model generated; the `SAMPLES` captions of a video are adjacent."""

    tokens: Tokens
    rewards: Tensor
    """(P, SAMPLES) float32."""


class CaptionSampler:
    """Samples captions of videos and computes their rewards."""

    mean_reward: float
    """Mean reward of the captions of the last step."""

    def __init__(self, model: FusedModel, tokenizer: Tokenizer, corpora: Mapping[str, Packed]) -> None:
        """corpora: Packed corpora by name."""
        self.model, self.tokenizer = model, tokenizer
        self.encoder = TorchEncoder(model, tokenizer, [])
        self.rewards = {name: CiderReward(packed) for name, packed in corpora.items()}

    def sample(self, corpus: str, rows: np.ndarray, visual_PVW: Tensor, audio_PAW: Tensor | None) -> SampledCaptions:
        """Sample captions in evaluation mode.

        Args:
            corpus: Name of the corpus.
            rows: Indices (P,) of the examples in the corpus.
            visual_PVW: Visual tokens of the examples.
            audio_PAW: Audio tokens (P, A, W); None: sound is not used.
        """
        options = CaptionOptions(beams=1, temperature=TEMPERATURE, count=SAMPLES, seed=int(torch.randint(2**31, ())))
        visual = visual_PVW.detach().float().cpu().numpy()
        audio = None if audio_PAW is None else audio_PAW.detach().float().cpu().numpy()
        # Switch to evaluation mode once here; otherwise generation would switch the mode for every token.
        with inference_mode(self.model), torch.autocast(visual_PVW.device.type, enabled=False):
            captions = self.encoder.generate_captions(visual, audio, options)
        # Replace empty captions, which consist of special tokens only.
        texts = [[caption.text.strip() or "." for caption in of_video] for of_video in captions]
        rewards = [self.rewards[corpus](int(row), of_video) for row, of_video in zip(rows, texts, strict=True)]
        self.mean_reward = float(np.mean(rewards))
        tokens = Tokens.encode(self.tokenizer, [text for of in texts for text in of])
        tokens = tokens.take(torch.arange(len(tokens.ids)))
        return SampledCaptions(tokens.to(visual_PVW.device), torch.tensor(rewards, device=visual_PVW.device))


def caption_reward_loss(
    model: FusedModel, sampled: SampledCaptions, visual_PVW: Tensor, audio_PAW: Tensor | None
) -> Tensor:
    """Compute the policy gradient loss: the mean over tokens of -log-probability times the advantage of the caption.

    The advantage is the reward of the caption minus the mean reward of the other captions of its video. Tokens as in
    `CaptionSampler.sample`.
    """
    ids, mask, rewards = sampled.tokens.ids, sampled.tokens.mask, sampled.rewards
    advantages = (rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)).flatten()
    decoder = model.get_caption_decoder()
    states, predicted = caption_states(model, ids, mask, visual_PVW, audio_PAW)
    targets, words = ids[:, 1:][predicted], decoder.words
    logits = decoder.word_head(states, model.text.word_embeddings, words).float()
    losses = F.cross_entropy(logits, targets if words is None else torch.searchsorted(words, targets), reduction="none")
    of_tokens = advantages[:, None].expand_as(predicted)[predicted]
    return distributed.global_mean((of_tokens * losses).mean(), len(targets))
