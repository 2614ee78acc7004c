"""CLIP and SigLIP of transformers: text and image embeddings; a clip's embedding is the mean of its frames'.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, D embedding dim.
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
from model_export.public.model import TEXT_AXES, PublicModel, TransformersReference
from model_export.public.preprocessing import PixelNormalization, normalization_of, open_processor, stream_of
from model_export.public.tokenization import Padding, max_text_length, open_tokenizer
from vitascope.bundle.manifest import Calibration, FrameStream

POOLING_NOTE = (
    "A clip's embedding is the normalized mean of the embeddings of {frames} frames at the centers of equal parts "
    "of the clip, as the model encodes single images. An image's embedding is the model's own."
)


class TextTower(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any, padding: Padding) -> None:
        super().__init__()
        self.model, self.padding = model, padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = self.padding(input_ids, attention_mask)
        return normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=-1)


class FrameTower(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and the same as one visual token (B, 1, D)."""

    def __init__(self, model: Any, normalization: PixelNormalization) -> None:
        super().__init__()
        self.model, self.normalization = model, normalization

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (stream,) = streams
        pixels = self.normalization.frames(stream)
        frames = normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        vector = pool_frames(frames, stream)
        return vector, vector[:, None]


def pool_frames(embeddings: Tensor, stream: Tensor) -> Tensor:
    """Return the normalized mean of frame embeddings: (B * C * F, D) -> (B, D)."""
    return normalize(embeddings.reshape(stream.shape[0], stream.shape[1] * stream.shape[2], -1).mean(dim=1), dim=-1)


@dataclass(frozen=True)
class TowersReference(TransformersReference):
    """CLIP or SigLIP in transformers."""

    fixed_length: bool

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(normalize(self.model.get_text_features(**self._encode(texts)).pooler_output, dim=-1))

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values=self._pixels(images)).pooler_output
        return np.asarray(normalize(features, dim=-1))

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(self.model(**self._encode(texts), pixel_values=self._pixels(images)).logits_per_text)

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if not self.fixed_length:
            return super()._encode(texts)
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding="max_length", return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"]}  # trained without a mask


def load_clip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load CLIP from a transformers folder. Raises InvalidInput."""
    from transformers import CLIPModel

    model = load_model(CLIPModel, folder, allow_pickle=allow_pickle)
    return _load_towers(folder, config, model, frames, fixed_length=False)


def load_siglip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load SigLIP, or SigLIP 2 of one resolution, from a transformers folder. Raises InvalidInput."""
    from transformers import SiglipModel

    model = load_model(SiglipModel, folder, allow_pickle=allow_pickle)
    return _load_towers(folder, config, model, frames, fixed_length=True)


def _load_towers(folder: Path, config: dict[str, Any], model: Any, frames: int, *, fixed_length: bool) -> PublicModel:
    processor, tokenizer = open_processor(folder), open_tokenizer(folder)
    text_config = model.config.text_config
    text_length = max_text_length(tokenizer.library, text_config.max_position_embeddings)
    projection = getattr(model, "text_projection", None)
    padding = Padding(int(tokenizer.library.pad_token_id), text_length if fixed_length else None)
    return two_towers(
        architecture=str(config["model_type"]),
        text=TextTower(model, padding),
        frames=FrameTower(model, normalization_of(processor)),
        stream=stream_of(processor, folder, model.config.vision_config.image_size, frames, "uniform"),
        reference=TowersReference(model, tokenizer.library, processor, text_length, fixed_length),
        vocabulary=text_config.vocab_size,
        text_length=text_length,
        vector_width=int(model.config.vision_config.hidden_size if projection is None else projection.out_features),
        scale=math.exp(float(model.logit_scale.detach())),
        logit_bias=float(model.logit_bias.detach()) if hasattr(model, "logit_bias") else 0.0,
        tokenizer_json=tokenizer.json,
        notes=tokenizer.notes,
        versions={"transformers": version("transformers")},
        config=config,
    )


def two_towers(
    *,
    text: nn.Module,
    frames: nn.Module,
    stream: FrameStream,
    scale: float,
    logit_bias: float,
    notes: list[str],
    **fields: Any,
) -> PublicModel:
    """Return an image model with a text tower and an image tower.

    Args:
        fields: further fields of PublicModel.
    """
    # A sigmoid loss makes a probability of a similarity; a contrastive loss does not.
    calibration = Calibration(fused_similarity=scale, fused_match=0.0, fused_bias=logit_bias)
    return PublicModel(
        tasks=["retrieval"],
        specs=[video_spec(frames, [stream]), GraphSpec("text", text, TEXT_AXES, ("vector",))],
        frame_streams=[stream],
        visual_tokens=1,
        visual_width=fields["vector_width"],
        temperature=1.0 / scale,
        logit_bias=logit_bias,
        calibration=calibration if logit_bias else Calibration(),
        notes=[POOLING_NOTE.format(frames=stream.frames), *notes],
        **fields,
    )
