"""The objective `caption_reward`: of captions that the model samples, those with the higher rewards become likelier.

Self-critical sequence training (Rennie et al., CVPR 2017), in which the baseline of a sample is the mean reward of the
other samples of its video (Luo, 2020). Cross-entropy teaches the next word after words of people; this teaches whole
captions.

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
"""Captions that are sampled of each video."""
TEMPERATURE = 0.7
"""Temperature of sampling. At 1, label smoothing leaves a tenth of the probability to words that do not fit."""


class CiderReward:
    """CIDEr-D (Vedantam et al., CVPR 2015) with the captions of people, in which rare words count most."""

    def __init__(self, packed: Packed) -> None:
        from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, precook

        self.scorer, self.cook = CiderScorer(), precook
        self.written = [cook_refs([words_of(caption) for caption in e.captions]) for e in packed.examples]
        self.scorer.crefs = self.written
        self.scorer.compute_doc_freq()

    def __call__(self, row: int, captions: Sequence[str]) -> list[float]:
        """Return the reward, from 0 on, of each of some captions of the example in a row of the corpus."""
        self.scorer.ctest = [self.cook(words_of(caption)) for caption in captions]
        # CiderScorer takes the document count from len(crefs) but reads one reference per candidate.
        self.scorer.crefs = [self.written[row]] * len(self.written)
        return [float(score) for score in self.scorer.compute_cider()]


class SampledCaptions(NamedTuple):
    """Captions that a model wrote, the `SAMPLES` of a video adjacent."""

    tokens: Tokens
    rewards: Tensor
    """(P, SAMPLES) float32."""


class CaptionSampler:
    """Samples captions of the videos of some corpora, and rewards them."""

    mean_reward: float
    """Mean reward of the captions of the last step."""

    def __init__(self, model: FusedModel, tokenizer: Tokenizer, corpora: Mapping[str, Packed]) -> None:
        """corpora: By name."""
        self.model, self.tokenizer = model, tokenizer
        self.encoder = TorchEncoder(model, tokenizer, [])
        self.rewards = {name: CiderReward(packed) for name, packed in corpora.items()}

    def sample(self, corpus: str, rows: np.ndarray, visual_PVW: Tensor, audio_PAW: Tensor | None) -> SampledCaptions:
        """Sample captions of the examples in some rows (P,) of a corpus, from their tokens, in evaluation mode."""
        options = CaptionOptions(beams=1, temperature=TEMPERATURE, count=SAMPLES, seed=int(torch.randint(2**31, ())))
        visual = visual_PVW.detach().float().cpu().numpy()
        audio = None if audio_PAW is None else audio_PAW.detach().float().cpu().numpy()
        # One change of mode for all tokens: generation would change it at each.
        with inference_mode(self.model), torch.autocast(visual_PVW.device.type, enabled=False):
            captions = self.encoder.generate_captions(visual, audio, options)
        # A caption of special tokens alone has no visible character.
        texts = [[caption.text.strip() or "." for caption in of_video] for of_video in captions]
        rewards = [self.rewards[corpus](int(row), of_video) for row, of_video in zip(rows, texts, strict=True)]
        self.mean_reward = float(np.mean(rewards))
        tokens = Tokens.encode(self.tokenizer, [text for of in texts for text in of])
        tokens = tokens.take(torch.arange(len(tokens.ids)))
        return SampledCaptions(tokens.to(visual_PVW.device), torch.tensor(rewards, device=visual_PVW.device))


def caption_reward_loss(
    model: FusedModel, sampled: SampledCaptions, visual_PVW: Tensor, audio_PAW: Tensor | None
) -> Tensor:
    """Compute the mean over the tokens of sampled captions of -log-probability times the advantage of the caption.

    The advantage is the reward of the caption less the mean reward of the other captions of its video.
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
