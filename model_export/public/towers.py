"""CLIP and SigLIP of transformers: a text tower, an image tower, one space. An image model serves video by the mean
of its frames.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, D vector width, N pictures.
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
from vitascope.bundle.manifest import Calibration, FrameStream
from vitascope.errors import InvalidInput

TEXT_AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
POOLING = (
    "A clip's vector is the mean of the unit vectors of {frames} frames at the centres of equal parts of the clip, "
    "made unit length again; the model itself knows pictures only. Of a picture it is the model's own vector."
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
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and it again as one visual token (B, 1, D)."""

    def __init__(self, model: Any, scale: PixelScale) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (frames,) = streams
        batch, clips, count, height, width, _ = frames.shape
        pixels = self.scale(frames.reshape(batch * clips * count, height, width, 3))
        each = normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        vector = normalize(each.reshape(batch, clips * count, -1).mean(dim=1), dim=-1)
        return vector, vector[:, None]


@dataclass(frozen=True)
class OriginalTowers:
    """The two towers as transformers runs them, on what its own processor and tokenizer make."""

    model: Any
    tokenizer: Any
    processor: Any
    text_length: int
    fixed_length: bool

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            features = self.model.get_text_features(**self._encoded(texts)).pooler_output
        return np.asarray(normalize(features, dim=-1))

    def picture_vectors(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values=self._pixels(pictures)).pooler_output
        return np.asarray(normalize(features, dim=-1))

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            result = self.model(**self._encoded(texts), pixel_values=self._pixels(pictures))
        return np.asarray(result.logits_per_text)

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        padding = "max_length" if self.fixed_length else True
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding=padding, return_tensors="pt"
        )
        # Models of one text length were trained without a mask.
        names = ("input_ids",) if self.fixed_length else ("input_ids", "attention_mask")
        return {name: encoded[name] for name in names}

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels


def load_clip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """CLIP of a transformers folder. Raises InvalidInput."""
    from transformers import CLIPModel

    model = load_model(CLIPModel, folder, allow_pickle=allow_pickle)
    return _towers(folder, config, model, frames, fixed_length=False)


def load_siglip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """SigLIP, and SigLIP 2 of one resolution, of a transformers folder. Raises InvalidInput."""
    from transformers import SiglipModel

    model = load_model(SiglipModel, folder, allow_pickle=allow_pickle)
    return _towers(folder, config, model, frames, fixed_length=True)


def _towers(folder: Path, config: dict[str, Any], model: Any, frames: int, *, fixed_length: bool) -> PublicModel:
    processor, tokens = open_processor(folder), open_tokenizer(folder)
    tokenizer = tokens.library
    stream = stream_of(processor, folder, model.config.vision_config.image_size, frames, "uniform")
    text = model.config.text_config
    text_length = length_of(tokenizer, text.max_position_embeddings)
    original = OriginalTowers(model, tokenizer, processor, text_length, fixed_length)
    bias = float(model.logit_bias.detach()) if hasattr(model, "logit_bias") else 0.0
    return two_towers(
        architecture=str(config["model_type"]),
        text=TextTower(model, Padding(int(tokenizer.pad_token_id), text_length if fixed_length else None)),
        frames=FrameTower(model, scale_of(processor)),
        stream=stream,
        original=original,
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=vector_width_of(model),
        scale=math.exp(float(model.logit_scale.detach())),
        logit_bias=bias,
        tokenizer_json=tokens.written,
        notes=tokens.notes,
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
    **stated: Any,
) -> PublicModel:
    """A model of pictures with a text tower and an image tower; ``stated``: further fields of PublicModel."""
    width = stated["vector_width"]
    # A sigmoid loss makes of a similarity a probability; a contrastive one does not.
    calibration = Calibration(fused_similarity=scale, fused_match=0.0, fused_bias=logit_bias)
    return PublicModel(
        tasks=["retrieval"],
        specs=[
            video_spec(frames, [stream]),
            GraphSpec("text", text, TEXT_AXES, ("vector",)),
        ],
        frame_streams=[stream],
        visual_tokens=1,
        visual_width=width,
        temperature=1.0 / scale,
        logit_bias=logit_bias,
        calibration=calibration if logit_bias else Calibration(),
        notes=[POOLING.format(frames=stream.frames), *notes],
        **stated,
    )


def vector_width_of(model: Any) -> int:
    """Of the space that both towers share."""
    projection = getattr(model, "text_projection", None)
    return int(projection.out_features if projection is not None else model.config.vision_config.hidden_size)


def open_processor(folder: Path) -> Any:
    """The folder's image processor, as transformers opens it. Raises InvalidInput."""
    from transformers import AutoImageProcessor

    try:
        kind: Any = AutoImageProcessor
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries behind it raise nearly anything
        raise InvalidInput(f"model: {folder}: its image processor cannot be opened: {error}") from error
