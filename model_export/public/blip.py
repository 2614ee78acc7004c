"""BLIP of transformers for retrieval and image-text matching: two vectors, and a text encoder that reads the picture.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, V patches and one, K their width,
D vector width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.graphs import GraphSpec, video_spec
from model_export.public.folder import load_model
from model_export.public.model import PublicModel
from model_export.public.pictures import PixelScale, scale_of, stream_of
from model_export.public.texts import length_of, open_tokenizer
from model_export.public.towers import POOLING, TEXT_AXES, open_processor
from vitascope.errors import InvalidInput

READS = "Matching reads the frame in the middle of the {frames}; the clip's vector is of all of them."
TEMPERATURE = (
    "The temperature is that at which training begins, by the configuration; the weights do not hold a trained one, "
    "and no score depends on it."
)
_CLASS = "BlipForImageTextRetrieval"


class BlipText(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return normalize(self.model.text_proj(states[:, 0]), dim=-1)


class BlipFrames(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and visual_tokens (B, V, K) of one frame."""

    def __init__(self, model: Any, scale: PixelScale) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (frames,) = streams
        batch, clips, count, height, width, _ = frames.shape
        pixels = self.scale(frames.reshape(batch * clips * count, height, width, 3))
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        each = normalize(self.model.vision_proj(states[:, 0]), dim=-1).reshape(batch, clips * count, -1)
        tokens = states.reshape(batch, clips * count, states.shape[1], states.shape[2])
        return normalize(each.mean(dim=1), dim=-1), tokens[:, (clips * count) // 2]


class BlipMatch(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> match_logit (B,), whose sigmoid is the model's own
    probability that the pair belongs together."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        states = self.model.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=visual_tokens
        ).last_hidden_state
        scores = self.model.itm_head(states[:, 0])
        difference: Tensor = scores[:, 1] - scores[:, 0]
        return difference


@dataclass(frozen=True)
class OriginalBlip:
    """BLIP as transformers runs it, on what its own processor and tokenizer make."""

    model: Any
    tokenizer: Any
    processor: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            states = self.model.text_encoder(**self._encoded(texts)).last_hidden_state
            return np.asarray(normalize(self.model.text_proj(states[:, 0]), dim=-1))

    def picture_vectors(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            states = self.model.vision_model(pixel_values=self._pixels(pictures)).last_hidden_state
            return np.asarray(normalize(self.model.vision_proj(states[:, 0]), dim=-1))

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        encoded, columns = self._encoded(texts), []
        for pixels in self._pixels(pictures):
            repeated = pixels.expand(len(texts), -1, -1, -1)
            with torch.no_grad():
                scores = self.model(**encoded, pixel_values=repeated, use_itm_head=True).itm_score
            columns.append(np.asarray(scores[:, 1] - scores[:, 0]))
        return np.stack(columns, axis=1)

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding=True, return_tensors="pt"
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels


def load_blip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """BLIP for retrieval and matching, of a transformers folder. Raises InvalidInput, also for BLIP's other heads."""
    from transformers import BlipForImageTextRetrieval

    if (heads := config.get("architectures")) != [_CLASS]:
        raise InvalidInput(
            f"model: {folder}: architectures {heads}; {[_CLASS]} or ['BlipForQuestionAnswering'] was expected"
        )
    model = load_model(BlipForImageTextRetrieval, folder, allow_pickle=allow_pickle)
    processor, tokens = open_processor(folder), open_tokenizer(folder)
    vision, text = model.config.vision_config, model.config.text_config
    stream = stream_of(processor, folder, vision.image_size, frames, "uniform")
    text_length = length_of(tokens.library, text.max_position_embeddings)
    tower = BlipFrames(model, scale_of(processor))
    fused_axes = TEXT_AXES | {"visual_tokens": {0: "batch"}}
    return PublicModel(
        architecture="blip",
        tasks=["retrieval", "matching"],
        specs=[
            video_spec(tower, [stream]),
            GraphSpec("text", BlipText(model), TEXT_AXES, ("vector",)),
            GraphSpec("match", BlipMatch(model), fused_axes, ("match_logit",)),
        ],
        original=OriginalBlip(model, tokens.library, processor, text_length),
        frame_streams=[stream],
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=model.config.image_text_hidden_size,
        visual_tokens=1 + (vision.image_size // vision.patch_size) ** 2,
        visual_width=vision.hidden_size,
        temperature=1.0 / math.exp(model.config.logit_scale_init_value),
        tokenizer_json=tokens.written,
        notes=[POOLING.format(frames=frames), READS.format(frames=frames), TEMPERATURE, *tokens.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )
