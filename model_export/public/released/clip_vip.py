"""CLIP-ViP (Xue et al., ICLR 2023): CLIP whose image tower encodes a whole clip, with video proxy tokens.

Proxies and the class token attend to everything; patches attend to their own frame and the proxies.

Shape letters: B videos, C clips, N = B * C, F frames, H height, W width (pixels, or of the model), P patches of a
frame, M the class token and the proxies, A heads, D embedding dim.
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
from model_export.public.clip import TextTower
from model_export.public.model import REFERENCE_NOTE, TEXT_AXES, PublicModel, TorchTowers
from model_export.public.preprocessing import STREAM_NAME, PixelNormalization
from model_export.public.tokenization import Padding, open_released_tokenizer
from model_export.public.weights import Layout, Weights, count_layers, guess_heads, load_weights, size_of
from training.models.text import attend
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

PREFIX = "clipmodel"
"""Prefix of all names in its files."""
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
ACTIVATION_NOTE = (
    "The activation is CLIP's quick GELU: a guess, as shapes do not determine it; the authors started from OpenAI's"
    " ViT-B/32 and B/16."
)
FRAMES_NOTE = (
    "A clip is {frames} frames at the centers of equal parts; the authors use the first, the last and {between} "
    "evenly between. An image is a clip of {frames} equal frames."
)
RESIZE_NOTE = (
    "Frames are stretched to {size}x{size} pixels, as by the authors, with an antialiased bicubic filter; theirs is"
    " not antialiased. A preprocessor_config.json beside the weights is ignored."
)
LENGTH_NOTE = "Texts are truncated at {length} tokens, the model's positions; the authors truncate at 50 to 70."


class ClipVip(nn.Module):
    """CLIP of transformers with proxies (M - 1, W) and temporal embeddings (1, F, W)."""

    def __init__(self, clip: Any, proxies: int, frames: int) -> None:
        super().__init__()
        width = clip.config.vision_config.hidden_size
        self.clip = clip
        self.added_cls = nn.Parameter(torch.zeros(proxies, width))
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (N, F, 3, H, W) -> vectors (N, D), L2-normalized."""
        vision = self.clip.vision_model
        hidden, proxies = vision.pre_layrnorm(self._embed(pixels)), 1 + len(self.added_cls)
        for layer in vision.encoder.layers:
            hidden = hidden + proxy_attention(layer.self_attn, layer.layer_norm1(hidden), proxies, pixels.shape[1])
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return normalize(self.clip.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)

    def _embed(self, pixels: Tensor) -> Tensor:
        """Return (N, M + F * P, W): class token and proxies at the class token's position, then the patches by
        frame."""
        embeddings = self.clip.vision_model.embeddings
        positions, times = embeddings.position_embedding.weight, self.temporal_embedding
        patches = embeddings.patch_embedding(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)
        patches = patches.reshape(*pixels.shape[:2], *patches.shape[1:]) + times[:, :, None] + positions[1:]
        first = torch.cat([embeddings.class_embedding[None], self.added_cls]) + positions[:1]
        return torch.cat([first.expand(pixels.shape[0], -1, -1), patches.flatten(1, 2)], dim=1)


