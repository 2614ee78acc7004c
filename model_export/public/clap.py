"""CLAP of transformers: one space of texts and sounds.

Shape letters: B texts or sounds, L tokens, N samples of a window, F frames of features, M mel bins, D embedding dim.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.audio_utils import window_function

from model_export.graphs import GraphSpec
from model_export.public.model import SOUND_AXES, TEXT_AXES, PublicModel, TransformersReference
from model_export.public.preprocessing import PowerSpectrum, open_processor
from model_export.public.tokenization import Padding, max_text_length, open_tokenizer
from model_export.public.weights import load_model
from vitascope.bundle.manifest import AudioStream, Calibration
from vitascope.errors import InvalidInput

WINDOWS_NOTE = (
    "A sound longer than {seconds:g} s is cut into equal windows, whose embeddings are averaged; the model's own "
    "processor selects parts of it at random."
)
FUSION_NOTE = "No window is longer than the model's, so that its fusion of parts of long sounds is not used."
_FILLS = {"repeatpad": "repeat", "pad": "silence"}
"""How the runtime fills windows, by the processor's padding."""


class LogMel(nn.Module):
    """samples (B, N) -> features (B, 1, F, M) in decibels, as by the processor."""

    mel: Tensor

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        size = int(extractor.fft_window_size)
        self.margin = size // 2
        self.spectrum = PowerSpectrum(window_function(size, "hann"), size, int(extractor.hop_length))
        filters = extractor.mel_filters if extractor.truncation == "fusion" else extractor.mel_filters_slaney
        self.register_buffer("mel", torch.from_numpy(filters.astype(np.float32)), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        padded = F.pad(samples[:, None], (self.margin, self.margin), mode="reflect")[:, 0]
        features: Tensor = 10.0 * (self.spectrum(padded) @ self.mel).clamp_min(1e-10).log10()
        return features[:, None]


class ClapAudio(nn.Module):
    """samples (B, N) float32, lengths (B,) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__()
        self.log_mel, self.project = LogMel(extractor), model.audio_projection
        self.encoder = copy.deepcopy(model.audio_model.audio_encoder)  # the reference keeps its fusion
        self.encoder.enable_fusion = self.encoder.patch_embed.enable_fusion = False

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        del lengths  # the model was trained without lengths
        return normalize(self.project(self.encoder(self.log_mel(samples)).pooler_output), dim=-1)


class ClapText(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any, padding: Padding) -> None:
        super().__init__()
        self.model, self.padding = model, padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = self.padding(input_ids, attention_mask)
        return normalize(self.model.get_text_features(ids, attention_mask).pooler_output, dim=-1)


@dataclass(frozen=True)
class ClapReference(TransformersReference):
    """CLAP in transformers; `processor` is its feature extractor."""

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(self.model.get_text_features(**self._encode(texts)).pooler_output)

    def sound_embeddings(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        rate = self.processor.sampling_rate
        features = self.processor(list(sounds), sampling_rate=rate, return_tensors="pt")["input_features"]
        # The processor marks one of several short sounds as long, at random.
        is_longer = torch.zeros(len(sounds), 1, dtype=torch.bool)
        with torch.no_grad():
            embeddings = self.model.get_audio_features(features.float(), is_longer=is_longer).pooler_output
        return np.asarray(embeddings)


def load_clap(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load CLAP from a transformers folder. frames: Ignored, since the model reads no frames. Raises InvalidInput."""
    from transformers import ClapModel

    model = load_model(ClapModel, folder, allow_pickle=allow_pickle)
    extractor, tokenizer = open_processor(folder, "feature extractor"), open_tokenizer(folder)
    if extractor.padding not in _FILLS:
        raise InvalidInput(
            f"model: {folder}: its feature extractor has padding {extractor.padding!r}; {' or '.join(_FILLS)} was "
            "expected"
        )
    audio = AudioStream.model_validate(
        {
            "sample_rate": extractor.sampling_rate,
            "seconds": extractor.max_length_s,
            "fill": _FILLS[extractor.padding],
        }
    )
    text = model.config.text_config
    first_position = int(tokenizer.library.pad_token_id) + 1  # RoBERTa's positions begin after the padding's
    text_length = max_text_length(tokenizer.library, text.max_position_embeddings - first_position)
    notes = [
        WINDOWS_NOTE.format(seconds=audio.seconds),
        *([FUSION_NOTE] if model.config.audio_config.enable_fusion else []),
    ]
    return PublicModel(
        architecture="clap",
        tasks=["audio_retrieval"],
        specs=[
            GraphSpec("audio", ClapAudio(model, extractor), SOUND_AXES, ("vector",)),
            GraphSpec("text", ClapText(model, Padding(first_position - 1, None)), TEXT_AXES, ("vector",)),
        ],
        reference=ClapReference(model, tokenizer.library, extractor, text_length),
        frame_streams=[],
        audio=audio,
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=model.config.projection_dim,
        visual_tokens=0,
        visual_width=0,
        temperature=math.exp(-float(model.logit_scale_t.detach())),
        tokenizer_json=tokenizer.json,
        calibration=Calibration(),
        notes=[*notes, *tokenizer.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )
