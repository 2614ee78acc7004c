"""The split text Transformer that every system here uses: text layers first, fused layers after.

HD-VILA splits BERT-large in the middle (section 3.3). Shape letters: B texts, L text tokens, V visual tokens,
D width of the Transformer, W width of the visual tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel


class TextTransformer(nn.Module):
    """BERT whose first layers read text alone and whose last layers read [text; visual tokens]."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        text_layers: int,
        fused_layers: int,
        intermediate: int,
        vocabulary: int,
        max_positions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=text_layers + fused_layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=max_positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        config._attn_implementation = "sdpa"
        self.text_layers = text_layers
        self.bert = BertModel(config, add_pooling_layer=False)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) int64 ids and mask -> (B, L, D) states after the text layers."""
        hidden: Tensor = self.bert.embeddings(input_ids=input_ids)
        mask = additive_mask(attention_mask, hidden.dtype)
        for layer in self.bert.encoder.layer[: self.text_layers]:
            hidden = layer(hidden, mask)
        return hidden

    def fuse(self, text_BLD: Tensor, attention_mask: Tensor, visual_BVD: Tensor) -> Tensor:
        """Text states (B, L, D) and embedded visual tokens (B, V, D) -> (B, L + V, D) after the fused layers."""
        seen = torch.ones(visual_BVD.shape[:2], dtype=attention_mask.dtype, device=attention_mask.device)
        hidden = torch.cat([text_BLD, visual_BVD], dim=1)
        mask = additive_mask(torch.cat([attention_mask, seen], dim=1), hidden.dtype)
        for layer in self.bert.encoder.layer[self.text_layers :]:
            hidden = layer(hidden, mask)
        return hidden

    @property
    def word_embeddings(self) -> nn.Embedding:
        embeddings: nn.Embedding = self.bert.embeddings.word_embeddings
        return embeddings


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, L) of ones and zeros -> (B, 1, 1, L): 0 where attended, a very negative number elsewhere."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * -1e4


def masked_mean(states_BLD: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding: (B, L, D), (B, L) -> (B, D)."""
    weights = attention_mask[:, :, None].to(states_BLD.dtype)
    return (states_BLD * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


class VisualEmbeddings(nn.Module):
    """Visual tokens as the fused layers take them: row + column + type embeddings, LayerNorm, dropout."""

    def __init__(self, *, visual_width: int, width: int, rows: int, columns: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(visual_width, width)
        self.row = nn.Parameter(torch.empty(rows, 1, width))
        self.column = nn.Parameter(torch.empty(1, columns, width))
        self.kind = nn.Parameter(torch.empty(1, width))
        for parameter in (self.row, self.column, self.kind):
            nn.init.normal_(parameter, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, visual_BVW: Tensor) -> Tensor:
        place = (self.row + self.column).flatten(0, 1)  # (V, D)
        out: Tensor = self.dropout(self.norm(self.project(visual_BVW) + place + self.kind))
        return out


class MaskedWordHead(nn.Module):
    """BERT's masked-language-model head; the decoder is tied to the word embeddings."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, word_embeddings: nn.Embedding) -> Tensor:
        """(n, D) states of masked positions -> (n, vocabulary) logits."""
        logits: Tensor = self.transform(states) @ word_embeddings.weight.T + self.bias
        return logits
