"""BLIP captioning of transformers: an image encoder, and a decoder of words that attends to the image.

Shape letters: B captions, I images, Y layers, E heads, V visual tokens, K their width, P tokens so far, L new ones, G
width of a head, D width of the decoder, N vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from model_export.graphs import caption_specs, video_spec
from model_export.public.model import TransformersReference, additive_mask
from model_export.weights import ADDED_WEIGHTS
from vitascope.bundle.manifest import FrameStream
from vitascope.bundle.parts import CaptionDecoder

PROMPT = "a picture of"
"""Words that the authors' captions continue."""
MAX_TOKENS = 40
"""Of a caption, unless the model has fewer positions."""
FRAME_NOTE = "Captions are those of the middle frame of a clip."
PROMPT_NOTE = f'Every caption continues "{PROMPT}", as the authors\' do; these words are no part of its text.'


class BlipCaptionPrefill(nn.Module):
    """visual_tokens (B, V, K) -> visual_keys, visual_values (B, Y, E, V, G), visual_mask (B, V) int64."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.text_decoder

    def forward(self, visual_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layers = [layer.crossattention.self for layer in self.decoder.bert.encoder.layer]
        keys = [_by_head(attention, attention.key(visual_tokens)) for attention in layers]
        values = [_by_head(attention, attention.value(visual_tokens)) for attention in layers]
        mask = torch.ones(visual_tokens.shape[:2], dtype=torch.int64)
        return torch.stack(keys, dim=1), torch.stack(values, dim=1), mask


class BlipCaptionStep(nn.Module):
    """input_ids (B, L) int64, past_keys, past_values (B, Y, E, P, G) and the outputs of BlipCaptionPrefill -> logits
    (B, N) of the token after them, present_keys, present_values (B, Y, E, P + L, G).

    Uses the decoder's own modules, whose forward methods compute keys and values of the image again.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.text_decoder

    def forward(
        self,
        input_ids: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        visual_keys: Tensor,
        visual_values: Tensor,
        visual_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        past = past_keys.shape[3]
        positions = torch.arange(past + input_ids.shape[1])
        words_mask = additive_mask(positions[None] <= positions[past:, None])
        image_mask = additive_mask(visual_mask > 0)[:, None, None]
        states = self.decoder.bert.embeddings(input_ids=input_ids, position_ids=positions[None, past:])
        all_keys, all_values = [], []
        for index, layer in enumerate(self.decoder.bert.encoder.layer):
            words = layer.attention.self
            keys = torch.cat([past_keys[:, index], _by_head(words, words.key(states))], dim=2)
            values = torch.cat([past_values[:, index], _by_head(words, words.value(states))], dim=2)
            all_keys.append(keys)
            all_values.append(values)
            states = _attend(layer.attention, states, keys, values, words_mask)
            image = layer.crossattention
            states = _attend(image, states, visual_keys[:, index], visual_values[:, index], image_mask)
            states = layer.feed_forward_chunk(states)
        logits: Tensor = self.decoder.cls(states[:, -1])
        return logits, torch.stack(all_keys, dim=1), torch.stack(all_values, dim=1)


def _by_head(attention: Any, states: Tensor) -> Tensor:
    """(B, T, E * G) -> (B, E, T, G)."""
    heads = states.reshape(*states.shape[:2], attention.num_attention_heads, attention.attention_head_size)
    return heads.transpose(1, 2)


def _attend(attention: Any, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return the output (B, L, D) of an attention block for states (B, L, D)."""
    queries = _by_head(attention.self, attention.self.query(states))
    attended = F.scaled_dot_product_attention(queries, keys, values, mask)
    output: Tensor = attention.output(attended.transpose(1, 2).flatten(2), states)
    return output


class BlipCaptionsReference(TransformersReference):
    """BLIP captioning in transformers."""

    def greedy_captions(self, images: Sequence[Image.Image], max_tokens: int) -> list[tuple[list[int], np.ndarray]]:
        prompt = torch.tensor([self.token_ids(PROMPT)])  # generate replaces the first token and omits the last
        captions = []
        for pixels in self._pixels(images):
            outputs = self.model.generate(
                pixels[None],
                prompt.clone(),
                max_new_tokens=max_tokens,
                num_beams=1,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
            logits = torch.cat(outputs.logits)
            captions.append((outputs.sequences[0, -len(logits) :].tolist(), logits.numpy()))
        return captions


def caption_fields(
    model: Any, video: nn.Module, stream: FrameStream, reference: TransformersReference
) -> dict[str, Any]:
    """Return the fields of `PublicModel` that captioning determines.

    Args:
        video: Module of the video graph.
        reference: The model with its tokenizer.
    """
    text = model.config.text_config
    start_ids = [text.bos_token_id, *reference.token_ids(PROMPT)[1:-1]]
    decoder = CaptionDecoder(
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        head_width=text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        start_ids=start_ids,
        end_id=text.sep_token_id,
        max_tokens=min(MAX_TOKENS, reference.text_length - len(start_ids)),
        weights=ADDED_WEIGHTS["captions"],
    )
    prefill, step = BlipCaptionPrefill(model), BlipCaptionStep(model)
    specs = [video_spec(video, [stream], ("visual_tokens",))]
    return {
        "tasks": ["captioning"],
        "specs": [*specs, *caption_specs(prefill, step, {"visual_tokens": {0: "batch"}})],
        "captions": decoder,
    }
