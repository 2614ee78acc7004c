"""CLIP-ViP (Xue et al., ICLR 2023): CLIP whose image tower reads a whole clip. Video proxies stand beside the class
token; they read everything, and patches read their own frame and the proxies.

Shape letters: B videos, C clips, N = B * C, F frames, P patches of a frame, M the class token and the proxies,
A heads, W width, D vector width.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import PublicModel
from model_export.public.pictures import STREAM_NAME, PixelScale
from model_export.public.released.original import ALONE, TorchTowers
from model_export.public.released.shapes import count_of, heads_of, size_of
from model_export.public.released.table import Layout, load_released
from model_export.public.released.weights import Weights
from model_export.public.released.words import open_words
from model_export.public.texts import Padding
from model_export.public.towers import TEXT_AXES, TextTower
from training.models.attention import attend
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

PREFIX = "clipmodel"
"""Before every name in its files."""
_EMBEDDINGS = f"{PREFIX}.vision_model.embeddings"
LAYOUT = Layout(
    rules=[
        ("added_cls", f"{_EMBEDDINGS}.added_cls"),
        ("temporal_embedding", f"{_EMBEDDINGS}.temporal_embedding"),
        ("clip", PREFIX),
    ],
)
_MEAN, _STD = [122.7709383, 116.7460125, 104.09373615], [68.5005327, 66.6321579, 70.32316305]
"""CLIP's, of pixel values in 0..255."""
ACTIVATION = (
    "The activation is CLIP's quick GELU: a guess, no shape tells it; the authors began with OpenAI's ViT-B/32 and "
    "B/16."
)
FRAMES = (
    "A clip is {frames} frames at the centres of equal parts; the authors take the first, the last and {between} "
    "evenly between. A picture is a clip of {frames} equal frames."
)
PICTURES = (
    "Frames are stretched to {size}x{size} pixels, as the authors do, by a bicubic filter that averages; theirs does "
    "not average where it makes smaller. A preprocessor_config.json beside the weights is not read."
)
LENGTH = "Texts are cut at {length} tokens, all that the model has positions for; the authors cut at 50 to 70."


class ClipVip(nn.Module):
    """CLIP of transformers with proxies (M - 1, W) and times (1, F, W)."""

    def __init__(self, clip: Any, proxies: int, frames: int) -> None:
        super().__init__()
        width = clip.config.vision_config.hidden_size
        self.clip = clip
        self.added_cls = nn.Parameter(torch.zeros(proxies, width))
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (N, F, 3, H, W), as many frames as there are times -> vectors (N, D), L2-normalized."""
        vision = self.clip.vision_model
        hidden, read = vision.pre_layrnorm(self._embedded(pixels)), 1 + len(self.added_cls)
        for layer in vision.encoder.layers:
            hidden = hidden + proxy_attention(layer.self_attn, layer.layer_norm1(hidden), read, pixels.shape[1])
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return normalize(self.clip.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)

    def _embedded(self, pixels: Tensor) -> Tensor:
        """(N, M + F * P, W): class token and proxies at the class token's place, then the patches frame by frame."""
        embeddings = self.clip.vision_model.embeddings
        places, times = embeddings.position_embedding.weight, self.temporal_embedding
        patches = embeddings.patch_embedding(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)
        patches = patches.reshape(*pixels.shape[:2], *patches.shape[1:]) + times[:, :, None] + places[1:]
        first = torch.cat([embeddings.class_embedding[None], self.added_cls]) + places[:1]
        return torch.cat([first.expand(pixels.shape[0], -1, -1), patches.flatten(1, 2)], dim=1)


