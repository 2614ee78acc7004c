"""Randomly initialised speech models of real architectures, as sherpa-onnx loads them.

Parakeet (NVIDIA's FastConformer with a token-and-duration transducer) and Moonshine are those of transformers.
SenseVoice's is written here by its description (An and others, 2024; Gao and others, 2020: attention with memory).

What they write down means nothing. Shape letters: B batch, T frames of features or of the encoder, L text tokens,
D embedding dim.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from unittest.mock import patch

import onnx
import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    EncoderDecoderCache,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    ParakeetEncoderConfig,
    ParakeetForTDT,
    ParakeetTDTConfig,
)
from transformers.cache_utils import DynamicLayer

from tests.vitascope.speech_models import METADATA
from tests.vitascope.whisper_graphs import sinusoids

_MELS = 128
_FACTOR = 8
"""Frames of features for each of Parakeet's encoder."""


class _ParakeetEncoder(nn.Module):
    """FastConformer; (B, mels, T) to (B, D, T / 8)."""

    def __init__(self, model: ParakeetForTDT) -> None:
        super().__init__()
        self.encoder, self.projector = model.encoder, model.encoder_projector

    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.projector(self.encoder(audio_signal.transpose(1, 2)).last_hidden_state)
        return encoded.transpose(1, 2), (length + _FACTOR - 1) // _FACTOR


class _ParakeetDecoder(nn.Module):
    """LSTM over tokens (B, L), whose states are (layers, B, D)."""

    def __init__(self, model: ParakeetForTDT) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, targets: Tensor, target_length: Tensor, state: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        output, (state, cell) = self.decoder.lstm(self.decoder.embedding(targets), (state, cell))
        return self.decoder.decoder_projector(output).transpose(1, 2), target_length + 0, state, cell


class _ParakeetJoiner(nn.Module):
    """Scores of tokens and durations, (B, 1, 1, tokens + durations), of a frame (B, D, 1) and a text (B, D, 1)."""

    def __init__(self, model: ParakeetForTDT) -> None:
        super().__init__()
        self.joint = model.joint

    def forward(self, encoder_outputs: Tensor, decoder_outputs: Tensor) -> Tensor:
        return self.joint(decoder_outputs.transpose(1, 2), encoder_outputs.transpose(1, 2))[:, None]


def make_parakeet(folder: Path, tokens: Sequence[str] = ("\u2581a", "b", "\u2581c", "d"), width: int = 16) -> Path:
    """Write a Parakeet TDT model, and return its folder."""
    torch.manual_seed(0)
    encoder_config = ParakeetEncoderConfig(
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        subsampling_conv_channels=4,
        num_mel_bins=_MELS,
    )
    config = ParakeetTDTConfig(
        vocab_size=len(tokens) + 1,
        decoder_hidden_size=width,
        num_decoder_layers=1,
        blank_token_id=len(tokens),
        pad_token_id=len(tokens),
        encoder_config=encoder_config.to_dict(),
    )
    model = ParakeetForTDT(config).eval()
    state = torch.zeros(1, 1, width)
    metadata = {
        "model_type": "EncDecRNNTBPEModel",
        "vocab_size": len(tokens),
        "subsampling_factor": _FACTOR,
        "normalize_type": "per_feature",
        "pred_rnn_layers": 1,
        "pred_hidden": width,
        "feat_dim": _MELS,
        "url": "https://huggingface.co/nvidia/parakeet-tdt-0.6b-v2",  # by which a model with durations is recognised
    }
    length, text_length = torch.tensor([64]), torch.tensor([1], dtype=torch.int32)
    frames = {"audio_signal": {2: "frames"}, "outputs": {2: "encoded"}}
    export = _Exporter(folder)
    export(
        "encoder",
        _ParakeetEncoder(model),
        {"audio_signal": torch.zeros(1, _MELS, 64), "length": length},
        ["outputs", "encoded_lengths"],
        frames,
        metadata,
    )
    inputs = {"targets": text_length[None], "target_length": text_length, "state": state, "cell": state.clone()}
    export("decoder", _ParakeetDecoder(model), inputs, ["outputs", "output_lengths", "next_state", "next_cell"])
    parts = torch.zeros(1, width, 1)
    export("joiner", _ParakeetJoiner(model), {"encoder_outputs": parts, "decoder_outputs": parts.clone()}, ["outputs"])
    lines = [f"{token} {number}\n" for number, token in enumerate((*tokens, "<blk>"))]
    (folder / "tokens.txt").write_text("".join(lines), "utf-8")
    return folder


