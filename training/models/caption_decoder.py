"""The decoder that generates captions: words attend to the visual tokens and to earlier words.

The layers are initialized from the fused layers and the word head from the MLM head, so they have the same shapes.
BLIP's decoder shares its layers with the encoder in a similar way (Li et al., ICML 2022, section 3.1).

Shape letters: B captions, Y layers, H heads, T visual and audio tokens, P words so far, L new words, d head width, D
width of the layers, K words in the output vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from training.models.text import MASKED_SCORE, MaskedWordHead, apply_layer, keys_values


class CaptionDecoder(nn.Module):
    """Transformer layers over [words; visual tokens] with a causal mask over words, and a head for the next word."""

    words: Tensor | None
    """Token ids (K,) of the output vocabulary, ascending; -1 before they are chosen. None: the whole vocabulary."""

    def __init__(self, config: BertConfig, layers: int, words: int = 0) -> None:
        """Build the decoder.

        Args:
            config: BERT configuration of the layers.
            layers: Number of layers.
            words: Size K of the output vocabulary, the only words whose logits are computed; 0: all words.
        """
        super().__init__()
        self.register_buffer("words", torch.full((words,), -1) if words else None)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(layers))  # type: ignore[no-untyped-call]
        self.word_head = MaskedWordHead(config.hidden_size, config.vocab_size)

    def copy_weights(self, fused_layers: Iterable[nn.Module], word_head: MaskedWordHead) -> None:
        """Copy the weights of the fused layers, in order, and of the MLM head."""
        for layer, fused in zip(self.layers, fused_layers, strict=False):
            layer.load_state_dict(fused.state_dict())
        self.word_head.load_state_dict(word_head.state_dict())

    def forward(
        self,
        input_ids: Tensor,
        embeddings: nn.Module,
        past_keys: Tensor,
        past_values: Tensor,
        visual_keys: Tensor,
        visual_values: Tensor,
        visual_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode new words.

        Args:
            input_ids: (B, L) int64, the words at positions P to P + L - 1.
            embeddings: BERT's embeddings of words and positions.
            past_keys, past_values: (B, Y, H, P, d), keys and values of the first P words.
            visual_keys, visual_values: (B, Y, H, T, d), keys and values of the visual and audio tokens.
            visual_mask: (B, T) int64, 0 for tokens of a missing modality.

        Returns:
            The states of the new words (B, L, D), and the keys and values (B, Y, H, P + L, d) of all words.
        """
        (rows, count), past = input_ids.shape, past_keys.shape[3]
        positions = torch.arange(past + count, device=input_ids.device)
        hidden = embeddings(
            input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids), position_ids=positions[None, past:]
        )
        earlier = (positions[None] <= positions[past:, None]).to(visual_mask.dtype)
        readable = torch.cat([earlier.expand(rows, -1, -1), visual_mask[:, None].expand(-1, count, -1)], dim=2)
        mask = (1.0 - readable[:, None].to(hidden.dtype)) * MASKED_SCORE
        all_keys, all_values = [], []
        for index, layer in enumerate(self.layers):
            keys, values = keys_values(layer, hidden)
            all_keys.append(torch.cat([past_keys[:, index], keys], dim=2))
            all_values.append(torch.cat([past_values[:, index], values], dim=2))
            keys = torch.cat([all_keys[-1], visual_keys[:, index]], dim=2)
            values = torch.cat([all_values[-1], visual_values[:, index]], dim=2)
            hidden = apply_layer(layer, hidden, keys, values, mask)
        return hidden, torch.stack(all_keys, dim=1), torch.stack(all_values, dim=1)

    def word_logits(self, states: Tensor, word_embeddings: nn.Embedding) -> Tensor:
        """Return the logits (B, vocabulary) of states (B, D): `MASKED_SCORE` outside of the output vocabulary."""
        logits: Tensor = self.word_head(states, word_embeddings, self.words)
        if self.words is None:
            return logits
        masked = logits.new_full((logits.shape[0], word_embeddings.num_embeddings), MASKED_SCORE)  # len() would fix B
        return masked.scatter(1, self.words.expand_as(logits), logits)
