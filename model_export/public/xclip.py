"""X-CLIP of transformers: a video model whose frames exchange messages, and whose texts are adapted to the video.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, P patches, D embedding dim.
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
from model_export.public.clip import TextTower, TowersReference
from model_export.public.model import FUSED_AXES, TEXT_AXES, PublicModel
from model_export.public.preprocessing import PixelNormalization, normalization_of, open_processor, stream_of
from model_export.public.tokenization import Padding, max_text_length, open_tokenizer
from model_export.public.weights import load_model
from vitascope.bundle.manifest import Calibration

PROMPT_NOTE = (
    "The model adapts a text's embedding to each video before comparing them. Search compares the text's own "
    "embedding; reranking and matching compare the adapted one, which gives the model's own logits."
)
LOGIT_NOTE = (
    "Match probabilities are uncalibrated sigmoids of the cosine with the adapted text: the model's own logits rank"
    " texts against one another and are not probabilities of single pairs."
)


class VideoTower(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and visual_tokens (B, 1 + P, D): the vector
    and the patches, averaged over frames and clips."""

    def __init__(self, model: Any, normalization: PixelNormalization) -> None:
        super().__init__()
        self.model, self.normalization = model, normalization

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (stream,) = streams
        model, (batch, clips, count) = self.model, stream.shape[:3]
        encoded = model.vision_model(pixel_values=self.normalization.frames(stream))
        states, pooled = encoded.last_hidden_state, model.visual_projection(encoded.pooler_output)
        videos = model.mit(pooled.reshape(batch * clips, count, -1)).pooler_output
        by_clip = normalize(videos, dim=-1).reshape(batch, clips, -1)
        vector = normalize(by_clip.mean(dim=1), dim=-1)
        patches = model.prompts_visual_layernorm(states[:, 1:]) @ model.prompts_visual_projection
        patches = patches.reshape(batch, clips * count, patches.shape[1], -1).mean(dim=1)
        return vector, torch.cat([vector[:, None], patches], dim=1)


class AdaptedTextMatch(nn.Module):
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
class XClipReference(TowersReference):
    """X-CLIP in transformers; an image is a video of equal frames."""

    frames: int

    def _features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.get_video_features(pixel_values=pixels).pooler_output
        return features

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        videos = [[np.array(image)] * self.frames for image in images]
        return torch.cat([self.processor(video, return_tensors="pt")["pixel_values"] for video in videos])


def load_xclip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load X-CLIP from a transformers folder. frames: Ignored, since the model states its own. Raises InvalidInput."""
    from transformers import XCLIPModel

    model = load_model(XCLIPModel, folder, allow_pickle=allow_pickle)
    processor, tokenizer = open_processor(folder), open_tokenizer(folder)
    vision, text = model.config.vision_config, model.config.text_config
    stream = stream_of(processor, folder, vision.image_size, vision.num_frames)
    text_length = max_text_length(tokenizer.library, text.max_position_embeddings)
    padding = Padding(int(tokenizer.library.pad_token_id), None)
    scale = math.exp(float(model.logit_scale.detach()))
    return PublicModel(
        architecture="xclip",
        tasks=["retrieval", "matching"],
        specs=[
            video_spec(VideoTower(model, normalization_of(processor)), [stream]),
            GraphSpec("text", TextTower(model, padding), TEXT_AXES, ("vector",)),
            GraphSpec("match", AdaptedTextMatch(model, padding, scale), FUSED_AXES, ("match_logit",)),
        ],
        reference=XClipReference(model, tokenizer.library, processor, text_length, False, vision.num_frames),
        frame_streams=[stream],
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=model.config.projection_dim,
        visual_tokens=1 + (vision.image_size // vision.patch_size) ** 2,
        visual_width=model.config.projection_dim,
        temperature=1.0 / scale,
        tokenizer_json=tokenizer.json,
        calibration=Calibration(match_scale=1.0 / scale, fused_match=1.0 / scale),
        notes=[PROMPT_NOTE, LOGIT_NOTE, *tokenizer.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )
