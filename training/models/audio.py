"""The audio encoder: samples to log-mel features, audio tokens and an embedding in the space of texts and videos.

Shape letters: B sounds, N samples, F frames of features, M mel bins, K frequencies, C channels, T audio tokens, W their
width, D width of the fused layers, E embedding dim.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import ASTConfig, ASTModel
from transformers.audio_utils import mel_filter_bank

from training.models.batch_norm import fold_frozen_norms
from training.models.config import AST_PATCH, AST_STRIDE, STACKED, AudioConfig
from training.models.convolution import backbone_stages
from training.models.text import additive_mask, masked_mean, tokens_present

WINDOW_SECONDS = 0.025
MIN_POWER = 1e-8
"""Smallest power of a mel bin, relative to a sine of full scale: 80 dB below it."""
FEATURE_MEAN, FEATURE_SCALE = -12.0, 0.2
"""A feature is (log power - mean) * scale: nearly always between -1.5 and 1.5, the range of the CNN's pixels."""
SHORT_SECONDS, LEAD_SECONDS = 1.0, 0.25
"""A sound shorter than SHORT_SECONDS is delayed by LEAD_SECONDS of silence: a CNN responds less to the edges of its
input."""
CONTEXT_TOKENS = 2
"""Tokens of silence that a trimmed window keeps after its longest sound, so that the sound is not at the edge."""


