"""SOHO wired: visual tokens beside words in a single stream, and masked visual modelling (section 3).

Shape letters: B videos, H W pixels, V visual tokens, L text tokens, D width, K dictionary entries.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.fused import FusedModel
from training.models.places import SineEmbeddings
from training.models.soho.config import SohoConfig
from training.models.soho.video import VideoEncoder


class Soho(FusedModel):
    """One picture per clip and one Transformer for words and visual tokens together.

    The published model ranks by its matching head alone, which no index can hold; vectors for retrieval are the mean
    of the visual tokens and of the text's states, projected and trained by contrast, as in the other systems here.
    """

    cfg: SohoConfig
    video: VideoEncoder
    visual_embeddings: SineEmbeddings
    backbones = ("video.cnn.",)

    def __init__(self, cfg: SohoConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        self.mask_embedding = nn.Parameter(torch.randn(cfg.visual_width) * 0.02)

    def make_visual_embeddings(self) -> SineEmbeddings:
        cfg = self.cfg
        return SineEmbeddings(width=cfg.text_width, rows=cfg.grid_height, columns=cfg.grid_width, dropout=cfg.dropout)

    def encode_maskable(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Visual tokens (B, V, D) and the indices of their dictionary entries, (B, V)."""
        return self.video.tokens(self.video.features(streams["high"].flatten(0, 1)))

    def mask_visual(self, tokens_BVD: Tensor, indices_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Same-index masking (section 3.3): of each picture one dictionary index is drawn, and all its tokens go.

        Masking one token alone would let an equal neighbour give it away. Returns the tokens with the mask embedding
        in place of the masked ones, and which were masked, (B, V) bool.
        """
        drawn = torch.randint(indices_BV.shape[1], (len(indices_BV), 1), device=indices_BV.device)
        masked = indices_BV == indices_BV.gather(1, drawn)
        return torch.where(masked[..., None], self.mask_embedding.to(tokens_BVD.dtype), tokens_BVD), masked

    def entry_logits(self, states: Tensor) -> Tensor:
        """Fused states of masked visual tokens (n, D) -> (n, K): cosine with every dictionary entry."""
        entries = F.normalize(self.video.dictionary.entries, dim=-1)
        return F.normalize(states.float(), dim=-1) @ entries.T / self.cfg.entry_temperature

    def masked_visual(self, tokens: Tensor, parts: Tensor, text_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Masked visual modelling: cross-entropy over the dictionary's entries, the text whole (section 3.3)."""
        hidden, masked = self.mask_visual(tokens, parts)
        fused = self.text.fuse_visual(text_BLD, attention_mask, self.see(hidden))
        return F.cross_entropy(self.entry_logits(fused[masked]), parts[masked])

    def facts(self) -> dict[str, float]:
        return self.video.dictionary.usage()
