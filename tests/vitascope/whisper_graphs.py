"""Whisper as sherpa-onnx runs it: a small implementation in torch and its export, for random or given weights.

The architecture is that of the paper (Radford and others, 2022). Shape letters: B batch, T audio frames, L text tokens,
D embedding dim.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Dims:
    """Sizes of a model, and the ids of its special tokens."""

    mels: int = 80
    width: int = 32
    heads: int = 2
    layers: int = 1
    audio_frames: int = 1500
    text_length: int = 64
    vocabulary: int = 1766
    start: int = 257
    end: int = 256
    transcribe: int = 262
    translate: int = 261
    no_speech: int = 263
    no_timestamps: int = 264
    languages: tuple[tuple[str, int], ...] = (("en", 258), ("de", 259))
    """Codes and token ids; empty for a model of English alone."""


class Attention(nn.Module):
    """Multi-head attention without softmax masks other than ``mask``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def attend(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from x (B, L, D) to keys and values (B, T, D)."""
        split = (x.shape[0], -1, self.heads, x.shape[2] // self.heads)
        q = self.query(x).view(split).transpose(1, 2)
        k, v = key.view(split).transpose(1, 2), value.view(split).transpose(1, 2)
        scores = q @ k.transpose(2, 3) / math.sqrt(split[3])
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Transformer block with normalisation first; with cross-attention in the decoder."""

    def __init__(self, width: int, heads: int, *, has_cross: bool) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if has_cross else None
        self.cross = Attention(width, heads) if has_cross else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Encoder(nn.Module):
    """Encoder, and the keys and values of the decoder's cross-attention."""

    def __init__(self, dims: Dims, decoder: Decoder) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dims.mels, dims.width, 3, padding=1)
        self.conv2 = nn.Conv1d(dims.width, dims.width, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(dims.audio_frames, dims.width))
        self.blocks = nn.ModuleList(Block(dims.width, dims.heads, has_cross=False) for _ in range(dims.layers))
        self.norm = nn.LayerNorm(dims.width)
        self.crosses = nn.ModuleList(block.cross for block in decoder.blocks)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (layers, B, T / 2, D) for a spectrogram (B, mels, T)."""
        x = nn.functional.gelu(self.conv2(nn.functional.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            y = block.attention_norm(x)
            x = x + block.attention.attend(y, block.attention.key(y), block.attention.value(y))
            x = x + block.mlp(block.mlp_norm(x))
        x = self.norm(x)
        return (
            torch.stack([cross.key(x) for cross in self.crosses]),
            torch.stack([cross.value(x) for cross in self.crosses]),
        )


class Decoder(nn.Module):
    """Decoder whose self-attention keeps keys and values of the whole text in caches (layers, B, text_length, D)."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.embedding = nn.Embedding(dims.vocabulary, dims.width)
        self.positions = nn.Parameter(torch.randn(dims.text_length, dims.width) * 0.01)
        self.blocks = nn.ModuleList(Block(dims.width, dims.heads, has_cross=True) for _ in range(dims.layers))
        self.norm = nn.LayerNorm(dims.width)

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, cross_keys: Tensor, cross_values: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits (B, L, vocabulary) of tokens (B, L) from ``offset`` (1,) on, and the new caches."""
        length, total = tokens.shape[1], keys.shape[2]
        index = offset + torch.arange(length)
        x = self.embedding(tokens) + self.positions[index]
        mask = torch.where(torch.arange(total)[None] <= index[:, None], 0.0, -1e9)
        new_keys, new_values = [], []
        for number, block in enumerate(self.blocks):
            y = block.attention_norm(x)
            key = keys[number].index_copy(1, index, block.attention.key(y))
            value = values[number].index_copy(1, index, block.attention.value(y))
            x = x + block.attention.attend(y, key, value, mask)
            x = x + block.cross.attend(block.cross_norm(x), cross_keys[number], cross_values[number])
            x = x + block.mlp(block.mlp_norm(x))
            new_keys.append(key)
            new_values.append(value)
        logits = self.norm(x) @ self.embedding.weight.T
        return logits, torch.stack(new_keys), torch.stack(new_values)


def sinusoids(length: int, width: int) -> Tensor:
    """Return the position embeddings (length, width) of the encoder."""
    scales = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * scales[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def export(folder: Path, name: str, dims: Dims, encoder: Encoder, decoder: Decoder, tokens: Sequence[bytes]) -> None:
    """Write the graphs and tokens that sherpa-onnx loads. ``tokens``: the bytes of the tokens that are text, by id."""
    folder.mkdir(parents=True, exist_ok=True)
    mel = torch.zeros(1, dims.mels, 2 * dims.audio_frames)
    cross = torch.zeros(dims.layers, 1, dims.audio_frames, dims.width)
    cache = torch.zeros(dims.layers, 1, dims.text_length, dims.width)
    graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str], list[str], dict[str, dict[int, str]]]] = {
        "encoder": (encoder, (mel,), ["mel"], ["n_layer_cross_k", "n_layer_cross_v"], {"mel": {2: "frames"}}),
        "decoder": (
            decoder,
            (torch.zeros(1, 2, dtype=torch.int64), cache, cache, cross, cross, torch.zeros(1, dtype=torch.int64)),
            [
                *("tokens", "in_n_layer_self_k_cache", "in_n_layer_self_v_cache"),
                *("n_layer_cross_k", "n_layer_cross_v", "offset"),
            ],
            ["logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache"],
            {"tokens": {1: "length"}, "n_layer_cross_k": {2: "heard"}, "n_layer_cross_v": {2: "heard"}},
        ),
    }
    for part, (module, arguments, inputs, outputs, axes) in graphs.items():
        path = folder / f"{name}-{part}.onnx"
        torch.onnx.export(
            module.eval(),
            arguments,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        if part == "encoder":
            model = onnx.load(str(path))
            onnx.helper.set_model_props(model, metadata(name, dims))
            onnx.save(model, str(path))
    lines = (f"{base64.b64encode(token).decode()} {index}\n" for index, token in enumerate(tokens))
    (folder / f"{name}-tokens.txt").write_text("".join(lines))


def metadata(name: str, dims: Dims) -> dict[str, str]:
    """Return the metadata of the encoder."""
    languages = dims.languages or (("en", dims.start + 1),)
    prompt = [dims.start, languages[0][1], dims.transcribe] if dims.languages else [dims.start]
    values: dict[str, Any] = {
        "model_type": f"whisper-{name}",
        "version": 1,
        "n_mels": dims.mels,
        "n_audio_ctx": dims.audio_frames,
        "n_audio_state": dims.width,
        "n_audio_layer": dims.layers,
        "n_vocab": dims.vocabulary,
        "n_text_ctx": dims.text_length,
        "n_text_state": dims.width,
        "n_text_head": dims.heads,
        "n_text_layer": dims.layers,
        "sot_sequence": ",".join(map(str, prompt)),
        "all_language_tokens": ",".join(str(token) for _, token in languages),
        "all_language_codes": ",".join(code for code, _ in languages),
        "sot": dims.start,
        "sot_index": 0,
        "eot": dims.end,
        "blank_id": 220 if dims.vocabulary > 50000 else 32,
        "is_multilingual": int(bool(dims.languages)),
        "no_speech": dims.no_speech,
        "non_speech_tokens": "",
        "transcribe": dims.transcribe,
        "translate": dims.translate,
        "sot_prev": dims.no_speech - 1,
        "sot_lm": dims.no_speech - 2,
        "no_timestamps": dims.no_timestamps,
    }
    return {key: str(value) for key, value in values.items()}


def make_random(folder: Path, dims: Dims = Dims(), seed: int = 0) -> Path:
    """Write a randomly initialised model whose tokens are single bytes, and return its folder."""
    torch.manual_seed(seed)
    decoder = Decoder(dims)
    export(folder, "random", dims, Encoder(dims, decoder), decoder, [bytes([value]) for value in range(256)])
    return folder
