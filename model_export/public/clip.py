"""CLIP and SigLIP of transformers, and CLIP of open_clip (plain ViT and text Transformer).

A clip's embedding is the mean of its frames'.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, D embedding dim.
"""

from __future__ import annotations

import math
import re
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

from model_export.assemble import read_json_object
from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import TEXT_AXES, PublicModel, TransformersReference
from model_export.public.preprocessing import (
    STREAM_NAME,
    PixelNormalization,
    normalization_of,
    open_processor,
    stream_of,
)
from model_export.public.tokenization import LoadedTokenizer, Padding, max_text_length, open_tokenizer
from model_export.public.weights import check_keys, load_model, read_weights
from vitascope.bundle.manifest import Calibration, FrameStream
from vitascope.errors import InvalidInput
from vitascope.media.frame import resize_to_fit
from vitascope.media.image import PictureFrame

POOLING_NOTE = (
    "A clip's embedding is the normalized mean of the embeddings of {frames} frames at the centers of equal parts "
    "of the clip, as the model encodes single images. An image's embedding is the model's own."
)
OPEN_CLIP_CONFIG = "open_clip_config.json"
TOKENIZER_NOTE = (
    "Texts are tokenized by the folder's tokenizer.json; open_clip's own tokenizer also repairs encoding errors and"
    " HTML entities first."
)
OPEN_CLIP_NOTE = (
    "The bundle was compared with the weights renamed into transformers' CLIP, not with the package open_clip."
)
_MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "custom_text"}
_VISION_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_PREPROCESS_KEYS = {"mean", "std", "interpolation", "resize_mode", "size", "mode", "fill_color"}
_LAYER_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED_NAMES = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Weights stored as (in, out)."""


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
            return np.asarray(normalize(self._features(self._pixels(images)), dim=-1))

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(self.model(**self._encode(texts), pixel_values=self._pixels(images)).logits_per_text)

    def _features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return features

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
        stream=stream_of(processor, folder, model.config.vision_config.image_size, frames),
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


def rename_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename open_clip's weights to those of transformers' CLIP; unknown names are kept."""
    renamed: dict[str, Tensor] = {}
    for name, values in weights.items():
        layer = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if layer:
            tower = "vision_model" if layer[1] else "text_model"
            renamed |= _rename_layer(f"{tower}.encoder.layers.{layer[2]}", layer[3], values)
        elif name in _TRANSPOSED_NAMES:
            renamed[_TRANSPOSED_NAMES[name]] = values.T.contiguous()
        elif name != "attn_mask":  # constant causal mask in older files
            renamed[_NAMES.get(name, name)] = values
    return renamed


def _rename_layer(prefix: str, name: str, values: Tensor) -> dict[str, Tensor]:
    module, _, kind = name.rpartition(".")
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = name.rpartition("_")[2]
        names = [f"{prefix}.self_attn.{projection}_proj.{kind}" for projection in "qkv"]
        return {name: part.contiguous() for name, part in zip(names, values.chunk(3), strict=True)}
    return {f"{prefix}.{_LAYER_NAMES.get(module, module)}.{kind}": values}