class LogMel(nn.Module):
    """Normalised log-mel features by matrix products, so that graphs need no operator for Fourier transforms."""

    cosine: Tensor
    sine: Tensor
    mel: Tensor

    def __init__(self, cfg: AudioConfig) -> None:
        super().__init__()
        self.hop = cfg.hop
        self.window = round(cfg.sample_rate * WINDOW_SECONDS)
        # The power spectrum does not depend on where the time origin is. With the origin in the middle of a symmetric
        # window, the even part of the signal needs cosines only and the odd part sines only. Each part has half the
        # length, which halves the multiplications.
        from_middle = np.arange(self.window // 2) + 0.5
        hann = np.cos(np.pi * from_middle / self.window) ** 2
        phases = np.pi * np.outer(from_middle, np.arange(cfg.frequencies + 1)) / cfg.frequencies
        basis = hann[:, None] / (2.0 * hann.sum())
        filters = mel_filter_bank(
            cfg.frequencies + 1, cfg.mel_bins, 0.0, cfg.sample_rate / 2, cfg.sample_rate, mel_scale="slaney"
        )
        for name, values in (("cosine", basis * np.cos(phases)), ("sine", basis * np.sin(phases)), ("mel", filters)):
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def forward(self, samples_BN: Tensor) -> Tensor:
        """Return the features (B, F, M) of samples (B, N). Frame i describes the samples from i * hop; F is N / hop."""
        device = samples_BN.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):  # bfloat16 is too coarse for a range of 80 dB
                return self.forward(samples_BN)
        b, n = samples_BN.shape
        frames = -(-n // self.hop)
        step = int(np.gcd(self.hop, self.window))
        before = (self.window - self.hop) // 2
        padded = F.pad(samples_BN, (before, (frames - 1) * self.hop + self.window - before - n))
        blocks = padded.reshape(b, -1, step)
        stride, last = self.hop // step, (frames - 1) * (self.hop // step) + 1
        parts = [blocks[:, i : i + last : stride] for i in range(self.window // step)]
        framed = torch.cat(parts, dim=-1)  # (B, F, window)
        half = self.window // 2
        before_middle, after_middle = framed[..., :half].flip(-1), framed[..., half:]
        power = ((after_middle + before_middle) @ self.cosine) ** 2 + ((after_middle - before_middle) @ self.sine) ** 2
        log: Tensor = (power @ self.mel).clamp_min(MIN_POWER).log()
        return (log - FEATURE_MEAN) * FEATURE_SCALE


class CnnTokens(nn.Module):
    """A CNN that reads the features as a picture, followed by Transformer layers over the columns of its output."""

    def __init__(self, cfg: AudioConfig) -> None:
        super().__init__()
        model: Any = timm.create_model(cfg.backbone, num_classes=0)
        self.stages = nn.ModuleList(backbone_stages(model))
        for module in self.stages[-1].modules():  # one token in 0.32 s, not in 0.64
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (2, 1)
            elif isinstance(module, nn.AvgPool2d) and module.stride == 2:
                module.kernel_size = module.stride = (2, 1)
        fold_frozen_norms(self.stages)
        rows = -(-cfg.mel_bins // 32)
        self.project = nn.Linear(rows * model.num_features, cfg.width)
        self.position = nn.Parameter(torch.zeros(1, cfg.tokens, cfg.width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(
            Block(cfg.width, cfg.heads, qkv_bias=True, proj_drop=cfg.dropout) for _ in range(cfg.layers)
        )
        self.norm = nn.LayerNorm(cfg.width)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode. The CNN's BatchNorm keeps the statistics of its pre-training on photographs."""
        super().train(mode)
        for module in self.stages.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, features_BFM: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the tokens (B, T, W) of features (B, F, M). mask: (B, T), 0 for tokens after the end of the sound."""
        b, f, m = features_BFM.shape
        pairs = features_BFM.reshape(b, f // STACKED, STACKED, m)
        first, second = pairs.unbind(2)
        # The three colours of a pixel are nearly alike, as they are in most photographs.
        picture = torch.stack([first, 0.5 * (first + second), second], dim=1).transpose(2, 3)  # (B, 3, M, F / 2)
        maps = picture.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            maps = stage(maps)
        tokens = self.project(maps.permute(0, 3, 1, 2).flatten(2))  # (B, T, W) of columns
        tokens = self.dropout(tokens + self.position[:, : tokens.shape[1]])
        mask = additive_mask(mask_BT, tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, attn_mask=mask)
        normed: Tensor = self.norm(tokens)
        return normed


class AstTokens(nn.Module):
    """The Audio Spectrogram Transformer (Gong et al., 2021). A token is the mean of the patches of one time step."""

    def __init__(self, cfg: AudioConfig) -> None:
        super().__init__()
        config = ASTConfig(
            hidden_size=cfg.width,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            intermediate_size=4 * cfg.width,
            hidden_dropout_prob=cfg.dropout,
            attention_probs_dropout_prob=cfg.dropout,
            patch_size=AST_PATCH,
            frequency_stride=AST_STRIDE,
            time_stride=AST_STRIDE,
            max_length=-(-cfg.samples // cfg.hop),
            num_mel_bins=cfg.mel_bins,
        )
        config._attn_implementation = "sdpa"
        self.frames = config.max_length
        self.ast = ASTModel(config)

    def forward(self, features_BFM: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the tokens (B, T, W) of features, which are padded to a whole window."""
        features = F.pad(features_BFM, (0, 0, 0, self.frames - features_BFM.shape[1]))
        states = self.ast(features).last_hidden_state[:, 2:]  # after [CLS] and the distillation token
        by_time: Tensor = states.unflatten(1, (-1, mask_BT.shape[1])).mean(dim=1)
        return by_time


class AudioEncoder(nn.Module):
    """Encodes sounds as audio tokens and as embeddings."""

    def __init__(self, cfg: AudioConfig, embedding_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.log_mel = LogMel(cfg)
        self.encoder = AstTokens(cfg) if cfg.encoder == "ast" else CnnTokens(cfg)
        self.project = nn.Linear(cfg.width, embedding_dim)

    def forward(self, samples_BN: Tensor, lengths_B: Tensor, masked: float = 0.0) -> Tensor:
        """Return the audio tokens (B, T, W) of sounds, 0 where there is no sound.

        Args:
            samples_BN: From -1 to 1, at most one window.
            lengths_B: int64, the number of samples before padding; 0: the row has no sound.
            masked: Largest fraction of mel bins, and of frames, that are masked at random (SpecAugment).
        """
        hop = self.cfg.hop
        samples_BN, lengths_B = self._after_lead(samples_BN, lengths_B)
        features = self.log_mel(F.pad(samples_BN, (0, -samples_BN.shape[1] % (STACKED * hop))))
        frames = torch.arange(features.shape[1], device=features.device)
        visible = (frames * hop < lengths_B[:, None])[..., None]  # (B, F, 1)
        if masked:
            visible = visible & ~_random_span(lengths_B / hop, features.shape[1], masked)[..., None]
            bins = torch.full_like(lengths_B, features.shape[2])
            visible = visible & ~_random_span(bins, features.shape[2], masked)[:, None]
        features = features * visible.to(features.dtype)
        mask = self.token_mask(lengths_B, samples_BN.shape[1])
        tokens: Tensor = self.encoder(features, mask) * mask[..., None]
        return tokens

    def trim(self, samples_BN: Tensor, lengths_B: Tensor) -> Tensor:
        """Return windows without most of the padding after the longest sound, which hardly changes the tokens.

        Only whole tokens are cut off: at other widths TensorFlow's padding would shift the CNN's grid.
        """
        if self.cfg.encoder != "cnn":
            return samples_BN
        step, size = self.cfg.token_frames * self.cfg.hop, samples_BN.shape[1]
        _, ends = self._after_lead(samples_BN, lengths_B)
        surplus = size - int(ends.max()) - CONTEXT_TOKENS * step
        return samples_BN[:, : size - max(surplus, 0) // step * step]

    def _after_lead(self, samples_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sounds and their lengths, with silence inserted before each short sound if the window has room."""
        rate, size = self.cfg.sample_rate, samples_BN.shape[1]
        lead = round(LEAD_SECONDS * rate)
        longest = min(round(SHORT_SECONDS * rate) - 1, size - lead)
        if longest <= 0:
            return samples_BN, lengths_B
        is_short = (lengths_B > 0) & (lengths_B <= longest)
        later = F.pad(samples_BN[:, : size - lead], (lead, 0))
        return torch.where(is_short[:, None], later, samples_BN), torch.where(is_short, lengths_B + lead, lengths_B)

    def token_mask(self, lengths_B: Tensor, samples: int) -> Tensor:
        """Return the mask (B, T) int64 of audio tokens, 1 before the end of each sound. samples: N of the rows."""
        step = self.cfg.token_frames * self.cfg.hop
        count = self.cfg.tokens if self.cfg.encoder == "ast" else -(-samples // step)
        begins = torch.arange(count, device=lengths_B.device) * step
        mask: Tensor = begins < lengths_B[:, None]
        return mask.long()

    def pool(self, tokens_BTW: Tensor) -> Tensor:
        """Return the projection (B, E) of the mean audio token of each sound."""
        projected: Tensor = self.project(masked_mean(tokens_BTW, tokens_present(tokens_BTW)))
        return projected


def _random_span(lengths_B: Tensor, size: int, share: float) -> Tensor:
    """Return masks (B, size) bool, each with one random span of at most `share` of the row's length."""
    width, offset = torch.rand(2, len(lengths_B), 1, device=lengths_B.device)
    width = width * share * lengths_B[:, None]
    start = offset * (lengths_B[:, None] - width)
    places = torch.arange(size, device=lengths_B.device)
    span: Tensor = (places >= start) & (places < start + width)
    return span


class AudioEmbeddings(nn.Module):
    """Embedding of the audio tokens for the fused layers: projection, time and type embeddings, LayerNorm."""

    def __init__(self, cfg: AudioConfig, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(cfg.width, width)
        self.position = nn.Parameter(torch.empty(1, cfg.tokens, width))
        self.kind = nn.Parameter(torch.empty(1, 1, width))
        for parameter in (self.position, self.kind):
            nn.init.normal_(parameter, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, audio_BTW: Tensor) -> Tensor:
        """Return the embedded tokens (B, T, D)."""
        position = self.position[:, : audio_BTW.shape[1]]
        out: Tensor = self.dropout(self.norm(self.project(audio_BTW) + position + self.kind))
        return out
