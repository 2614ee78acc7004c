"""Weights of open_clip: its CLIP with a plain ViT and text Transformer, renamed into CLIP of transformers.

Letters: D vector width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from model_export.public.folder import check_keys, pickled_weights, read_json
from model_export.public.model import PublicModel
from model_export.public.pictures import STREAM_NAME, PixelScale
from model_export.public.texts import Padding, Tokens, open_tokenizer
from model_export.public.towers import FrameTower, TextTower, two_towers
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.media.frame import resize_to_fit
from vitascope.media.image import PictureFrame

CONFIG_NAME = "open_clip_config.json"
TOKENS = (
    "Texts are read as the folder's tokenizer.json says. open_clip's own tokenizer also repairs wrongly decoded "
    "characters and HTML entities first."
)
ALONE = "The bundle was compared with the weights renamed into transformers' CLIP, not with the package open_clip."
_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "custom_text"}
_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_PICTURES = {"mean", "std", "interpolation", "resize_mode", "size", "mode", "fill_color"}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
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
_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Stored with the input first."""


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under the names of transformers' CLIP; names that are not known stay as they are."""
    out: dict[str, Tensor] = {}
    for name, values in weights.items():
        layer = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if layer:
            tower = "vision_model" if layer[1] else "text_model"
            out |= _layer(f"{tower}.encoder.layers.{layer[2]}", layer[3], values)
        elif name in _TURNED:
            out[_TURNED[name]] = values.T.contiguous()
        elif name != "attn_mask":  # the causal mask, which older files hold
            out[_WHOLE.get(name, name)] = values
    return out


def _layer(prefix: str, part: str, values: Tensor) -> dict[str, Tensor]:
    module, _, kind = part.rpartition(".")
    if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = part.rpartition("_")[2]
        names = [f"{prefix}.self_attn.{which}_proj.{kind}" for which in "qkv"]
        return {name: third.contiguous() for name, third in zip(names, values.chunk(3), strict=True)}
    return {f"{prefix}.{_LAYER.get(module, module)}.{kind}": values}


def load_open_clip(folder: Path, frames: int, *, allow_pickle: bool) -> PublicModel:
    """The model of a folder with open_clip_config.json. Raises InvalidInput."""
    from transformers import CLIPModel

    config = read_json(folder / CONFIG_NAME)
    stated, pictures = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    tokens = open_tokenizer(folder)
    kind: Any = CLIPModel
    model = kind(_configuration(folder, stated, tokens))
    weights = renamed(_read_weights(folder, allow_pickle=allow_pickle))
    wanted = {name: values.shape for name, values in model.state_dict().items()}
    mismatched = [name for name, values in weights.items() if name in wanted and values.shape != wanted[name]]
    check_keys(folder, set(wanted) - set(weights), set(weights) - set(wanted), mismatched)
    model.load_state_dict({name: values.float() for name, values in weights.items()}, strict=False)
    model.eval()
    stream = _stream(folder, stated["vision_cfg"]["image_size"], pictures, frames)
    length = int(stated["text_cfg"].get("context_length", 77))
    scale = PixelScale(*([255.0 * value for value in pictures[key]] for key in ("mean", "std")))
    return two_towers(
        architecture="open_clip",
        text=TextTower(model, Padding(0, None)),
        frames=FrameTower(model, scale),
        stream=stream,
        original=_Renamed(model, scale, stream, tokens.library, length),
        vocabulary=model.config.text_config.vocab_size,
        text_length=length,
        vector_width=model.config.projection_dim,
        scale=math.exp(float(model.logit_scale.detach())),
        logit_bias=0.0,
        tokenizer_json=tokens.written,
        notes=[TOKENS, ALONE, *tokens.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _configuration(folder: Path, stated: dict[str, Any], tokens: Tokens) -> Any:
    from transformers import CLIPConfig

    kind: Any = CLIPConfig
    vision, text = stated.get("vision_cfg", {}), stated.get("text_cfg", {})
    for where, found, known in (("", stated, _MODEL), ("vision_cfg.", vision, _VISION), ("text_cfg.", text, _TEXT)):
        unknown = sorted(f"{where}{key}" for key, value in found.items() if key not in known and value is not None)
        if unknown:
            raise InvalidInput(f"model: {folder / CONFIG_NAME}: {', '.join(unknown)}; a plain CLIP was expected")
    if stated.get("custom_text"):
        raise InvalidInput(f"model: {folder / CONFIG_NAME}: custom_text true; a plain CLIP was expected")
    activation = "quick_gelu" if stated.get("quick_gelu") else "gelu"
    try:
        return kind(
            projection_dim=stated["embed_dim"],
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
                "bos_token_id": tokens.library.bos_token_id,
                "eos_token_id": tokens.library.eos_token_id,
                "pad_token_id": 0,
            },
            attn_implementation="eager",
        )
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"model: {folder / CONFIG_NAME}: {error} is missing or not a number") from error


def _read_weights(folder: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    pickled = pickled_weights(folder, allow_pickle=allow_pickle)
    names = sorted(
        path for kind in (("*.bin", "*.pt") if pickled else ("*.safetensors",)) for path in folder.glob(kind)
    )
    if len(names) != 1:
        raise InvalidInput(f"model: {folder} has weights in {[path.name for path in names]}; one file was expected")
    read: Callable[[Path], Any] = (lambda p: torch.load(p, "cpu", weights_only=True)) if pickled else load_file
    try:
        found: dict[str, Tensor] = read(names[0])
    except Exception as error:  # torch and pickle raise nearly anything
        first = str(error).partition("\n")[0]
        raise InvalidInput(f"model: {names[0]}: its weights cannot be read: {first}") from error
    return found


def _stream(folder: Path, size: int, pictures: dict[str, Any], frames: int) -> FrameStream:
    unknown = sorted(set(pictures) - _PICTURES)
    mode = pictures.get("resize_mode", "shortest")
    filters = ("bicubic", "bilinear")
    if unknown or mode not in ("shortest", "squash") or pictures.get("interpolation") not in filters:
        raise InvalidInput(
            f"model: {folder / CONFIG_NAME}: preprocess_cfg {pictures}; mean, std, interpolation bicubic or bilinear "
            "and resize_mode shortest or squash were expected"
        )
    crop = {"fit": "crop", "shortest_edge": size, "margin": "even"} if mode == "shortest" else {"fit": "stretch"}
    return FrameStream.model_validate(
        {
            "name": STREAM_NAME,
            "frames": frames,
            "height": size,
            "width": size,
            "placement": "uniform",
            "resample": pictures["interpolation"],
            **crop,
        }
    )


@dataclass(frozen=True)
class _Renamed:
    """The renamed weights in transformers, without ONNX and without padding."""

    model: Any
    scale: PixelScale
    stream: FrameStream
    tokenizer: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self._text(self.token_ids(text)) for text in texts])

    def picture_vectors(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        s = self.stream
        fields = (s.width, s.height, s.fit, s.resample, s.shortest_edge, s.margin)
        pixels = np.stack([resize_to_fit(PictureFrame(picture), *fields) for picture in pictures])
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values=self.scale(torch.from_numpy(pixels))).pooler_output
        return np.asarray(normalize(features, dim=-1))

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        scale = math.exp(float(self.model.logit_scale.detach()))
        result: np.ndarray = scale * self.text_vectors(texts) @ self.picture_vectors(pictures).T
        return result

    def _text(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(normalize(self.model.get_text_features(torch.tensor([ids])).pooler_output, dim=-1))