class _MoonshineEncoder(nn.Module):
    """Samples (B, samples) to (B, T, D)."""

    def __init__(self, model: MoonshineForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.model.encoder

    def forward(self, input_values: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(input_values).last_hidden_state
        return encoded


class _CacheLayer(DynamicLayer):
    """Cache whose first tensors have four dimensions, as a trace needs."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values, self.is_initialized = key_states[:, :, :0], value_states[:, :, :0], True


class _MoonshineDecoder(nn.Module):
    """Scores (B, L, tokens) of what follows tokens (B, L), and keys and values of both attentions of each layer."""

    def __init__(self, model: MoonshineForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.head = model.model.decoder, model.proj_out

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        *pasts, use_cache_branch = states
        own, cross = (Cache(layer_class_to_replicate=_CacheLayer) for _ in range(2))
        for layer, first in enumerate(range(0, len(pasts), 4)):
            own.update(pasts[first], pasts[first + 1], layer)
        output = self.decoder(
            input_ids,
            encoder_hidden_states=encoder_hidden_states,
            cache=EncoderDecoderCache(own, cross),
            use_cache=True,
        )
        unused = sum((past.sum() for past in pasts), use_cache_branch)  # an export drops inputs that change nothing
        logits = self.head(output.last_hidden_state) + 0.0 * unused
        kept = [(a.keys, a.values, b.keys, b.values) for a, b in zip(own.layers, cross.layers, strict=True)]
        return logits, *(state for layer in kept for state in layer)


def _repeat_last(x: Tensor, count: int, dim: int = -1) -> Tensor:
    """Repeat the elements of the last dimension; ``Tensor.repeat_interleave`` loses the rank in an export."""
    return torch.stack([x] * count, -1).flatten(-2)


class _MoonshinePreprocessor(nn.Module):
    """Convolutions: samples (B, samples) to (B, T, D)."""

    def __init__(self, model: MoonshineForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.model.encoder

    def forward(self, audio: Tensor) -> Tensor:
        x = self.encoder.groupnorm(self.encoder.conv1(audio[:, None]).tanh())
        x = nn.functional.gelu(self.encoder.conv3(nn.functional.gelu(self.encoder.conv2(x))))
        return x.transpose(1, 2)


class _MoonshineLayers(nn.Module):
    """The encoder's layers: (B, T, D) to (B, T, D)."""

    def __init__(self, model: MoonshineForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.model.encoder

    def forward(self, features: Tensor, length: Tensor) -> Tensor:
        positions = self.encoder.rotary_emb(features, position_ids=torch.arange(features.shape[1])[None])
        for layer in self.encoder.layers:
            features = layer(features, position_embeddings=positions)
        encoded: Tensor = self.encoder.layer_norm(features) + 0.0 * length
        return encoded


class _MoonshineStep(nn.Module):
    """The decoder with the length of the text, and with keys and values after the first token."""

    def __init__(self, model: MoonshineForConditionalGeneration) -> None:
        super().__init__()
        self.decoder = _MoonshineDecoder(model)

    def forward(self, tokens: Tensor, encoded: Tensor, length: Tensor, *pasts: Tensor) -> tuple[Tensor, ...]:
        return self.decoder(tokens.long(), encoded, *pasts, length)  # type: ignore[no-any-return]


@patch.object(Tensor, "repeat_interleave", _repeat_last)
def make_moonshine(folder: Path, *, is_merged: bool = True, width: int = 16, heads: int = 2) -> Path:
    """Write a Moonshine model, and return its folder.

    ``is_merged``: two graphs and tokens that are single bytes, as newer releases have, in place of four and letters.
    """
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=259,
        hidden_size=width,
        intermediate_size=2 * width,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=heads,
        decoder_num_attention_heads=heads,
        pad_token_id=0,
        initializer_range=1.0,
        attn_implementation="eager",
    )
    model = MoonshineForConditionalGeneration(config).eval()
    export = _Exporter(folder)
    names = [f"0.{part}.{kind}" for part in ("decoder", "encoder") for kind in ("key", "value")]
    pasts = {f"past_key_values.{name}": torch.zeros(1, heads, 3, width // heads) for name in names}
    outputs = ["logits", *(f"present.{name}" for name in names)]
    axes = {name: {2: f"{name} length"} for name in (*pasts, *outputs[1:])} | {"encoder_hidden_states": {1: "frames"}}
    audio, encoded = torch.zeros(1, 16_000), {"encoder_hidden_states": torch.zeros(1, 41, width)}
    frames = {"audio": {1: "samples"}, "features": {1: "frames"}, "encoded": {1: "frames"}}
    if is_merged:
        tokens = {"input_ids": torch.ones(1, 1, dtype=torch.int64)}
        export("encoder_model", _MoonshineEncoder(model), {"audio": audio}, ["encoded"], frames)
        inputs = tokens | encoded | pasts | {"use_cache_branch": torch.tensor([True])}
        export("decoder_model_merged", _MoonshineDecoder(model), inputs, outputs, axes)
    else:
        length = torch.ones(1, dtype=torch.int32)
        export("preprocess", _MoonshinePreprocessor(model), {"audio": audio}, ["features"], frames)
        features = {"features": torch.zeros(1, 41, width), "length": length}
        export("encode", _MoonshineLayers(model), features, ["encoded"], frames)
        inputs = {"tokens": length[None]} | encoded | {"length": length}
        export("uncached_decode", _MoonshineStep(model), inputs, outputs, axes)
        export("cached_decode", _MoonshineStep(model), inputs | pasts, outputs, axes)
    letters = [ascii_lowercase[number % 26] for number in range(config.vocab_size)]
    codes = [base64.b64encode(bytes([number % 256])).decode() for number in range(config.vocab_size)]
    (folder / "tokens.txt").write_text(
        "".join(f"{text} {number}\n" for number, text in enumerate(codes if is_merged else letters))
    )
    return folder


class _SenseVoiceLayer(nn.Module):
    """Self-attention with a memory (a convolution over the values), and a feed-forward network."""

    def __init__(self, size: int, width: int, heads: int = 2, kernel: int = 11) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(width)
        self.heads, self.is_residual = heads, size == width
        self.qkv, self.out = nn.Linear(size, 3 * width), nn.Linear(width, width)
        self.memory = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        memory = self.memory(v.transpose(1, 2)).transpose(1, 2) + v
        q, k, heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
        attended = self.out((scores.softmax(-1) @ heads).transpose(1, 2).flatten(2)) + memory
        x = x + attended if self.is_residual else attended
        return x + self.feed_forward(self.norm2(x))


class _SenseVoice(nn.Module):
    """Scores (B, 4 + T, tokens): the language, the event, the emotion and the notation come first."""

    def __init__(self, tokens: int, width: int, features: int = 560) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, features)
        self.layers = nn.Sequential(_SenseVoiceLayer(features, width), _SenseVoiceLayer(width, width))
        self.norm, self.ctc = nn.LayerNorm(width), nn.Linear(width, tokens)
        self.scale = width**0.5

    def forward(self, x: Tensor, x_length: Tensor, language: Tensor, text_norm: Tensor) -> Tensor:
        labels = torch.stack([language, torch.ones_like(language), 2 * torch.ones_like(language), text_norm], 1)
        x = torch.cat([self.embed(labels), x], 1) * self.scale
        logits = self.ctc(self.norm(self.layers(x + sinusoids(x.shape[1], x.shape[2]))))
        return logits + 0.0 * x_length[:, None, None]  # an export drops inputs that change nothing


def make_sense_voice(folder: Path, tokens: int = 32, width: int = 16) -> Path:
    """Write a SenseVoice model whose tokens are words of one letter, and return its folder."""
    torch.manual_seed(0)
    label = torch.ones(1, dtype=torch.int32)
    inputs = {"x": torch.zeros(1, 30, 560), "x_length": 30 * label, "language": label, "text_norm": 15 * label}
    axes = {"x": {1: "frames"}, "logits": {1: "outputs"}}
    metadata = METADATA["sense_voice"] | {"vocab_size": str(tokens)}
    _Exporter(folder)("model", _SenseVoice(tokens, width), inputs, ["logits"], axes, metadata)
    lines = [f"\u2581{ascii_lowercase[number % 26]} {number}\n" for number in range(tokens)]
    (folder / "tokens.txt").write_text("".join(lines), "utf-8")
    return folder


class _Exporter:
    """Writes modules as graphs to a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder

    def __call__(
        self,
        name: str,
        module: nn.Module,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        axes: Mapping[str, Mapping[int, str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        path = str(self._folder / f"{name}.onnx")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=dict(axes or {}),
            opset_version=17,
            dynamo=False,
        )
        if metadata:
            model = onnx.load(path)
            onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
            onnx.save(model, path)
