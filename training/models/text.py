"""The split text Transformer of all architectures, text layers followed by fused layers, and its attention.

HD-VILA splits BERT-large in the middle (section 3.3). In models with sound, the fused layers read audio tokens in
addition to visual tokens.

Shape letters: B texts, P videos, H heads, L text tokens, V visual tokens, A audio tokens, D width of the Transformer, W
width of the visual or audio tokens; in attention R query positions and T key positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

MASKED_SCORE = -1e4
"""Added to the attention scores of masked positions."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return the attention output (B, H, R, D).

    queries: (B, H, R, D). keys, values: (B, H, T, D). mask: (B, 1, 1 or R, T), added to the scores.
    """
    if queries.device.type == "cpu" and torch.is_grad_enabled():
        # On CPUs the backward pass of the fused kernel takes three to five times as long for short sequences, such as
        # 7 frames, 49 positions or 12 to 64 words.
        weights = attention_weights(queries, keys, mask)
        return torch.matmul(F.dropout(weights, dropout, training=dropout > 0.0), values)
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the attention weights (B, H, R, T), whose rows sum to 1. Arguments as in `attend`."""
    scores = torch.matmul(queries, keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5
    weights: Tensor = (scores if mask is None else scores + mask).softmax(dim=-1)
    return weights


@dataclass(frozen=True)
class VisualCache:
    """Tokens, keys and values of P videos for the fused layers, computed once for all texts about them."""

    visual: Tensor
    """(P, V, W) visual tokens."""
    tokens: Tensor
    """(P, V + A, D) the visual and audio tokens embedded for the fused layers."""
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
    """Keys and values (P, heads, V + A, D / heads) of each layer; empty if they depend on the text."""
    audio: Tensor | None = None
    """(P, A, W) audio tokens; None: sound is not used."""
    present: Tensor | None = None
    """(P, V + A) int64, 0 for tokens of a missing modality and after the end of a sound; None: all exist."""

    def select(self, rows: Sequence[int]) -> VisualCache:
        """Return the cache of some of the videos, which may repeat."""
        optional = (None if x is None else x[rows] for x in (self.audio, self.present))
        layers = tuple((keys[rows], values[rows]) for keys, values in self.layers)
        return VisualCache(self.visual[rows], self.tokens[rows], layers, *optional)


class TextTransformer(nn.Module):
    """BERT whose first layers attend to text only and whose last layers attend to [text; visual tokens].

    visual_reads_text: True: the published joint self-attention. False: visual tokens attend to one another only, so
    they are computed once for many questions about a video, at a third of the cost.
    """

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
        attention_dropout: float,
        visual_reads_text: bool,
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
            attention_probs_dropout_prob=attention_dropout,
        )
        config._attn_implementation = "sdpa"
        self.text_layers = text_layers
        self.visual_reads_text = visual_reads_text
        self.bert = BertModel(config, add_pooling_layer=False)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the states (B, L, D) after the text layers of int64 ids and mask (B, L)."""
        hidden: Tensor = self.bert.embeddings(input_ids=input_ids)
        mask = additive_mask(attention_mask, hidden.dtype)
        for layer in self.bert.encoder.layer[: self.text_layers]:
            hidden = apply_layer(layer, hidden, *keys_values(layer, hidden), mask)
        return hidden

    def prepare_visual(self, visual_PVW: Tensor, tokens_PVD: Tensor) -> VisualCache:
        """Prepare visual tokens (P, V, W) and their embeddings (P, V, D) for `fuse`."""
        if self.visual_reads_text:
            return VisualCache(visual_PVW, tokens_PVD)
        return cache_visual(self.fused_layers, visual_PVW, tokens_PVD)

    def add_audio(self, cache: VisualCache, audio_PAW: Tensor, tokens_PAD: Tensor) -> VisualCache:
        """Return a cache that also has audio tokens (P, A, W) and their embeddings (P, A, D)."""
        return cache_audio(self.fused_layers, cache, audio_PAW, tokens_PAD)

    def fuse(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache, *, first_only: bool = False) -> Tensor:
        """Return the fused states (B, L, D) of B = n * P texts, the n texts about a video adjacent.

        first_only: Return only the state of [CLS], (B, 1, D), at two thirds of the cost.
        """
        hidden = self._fused(text_BLD, attention_mask, cache, first_only=first_only)
        return hidden if first_only else hidden[:, : text_BLD.shape[1]]

    def fuse_visual(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the fused states (B, V, D) of the visual tokens. Raises ValueError without `visual_reads_text`."""
        if cache.layers:
            raise ValueError("visual_reads_text: false in this model's config; true was expected to fuse visual tokens")
        length = text_BLD.shape[1]
        visual = cache.tokens.shape[1] - (0 if cache.audio is None else cache.audio.shape[1])
        return self._fused(text_BLD, attention_mask, cache)[:, length : length + visual]

    def fuse_text_only(self, text_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Return text states (B, L, D) after the fused layers, without video."""
        hidden, mask = text_BLD, additive_mask(attention_mask, text_BLD.dtype)
        for layer in self.fused_layers:
            hidden = apply_layer(layer, hidden, *keys_values(layer, hidden), mask)
        return hidden

    def fused_attention(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> list[Tensor]:
        """Return the attention weights of each fused layer over [text; visual tokens], with one text per video.

        Each has the shape (B, heads, R, L + V). R is L + V, or L if visual tokens do not attend to text.
        """
        weights: list[Tensor] = []
        self._fused(text_BLD, attention_mask, cache, weights=weights)
        return weights

    def _fused(
        self,
        text_BLD: Tensor,
        attention_mask: Tensor,
        cache: VisualCache,
        *,
        first_only: bool = False,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the fused layers: states (B, L, D), or (B, L + V, D) if visual tokens attend to text.

        weights: List to which the attention weights of each layer are appended.
        """
        texts = text_BLD.shape[0]
        visible = torch.ones((texts, cache.tokens.shape[1]), dtype=attention_mask.dtype, device=attention_mask.device)
        if cache.present is not None:
            visible = repeated(cache.present, texts)
        mask = additive_mask(torch.cat([attention_mask, visible], dim=1), text_BLD.dtype)
        hidden = text_BLD
        if not cache.layers:
            hidden = torch.cat([text_BLD, repeated(cache.tokens, texts)], dim=1)
        for index, layer in enumerate(self.fused_layers):
            keys, values = keys_values(layer, hidden)
            if cache.layers:
                visual = (repeated(x, texts) for x in cache.layers[index])
                keys, values = (torch.cat(pair, dim=2) for pair in zip((keys, values), visual, strict=True))
            if weights is not None:
                weights.append(_weights(layer, hidden, keys, mask))
            last = index == len(self.fused_layers) - 1
            hidden = apply_layer(layer, hidden[:, :1] if first_only and last else hidden, keys, values, mask)
        return hidden

    @property
    def fused_layers(self) -> list[Any]:
        """The layers after the text layers."""
        return list(self.bert.encoder.layer[self.text_layers :])

    @property
    def word_embeddings(self) -> nn.Embedding:
        embeddings: nn.Embedding = self.bert.embeddings.word_embeddings
        return embeddings


def cache_visual(layers: Sequence[Any], visual_PVW: Tensor, tokens_PVD: Tensor) -> VisualCache:
    """Return a cache with the keys and values of visual tokens (P, V, W) that attend to one another only.

    layers: BERT layers. tokens_PVD: Embeddings of the visual tokens for the first layer.
    """
    hidden, cached = tokens_PVD, []
    for layer in layers:
        cached.append(keys_values(layer, hidden))
        if len(cached) < len(layers):  # the output of the last layer is not read
            hidden = apply_layer(layer, hidden, *cached[-1])
    return VisualCache(visual_PVW, tokens_PVD, tuple(cached))


def cache_audio(layers: Sequence[Any], cache: VisualCache, audio_PAW: Tensor, tokens_PAD: Tensor) -> VisualCache:
    """Return a cache that also has audio tokens (P, A, W) and their embeddings (P, A, D).

    If visual tokens do not attend to text, audio tokens attend to visual and audio tokens, and the keys and values of
    visual tokens stay unchanged.
    """
    sees = tokens_present(cache.visual).amax(dim=1, keepdim=True).expand(-1, cache.tokens.shape[1])
    present = torch.cat([sees, tokens_present(audio_PAW)], dim=1)
    hidden, mask = tokens_PAD, additive_mask(present, tokens_PAD.dtype)
    cached: list[tuple[Tensor, Tensor]] = []
    for layer, visual in zip(layers, cache.layers, strict=False):
        keys, values = zip(visual, keys_values(layer, hidden), strict=True)
        cached.append((torch.cat(keys, dim=2), torch.cat(values, dim=2)))
        if len(cached) < len(layers):
            hidden = apply_layer(layer, hidden, *cached[-1], mask)
    tokens = torch.cat([cache.tokens, tokens_PAD], dim=1)
    return VisualCache(cache.visual, tokens, tuple(cached), audio_PAW, present)


def keys_values(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys and values, each (B, heads, T, D / heads), that a BERT layer computes from states (B, T, D)."""
    attention = layer.attention.self
    return _by_head(attention.key(hidden), attention), _by_head(attention.value(hidden), attention)


def _by_head(x: Tensor, attention: Any) -> Tensor:
    heads = x.reshape(*x.shape[:-1], attention.num_attention_heads, attention.attention_head_size)
    return heads.transpose(1, 2)


def apply_layer(layer: Any, reader: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run a BERT layer for positions `reader` (B, R, D) that attend to keys and values (B, heads, T, D / heads)."""
    attention = layer.attention.self
    queries = _by_head(attention.query(reader), attention)
    dropout = attention.dropout.p if layer.training else 0.0
    mask = None if mask is None else mask.to(queries.dtype)
    context = attend(queries, keys, values, mask, dropout)
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), reader)
    out: Tensor = layer.output(layer.intermediate(attended), attended)
    return out