def proxy_attention(attention: Any, hidden: Tensor, proxies: int, frames: int) -> Tensor:
    """Apply an attention layer of CLIP to (N, M + F * P, W), M = `proxies`, with the masks of proxies and patches."""
    queries, keys, values = (
        _split_heads(project(hidden), attention.num_heads)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    by_proxies = attend(queries[:, :, :proxies], keys, values)
    patch_queries = _split_frames(queries[:, :, proxies:], frames)
    frame_keys, frame_values = (_proxies_and_frame(x, proxies, frames) for x in (keys, values))
    by_patches = attend(patch_queries, frame_keys, frame_values)  # (N * F, A, P, W / A)
    by_patches = by_patches.transpose(1, 2).reshape(hidden.shape[0], -1, hidden.shape[2])
    by_proxies = by_proxies.transpose(1, 2).flatten(2)
    output: Tensor = attention.out_proj(torch.cat([by_proxies, by_patches], dim=1))
    return output


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, W) -> (N, A, T, W / A)."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _split_frames(x: Tensor, frames: int) -> Tensor:
    """(N, A, F * P, W / A) -> (N * F, A, P, W / A)."""
    split = x.reshape(*x.shape[:2], frames, x.shape[2] // frames, x.shape[3])
    return split.transpose(1, 2).flatten(0, 1)


def _proxies_and_frame(x: Tensor, proxies: int, frames: int) -> Tensor:
    """Put the clip's proxies before the patches of each frame: (N, A, M + F * P, W / A) -> (N * F, A, M + P, W / A)."""
    repeated = x[:, None, :, :proxies].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    return torch.cat([repeated, _split_frames(x[:, :, proxies:], frames)], dim=2)


class ClipTower(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, of the mean over clips, and the same as one
    visual token (B, 1, D)."""

    def __init__(self, model: ClipVip) -> None:
        super().__init__()
        self.model, self.normalization = model, PixelNormalization(_MEAN, _STD)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (stream,) = streams
        batch, clips, count, height, width, _ = stream.shape
        pixels = self.normalization.frames(stream)
        by_clip = self.model(pixels.reshape(batch * clips, count, 3, height, width))
        vector = normalize(by_clip.reshape(batch, clips, -1).mean(dim=1), dim=-1)
        return vector, vector[:, None]


def load_clip_vip(folder: Path, weights: Weights) -> PublicModel:
    """Load CLIP-ViP from a released file. Raises InvalidInput."""
    config, guesses = _infer_config(folder, weights)
    tokenizer = open_released_tokenizer(folder, "clip", config.text_config.vocab_size)
    from transformers import CLIPModel

    model_class: Any = CLIPModel
    proxies = size_of(folder, weights, f"{_EMBEDDINGS}.added_cls", 0)
    frames = size_of(folder, weights, f"{_EMBEDDINGS}.temporal_embedding", 1)
    model = ClipVip(model_class(config), proxies, frames)
    unused = load_weights(folder, model, weights, LAYOUT)
    size, length = config.vision_config.image_size, config.text_config.max_position_embeddings
    stream = FrameStream(
        name=STREAM_NAME, frames=frames, height=size, width=size, placement="uniform", resample="bicubic"
    )
    text = TextTower(model.clip, Padding(int(tokenizer.library.pad_token_id), None))
    tower, scale = ClipTower(model), math.exp(float(model.clip.logit_scale.detach()))
    return PublicModel(
        architecture="clip-vip",
        tasks=["retrieval"],
        specs=[video_spec(tower, [stream]), GraphSpec("text", text, TEXT_AXES, ("vector",))],
        reference=TorchTowers(tower, [stream], tokenizer.library, length, text, scale),
        frame_streams=[stream],
        vocabulary=config.text_config.vocab_size,
        text_length=length,
        vector_width=config.projection_dim,
        visual_tokens=1,
        visual_width=config.projection_dim,
        temperature=1.0 / scale,
        tokenizer_json=tokenizer.json,
        notes=[
            *guesses,
            FRAMES_NOTE.format(frames=frames, between=frames - 2),
            RESIZE_NOTE.format(size=size),
            LENGTH_NOTE.format(length=length),
            *tokenizer.notes,
            *unused,
            REFERENCE_NOTE,
        ],
        versions={"transformers": version("transformers")},
        config={"layout": "clip-vip", "proxies": proxies, "frames": frames} | config.to_diff_dict(),
    )


def _infer_config(folder: Path, weights: Weights) -> tuple[Any, list[str]]:
    """Infer transformers' configuration from shapes; returns it with notes on guesses."""
    from transformers import CLIPConfig

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, f"{PREFIX}.{name}", axis)

    patches = size("vision_model.embeddings.position_embedding.weight") - 1
    side, patch = math.isqrt(patches), size("vision_model.embeddings.patch_embedding.weight", -1)
    if side * side != patches:
        raise InvalidInput(f"model: {folder}: {patches} patches of a frame; a square number was expected")
    vision_heads, vision_note = guess_heads(folder, "image tower", size("vision_model.embeddings.class_embedding"))
    text_width = size("text_model.embeddings.token_embedding.weight", 1)
    text_heads, text_note = guess_heads(folder, "text tower", text_width)
    config_class: Any = CLIPConfig
    config = config_class(
        projection_dim=size("visual_projection.weight"),
        vision_config={
            "hidden_size": size("vision_model.embeddings.class_embedding"),
            "intermediate_size": size("vision_model.encoder.layers.0.mlp.fc1.weight"),
            "num_hidden_layers": count_layers(weights, f"{PREFIX}.vision_model.encoder.layers"),
            "num_attention_heads": vision_heads,
            "image_size": side * patch,
            "patch_size": patch,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "hidden_size": text_width,
            "intermediate_size": size("text_model.encoder.layers.0.mlp.fc1.weight"),
            "num_hidden_layers": count_layers(weights, f"{PREFIX}.text_model.encoder.layers"),
            "num_attention_heads": text_heads,
            "max_position_embeddings": size("text_model.embeddings.position_embedding.weight"),
            "vocab_size": size("text_model.embeddings.token_embedding.weight"),
            "hidden_act": "quick_gelu",
            # With this value transformers pools at the largest id of a text, as the authors do.
            "eos_token_id": 2,
        },
        attn_implementation="eager",
    )
    return config, [vision_note, text_note, ACTIVATION_NOTE]