def load_open_clip(folder: Path, frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load the model of a folder with open_clip_config.json. Raises InvalidInput."""
    from transformers import CLIPModel

    config = read_json_object("model", folder / OPEN_CLIP_CONFIG)
    model_config, preprocessing = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    tokenizer = open_tokenizer(folder)
    model_class: Any = CLIPModel
    model = model_class(_transformers_config(folder, model_config, tokenizer))
    weights = rename_weights(read_weights(folder, allow_pickle=allow_pickle))
    shapes = {name: values.shape for name, values in model.state_dict().items()}
    mismatched = [name for name, values in weights.items() if name in shapes and values.shape != shapes[name]]
    check_keys(folder, set(shapes) - set(weights), set(weights) - set(shapes), mismatched)
    model.load_state_dict({name: values.float() for name, values in weights.items()}, strict=False)
    model.eval()
    stream = _stream(folder, model_config["vision_cfg"]["image_size"], preprocessing, frames)
    text_length = int(model_config["text_cfg"].get("context_length", 77))
    normalization = PixelNormalization(*([255.0 * value for value in preprocessing[key]] for key in ("mean", "std")))
    return two_towers(
        architecture="open_clip",
        text=TextTower(model, Padding(0, None)),
        frames=FrameTower(model, normalization),
        stream=stream,
        reference=_RenamedClip(model, normalization, stream, tokenizer.library, text_length),
        vocabulary=model.config.text_config.vocab_size,
        text_length=text_length,
        vector_width=model.config.projection_dim,
        scale=math.exp(float(model.logit_scale.detach())),
        logit_bias=0.0,
        tokenizer_json=tokenizer.json,
        notes=[TOKENIZER_NOTE, OPEN_CLIP_NOTE, *tokenizer.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _transformers_config(folder: Path, config: dict[str, Any], tokenizer: LoadedTokenizer) -> Any:
    from transformers import CLIPConfig

    where = f"model: {folder / OPEN_CLIP_CONFIG}"
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    for prefix, section, known in (
        ("", config, _MODEL_KEYS),
        ("vision_cfg.", vision, _VISION_KEYS),
        ("text_cfg.", text, _TEXT_KEYS),
    ):
        unknown = sorted(f"{prefix}{key}" for key, value in section.items() if key not in known and value is not None)
        if unknown:
            raise InvalidInput(f"{where}: {', '.join(unknown)}; a plain CLIP was expected")
    if config.get("custom_text"):
        raise InvalidInput(f"{where}: custom_text true; a plain CLIP was expected")
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    config_class: Any = CLIPConfig
    try:
        return config_class(
            projection_dim=config["embed_dim"],
            vision_config={
                "hidden_size": vision["width"],
                "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // vision.get("head_width", 64),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "hidden_act": activation,
            },
            text_config={
                "hidden_size": text["width"],
                "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "max_position_embeddings": text.get("context_length", 77),
                "vocab_size": text.get("vocab_size", 49408),
                "hidden_act": activation,
                "bos_token_id": tokenizer.library.bos_token_id,
                "eos_token_id": tokenizer.library.eos_token_id,
                "pad_token_id": 0,
            },
            attn_implementation="eager",
        )
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"{where}: {error} is missing or not a number") from error


def _stream(folder: Path, size: int, preprocessing: dict[str, Any], frames: int) -> FrameStream:
    unknown = sorted(set(preprocessing) - _PREPROCESS_KEYS)
    mode = preprocessing.get("resize_mode", "shortest")
    filters = ("bicubic", "bilinear")
    if unknown or mode not in ("shortest", "squash") or preprocessing.get("interpolation") not in filters:
        raise InvalidInput(
            f"model: {folder / OPEN_CLIP_CONFIG}: preprocess_cfg {preprocessing}; mean, std, interpolation bicubic or "
            "bilinear and resize_mode shortest or squash were expected"
        )
    crop = {"fit": "crop", "shortest_edge": size, "margin": "even"} if mode == "shortest" else {"fit": "stretch"}
    return FrameStream.model_validate(
        {
            "name": STREAM_NAME,
            "frames": frames,
            "height": size,
            "width": size,
            "placement": "uniform",
            "resample": preprocessing["interpolation"],
            **crop,
        }
    )


@dataclass(frozen=True)
class _RenamedClip:
    """The renamed weights in transformers, one text at a time without padding."""

    model: Any
    normalization: PixelNormalization
    stream: FrameStream
    tokenizer: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self._embed_tokens(self.token_ids(text)) for text in texts])

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        s = self.stream
        fit = (s.width, s.height, s.fit, s.resample, s.shortest_edge, s.margin)
        pixels = np.stack([resize_to_fit(PictureFrame(image), *fit) for image in images])
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values=self.normalization(torch.from_numpy(pixels)))
        return np.asarray(normalize(features.pooler_output, dim=-1))

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        scale = math.exp(float(self.model.logit_scale.detach()))
        logits: np.ndarray = scale * self.text_embeddings(texts) @ self.image_embeddings(images).T
        return logits

    def _embed_tokens(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(normalize(self.model.get_text_features(torch.tensor([ids])).pooler_output, dim=-1))