def _weights(layer: Any, reader: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Return the attention weights of a BERT layer, (B, heads, R, T)."""
    attention = layer.attention.self
    queries = _by_head(attention.query(reader), attention)
    return attention_weights(queries, keys, mask.to(queries.dtype))


def repeated(x: Tensor, texts: int) -> Tensor:
    """Repeat each video for the texts about it: (P, ...) -> (texts, ...)."""
    return x if x.shape[0] == texts else x.repeat_interleave(texts // x.shape[0], dim=0)


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask (B, 1, 1, L): 0 where the mask (B, L) is 1, a very negative number elsewhere."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * MASKED_SCORE


def masked_mean(states_BLD: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean (B, D) of states (B, L, D) over the tokens whose mask (B, L) is 1."""
    weights = attention_mask[:, :, None].to(states_BLD.dtype)
    return (states_BLD * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def tokens_present(tokens_PVW: Tensor) -> Tensor:
    """Return the mask (P, V) int64 of visual or audio tokens: 0 for tokens of zeros, which stand for missing ones."""
    return (tokens_PVW.abs().amax(dim=-1) > 0).long()


class MaskedWordHead(nn.Module):
    """The MLM head of BERT; its decoder is tied to the word embeddings."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, word_embeddings: nn.Embedding, words: Tensor | None = None) -> Tensor:
        """Return the logits (n, vocabulary), or (n, len(words)), of states (n, D) at masked positions.

        words: Ids of the words whose logits are computed; None: all words.
        """
        weight: Tensor = word_embeddings.weight
        bias: Tensor = self.bias
        if words is not None:
            weight, bias = weight.index_select(0, words), bias.index_select(0, words)
        logits: Tensor = self.transform(states) @ weight.T + bias
        return logits
