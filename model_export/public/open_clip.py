"""CLIP weights of open_clip (plain ViT and text Transformer), renamed into CLIP of transformers.

Letters: D embedding dim.
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
from torch import Tensor
from torch.nn.functional import normalize

from model_export.assemble import read_json_object
from model_export.public.folder import check_keys
from model_export.public.model import PublicModel
from model_export.public.preprocessing import STREAM_NAME, PixelNormalization
from model_export.public.released.weights import read_weights
from model_export.public.tokenization import LoadedTokenizer, Padding, open_tokenizer
from model_export.public.towers import FrameTower, TextTower, two_towers
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.media.frame import resize_to_fit
from vitascope.media.image import PictureFrame

CONFIG_NAME = "open_clip_config.json"
TOKENIZER_NOTE = (
    "Texts are tokenized by the folder's tokenizer.json; open_clip's own tokenizer also repairs encoding errors and"
    " HTML entities first."
)
REFERENCE_NOTE = (
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

    config = read_json_object("model", folder / CONFIG_NAME)
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
        notes=[TOKENIZER_NOTE, REFERENCE_NOTE, *tokenizer.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _transformers_config(folder: Path, config: dict[str, Any], tokenizer: LoadedTokenizer) -> Any:
    from transformers import CLIPConfig

    where = f"model: {folder / CONFIG_NAME}"
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
            f"model: {folder / CONFIG_NAME}: preprocess_cfg {preprocessing}; mean, std, interpolation bicubic or "
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
