"""Sounds of EmbeddingGemma 2: log-mel features and the audio tower, for windows of a fixed length.

Shape letters: B sounds, N samples of a window, F frames of features, M mel bins, L audio tokens, K encoder width, D
embedding dim.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_export.public.preprocessing import PowerSpectrum
from vitascope.bundle.manifest import AudioStream
from vitascope.errors import InvalidInput


class GemmaLogMel(nn.Module):
    """samples (B, N), lengths (B,) -> features (B, F, M) as by the processor, and which frames are sound (B, F)."""

    mel: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        size, self.hop = int(extractor.frame_length), int(extractor.hop_length)
        self.scale, self.floor, self.margin = float(extractor.input_scale_factor), float(extractor.mel_floor), size // 2
        self.last = size - self.margin
        """Offset of the sample that ends a frame."""
        self.spectrum = PowerSpectrum(extractor.window, int(extractor.fft_length), self.hop)
        mean = 0.0 if extractor.per_bin_mean is None else extractor.per_bin_mean.reshape(-1)
        deviation = 1.0 if extractor.per_bin_stddev is None else extractor.per_bin_stddev.reshape(-1)
        for name, values in (("mel", extractor.mel_filters), ("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.from_numpy(np.asarray(values, np.float32)), persistent=False)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # The processor needs one sample more than a frame has.
        padded = F.pad(self.scale * samples[:, :-1], (self.margin, 0))
        magnitude = self.spectrum(padded).sqrt()
        features = ((magnitude @ self.mel + self.floor).log() - self.mean) / self.deviation
        is_sound = torch.arange(features.shape[1]) * self.hop + self.last < lengths[:, None]
        return features * is_sound[..., None], is_sound


class GemmaAudioTower(nn.Module):
    """Features (B, F, M) and which frames are sound (B, F) -> states (B, L, K) and which of them exist (B, L)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.project = clamp_by_numbers(model.audio_tower), model.embed_audio
        config = model.config.audio_config
        self.chunk = int(config.attention_chunk_size)
        self.past, self.future = int(config.attention_context_left) - 1, int(config.attention_context_right)

    def forward(self, features: Tensor, is_sound: Tensor) -> tuple[Tensor, Tensor]:
        states, exists = self.tower.subsample_conv_projection(features, is_sound)
        angles, hidden = self.tower.rel_pos_enc(states), (~self._visible(exists)).float()[:, None]
        for layer in self.tower.layers:
            states = layer(states, attention_mask=hidden, position_embeddings=angles)
        return self.project(self.tower.output_proj(states)), exists

    def _visible(self, exists: Tensor) -> Tensor:
        """Return the mask (B, chunks, tokens of a chunk, tokens of its context) of the attention within each chunk."""
        length = exists.shape[1]
        starts = torch.arange(-(-length // self.chunk)) * self.chunk
        queries = starts[:, None] + torch.arange(self.chunk)
        keys = starts[:, None] + torch.arange(self.chunk + self.past + self.future) - self.past
        distance = queries[:, :, None] - keys[:, None, :]
        is_near = ((distance >= 0) & (distance < self.past)) | ((distance < 0) & (-distance < self.future))
        inside = (keys >= 0) & (keys < length)
        return is_near & (exists[:, keys.clamp(0, length - 1)] & inside)[:, :, None]


class GemmaAudio(nn.Module):
    """samples (B, N) float32, lengths (B,) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any, extractor: Any, encoder: nn.Module, parts: Sequence[Sequence[int]]) -> None:
        """parts: Token ids before and after the tokens of a sound."""
        super().__init__()
        self.log_mel, self.tower = GemmaLogMel(extractor), GemmaAudioTower(model)
        self.words, self.encoder, self.parts = model.get_input_embeddings(), encoder, parts

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        states, exists = self.tower(*self.log_mel(samples, lengths))
        before, after = (self.words(torch.tensor(ids)).expand(states.shape[0], -1, -1) for ids in self.parts)
        valid = [torch.ones_like(part[..., 0], dtype=torch.bool) for part in (before, after)]
        sequence = torch.cat([before, states, after], dim=1)
        vector: Tensor = self.encoder(sequence, torch.cat([valid[0], exists, valid[1]], dim=1))
        return vector


class _ClampedLinear(nn.Module):
    """A linear layer with constant bounds of its inputs and outputs; None: no bounds."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.linear = layer.linear
        self.inputs, self.outputs = (
            _finite(getattr(layer, f"{side}_min"), getattr(layer, f"{side}_max")) for side in ("input", "output")
        )

    def forward(self, states: Tensor) -> Tensor:
        states = self.linear(states if self.inputs is None else states.clamp(*self.inputs))
        return states if self.outputs is None else states.clamp(*self.outputs)


def clamp_by_numbers(tower: Any) -> Any:
    """Return a copy of a Gemma 4 tower whose linear layers clamp to Python numbers instead of tensors.

    For tensors the exporter writes a Clip operator that ONNX Runtime rejects.
    """
    tower = copy.deepcopy(tower)  # the reference keeps its layers
    for parent in list(tower.modules()):
        for name, layer in parent.named_children():
            if getattr(layer, "use_clipped_linears", False):
                setattr(parent, name, _ClampedLinear(layer))
    return tower


def open_audio_stream(folder: Path, processor: Any) -> AudioStream:
    """Return the audio stream, whose window is the maximum length of the processor's sounds. Raises InvalidInput."""
    extractor = processor.feature_extractor
    for setting in ("dither", "preemphasis"):
        if value := getattr(extractor, setting):
            raise InvalidInput(f"model: {folder}: its feature extractor has {setting} {value:g}; 0 was expected")
    milliseconds = int(processor.audio_seq_length) * int(processor.audio_ms_per_token)
    return AudioStream(sample_rate=extractor.sampling_rate, seconds=milliseconds / 1000)


def _finite(low: Tensor, high: Tensor) -> tuple[float, float] | None:
    bounds = float(low), float(high)
    return None if bounds == (-float("inf"), float("inf")) else bounds
