"""The objective `captions`: predict the next token of a caption from the earlier tokens and the video.

Shape letters: P videos, B captions, L tokens of a caption, V visual tokens, A audio tokens, W their width, n tokens to
predict, D width of their states, k tokens of the sampled softmax.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training import distributed
from training.models.fusion import FusedModel
from training.models.text import repeated

DRAWS = 4096
"""Number of tokens that are drawn from the vocabulary at each step for the sampled softmax."""
SMOOTHING = 0.1
"""Label smoothing (Szegedy et al., CVPR 2016, section 7)."""


def caption_loss(
    model: FusedModel, ids_BL: Tensor, mask_BL: Tensor, visual_PVW: Tensor, audio_PAW: Tensor | None
) -> Tensor:
    """Compute the cross-entropy of all tokens of captions except the first, [CLS].

    With an output vocabulary (`CaptionDecoder.words`) the softmax is over this vocabulary only. Other tokens are inputs
    but not targets.

    Args:
        ids_BL, mask_BL: Tokens of B = n * P captions, the n captions of a video adjacent.
        visual_PVW: Visual tokens.
        audio_PAW: Audio tokens; None: sound is not used.
    """
    decoder = model.get_caption_decoder()
    states, predicted = caption_states(model, ids_BL, mask_BL, visual_PVW, audio_PAW)
    targets = ids_BL[:, 1:][predicted]
    tokens, weights = decoder.words, None
    if tokens is None:
        tokens, weights = sample_vocabulary(targets, model.cfg.vocabulary)
    logits = decoder.word_head(states, model.text.word_embeddings, tokens).float()
    logits = logits if weights is None else logits + weights
    loss = F.cross_entropy(logits, torch.searchsorted(tokens, targets), label_smoothing=SMOOTHING)
    return distributed.global_mean(loss, len(targets))


def caption_states(
    model: FusedModel, ids_BL: Tensor, mask_BL: Tensor, visual_PVW: Tensor, audio_PAW: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the decoder states (n, D) that predict n tokens, and the mask (B, L - 1) bool of these tokens.

    Arguments as in `caption_loss`.
    """
    decoder = model.get_caption_decoder()
    predicted = mask_BL[:, 1:].bool()
    if decoder.words is not None:
        predicted &= torch.isin(ids_BL[:, 1:], decoder.words)
    keys, values, present = (repeated(x, len(ids_BL)) for x in model.prepare_captions(visual_PVW, audio_PAW))
    nothing = keys[:, :, :, :0]  # no token comes before the first
    states, *_ = decoder(ids_BL[:, :-1], model.text.bert.embeddings, nothing, nothing, keys, values, present)
    return states[predicted], predicted


def sample_vocabulary(targets_n: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Sample the tokens of a sampled softmax, which is cheaper than one over the vocabulary (Jean et al., ACL 2015).

    Returns:
        Token ids (k,) in ascending order, which include all targets; and a correction (k,) to add to the logits (0 for
        targets, else -log of the inclusion probability), so that the softmax denominator is unbiased.
    """
    drawn = torch.randint(vocabulary, (DRAWS,), device=targets_n.device)
    ids: Tensor = torch.cat([targets_n, drawn]).unique()  # type: ignore[no-untyped-call]
    probability = -math.expm1(DRAWS * math.log1p(-1.0 / vocabulary))
    return ids, torch.where(torch.isin(ids, targets_n), 0.0, -math.log(probability))