def proxy_attention(attention: Any, hidden: Tensor, read: int, frames: int) -> Tensor:
    """An attention layer of CLIP over (N, M + F * P, W), M = ``read``, each reader for what it may read."""
    queries, keys, values = (
        _by_head(project(hidden), attention.num_heads)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    of_all = attend(queries[:, :, :read], keys, values)
    asked = _by_frame(queries[:, :, read:], frames)
    own_keys, own_values = (_beside_proxies(x, read, frames) for x in (keys, values))
    of_frames = attend(asked, own_keys, own_values)  # (N * F, A, P, W / A)
    of_frames = of_frames.transpose(1, 2).reshape(hidden.shape[0], -1, hidden.shape[2])
    of_all = of_all.transpose(1, 2).flatten(2)
    out: Tensor = attention.out_proj(torch.cat([of_all, of_frames], dim=1))
    return out


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(N, T, W) -> (N, A, T, W / A)."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _by_frame(x: Tensor, frames: int) -> Tensor:
    """(N, A, F * P, W / A) -> (N * F, A, P, W / A)."""
    split = x.reshape(*x.shape[:2], frames, x.shape[2] // frames, x.shape[3])
    return split.transpose(1, 2).flatten(0, 1)


def _beside_proxies(x: Tensor, read: int, frames: int) -> Tensor:
    """(N, A, M + F * P, W / A) -> (N * F, A, M + P, W / A): the clip's proxies before the patches of each frame."""
    proxies = x[:, None, :, :read].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    return torch.cat([proxies, _by_frame(x[:, :, read:], frames)], dim=2)


class ClipTower(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, of the mean over clips, and it again as one
    visual token (B, 1, D)."""

    def __init__(self, model: ClipVip) -> None:
        super().__init__()
        self.model, self.scale = model, PixelScale(_MEAN, _STD)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (frames,) = streams
        batch, clips, count, height, width, _ = frames.shape
        pixels = self.scale(frames.reshape(batch * clips * count, height, width, 3))
        each = self.model(pixels.reshape(batch * clips, count, 3, height, width))
        vector = normalize(each.reshape(batch, clips, -1).mean(dim=1), dim=-1)
        return vector, vector[:, None]


def load_clip_vip(folder: Path, weights: Weights) -> PublicModel:
    """CLIP-ViP of a released file. Raises InvalidInput."""
    config, guesses = _configuration(folder, weights)
    words = open_words(folder, "clip", config.text_config.vocab_size)
    from transformers import CLIPModel

    kind: Any = CLIPModel
    proxies = size_of(folder, weights, f"{_EMBEDDINGS}.added_cls", 0)
    frames = size_of(folder, weights, f"{_EMBEDDINGS}.temporal_embedding", 1)
    model = ClipVip(kind(config), proxies, frames)
    unread = load_released(folder, model, weights, LAYOUT)
    size, length = config.vision_config.image_size, config.text_config.max_position_embeddings
    stream = FrameStream(
        name=STREAM_NAME, frames=frames, height=size, width=size, placement="uniform", resample="bicubic"
    )
    text, tower = TextTower(model.clip, Padding(int(words.library.pad_token_id), None)), ClipTower(model)
    scale = math.exp(float(model.clip.logit_scale.detach()))
    return PublicModel(
        architecture="clip-vip",
        tasks=["retrieval"],
        specs=[
            video_spec(tower, [stream]),
            GraphSpec("text", text, TEXT_AXES, ("vector",)),
        ],
        original=TorchTowers(tower, [stream], words.library, length, text, scale),
        frame_streams=[stream],
        vocabulary=config.text_config.vocab_size,
        text_length=length,
        vector_width=config.projection_dim,
        visual_tokens=1,
        visual_width=config.projection_dim,
        temperature=1.0 / scale,
        tokenizer_json=words.written,
        notes=[
            *guesses,
            FRAMES.format(frames=frames, between=frames - 2),
            PICTURES.format(size=size),
            LENGTH.format(length=length),
            *words.notes,
            *unread,
            ALONE,
        ],
        versions={"transformers": version("transformers")},
        config={"layout": "clip-vip", "proxies": proxies, "frames": frames} | config.to_diff_dict(),
    )


def _configuration(folder: Path, weights: Weights) -> tuple[Any, list[str]]:
    """transformers' configuration as the shapes tell it, and what they do not tell."""
    from transformers import CLIPConfig

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, f"{PREFIX}.{name}", axis)

    patches = size("vision_model.embeddings.position_embedding.weight") - 1
    side, patch = math.isqrt(patches), size("vision_model.embeddings.patch_embedding.weight", -1)
    if side * side != patches:
        raise InvalidInput(f"model: {folder}: {patches} patches of a frame; a square number was expected")
    vision_heads, of_vision = heads_of(folder, "image tower", size("vision_model.embeddings.class_embedding"))
    text_heads, of_text = heads_of(folder, "text tower", size("text_model.embeddings.token_embedding.weight", 1))
    kind: Any = CLIPConfig
    config = kind(
        projection_dim=size("visual_projection.weight"),
        vision_config={
            "hidden_size": size("vision_model.embeddings.class_embedding"),
            "intermediate_size": size("vision_model.encoder.layers.0.mlp.fc1.weight"),
            "num_hidden_layers": count_of(weights, f"{PREFIX}.vision_model.encoder.layers"),
            "num_attention_heads": vision_heads,
            "image_size": side * patch,
            "patch_size": patch,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "hidden_size": size("text_model.embeddings.token_embedding.weight", 1),
            "intermediate_size": size("text_model.encoder.layers.0.mlp.fc1.weight"),
            "num_hidden_layers": count_of(weights, f"{PREFIX}.text_model.encoder.layers"),
            "num_attention_heads": text_heads,
            "max_position_embeddings": size("text_model.embeddings.position_embedding.weight"),
            "vocab_size": size("text_model.embeddings.token_embedding.weight"),
            "hidden_act": "quick_gelu",
            # The state of the largest number in a text is its vector, as the authors take it.
            "eos_token_id": 2,
        },
        attn_implementation="eager",
    )
    return config, [of_vision, of_text, ACTIVATION]
