"""X-CLIP of transformers: a model of video, whose frames exchange messages, and whose texts are moved towards the
video before they are compared.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, P patches, D vector width.
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
from model_export.public.texts import Padding, length_of, open_tokenizer
from model_export.public.towers import TEXT_AXES, TextTower, open_processor
from vitascope.bundle.manifest import Calibration

PROMPTS = (
    "The model moves a text's vector towards each video before it compares them. A search by vectors compares the text "
    "as it stands; reranking and matching compare it as moved, which gives the model's own logits."
)
LOGITS = (
    "Match probabilities are sigmoids of the cosine after moving, not calibrated: the model's own logits rank texts "
    "against one another and say nothing about one pair."
)


class VideoTower(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and visual_tokens (B, 1 + P, D): the vector,
    then the patches, each the mean of its frames and clips."""

    def __init__(self, model: Any, scale: PixelScale) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (frames,) = streams
        model = self.model
        batch, clips, count, height, width, _ = frames.shape
        seen = model.vision_model(pixel_values=self.scale(frames.reshape(batch * clips * count, height, width, 3)))
        states, pooled = seen.last_hidden_state, model.visual_projection(seen.pooler_output)
        videos = model.mit(pooled.reshape(batch * clips, count, -1)).pooler_output
        each = normalize(videos, dim=-1).reshape(batch, clips, -1)
        vector = normalize(each.mean(dim=1), dim=-1)
        patches = model.prompts_visual_layernorm(states[:, 1:]) @ model.prompts_visual_projection
        patches = patches.reshape(batch, clips * count, patches.shape[1], -1).mean(dim=1)
        return vector, torch.cat([vector[:, None], patches], dim=1)


class MovedText(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, 1 + P, D) -> match_logit (B,): the model's own logit."""

    def __init__(self, model: Any, padding: Padding, scale: float) -> None:
        super().__init__()
        self.model, self.padding, self.scale = model, padding, scale

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        ids = self.padding(input_ids, attention_mask)
        text = self.model.get_text_features(input_ids=ids).pooler_output[:, None]
        text = text + self.model.prompts_generator(text, visual_tokens[:, 1:])
        return self.scale * (normalize(text[:, 0], dim=-1) * visual_tokens[:, 0]).sum(dim=-1)


@dataclass(frozen=True)
class OriginalVideo:
    """X-CLIP as transformers runs it. A picture is a video whose frames are all alike."""

    model: Any
    tokenizer: Any
    processor: Any
    text_length: int
    frames: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(normalize(self.model.get_text_features(**self._encoded(texts)).pooler_output, dim=-1))

    def picture_vectors(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            features = self.model.get_video_features(pixel_values=self._pixels(pictures)).pooler_output
        return np.asarray(normalize(features, dim=-1))

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(
                self.model(**self._encoded(texts), pixel_values=self._pixels(pictures)).logits_per_video.T
            )

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding=True, return_tensors="pt"
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        videos = [[np.array(picture)] * self.frames for picture in pictures]
        return torch.cat([self.processor(video, return_tensors="pt")["pixel_values"] for video in videos])


def load_xclip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """X-CLIP of a transformers folder. It has frames of its own: ``frames`` does not count. Raises InvalidInput."""
    from transformers import XCLIPModel

    model = load_model(XCLIPModel, folder, allow_pickle=allow_pickle)
    processor, tokens = open_processor(folder), open_tokenizer(folder)
    vision, text = model.config.vision_config, model.config.text_config
    stream = stream_of(processor, folder, vision.image_size, vision.num_frames, "uniform")
    text_length = length_of(tokens.library, text.max_position_embeddings)
    padding = Padding(int(tokens.library.pad_token_id), None)
    scale = math.exp(float(model.logit_scale.detach()))
    fused_axes = TEXT_AXES | {"visual_tokens": {0: "batch"}}
    tower = VideoTower(model, scale_of(processor))
    return PublicModel(
        architecture="xclip",
        tasks=["retrieval", "matching"],
        specs=[
            video_spec(tower, [stream]),
            GraphSpec("text", TextTower(model, padding), TEXT_AXES, ("vector",)),
            GraphSpec("match", MovedText(model, padding, scale), fused_axes, ("match_logit",)),
        ],
        original=OriginalVideo(model, tokens.library, processor, text_length, vision.num_frames),
        frame_streams=[stream],
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=model.config.projection_dim,
        visual_tokens=1 + (vision.image_size // vision.patch_size) ** 2,
        visual_width=model.config.projection_dim,
        temperature=1.0 / scale,
        tokenizer_json=tokens.written,
        calibration=Calibration(match_scale=1.0 / scale, fused_match=1.0 / scale),
        notes=[PROMPTS, LOGITS, *tokens.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )
