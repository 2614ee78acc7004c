"""PE-AV of transformers: texts, videos and sounds. Its separate embedding spaces are combined into one.

The model has one embedding of a video and one of a sound, which are compared with each other, and two embeddings of a
text, one for videos and one for sounds. The bundle's embedding has three blocks, so that the dot product of each pair
is half of the model's cosine:

    text [for videos, for sounds, 0]    video [video, 0, video]    sound [0, sound, sound]    each / sqrt(2)

Shape letters: B videos, sounds or texts, C clips, F frames, H height, W width, N samples of a window, L tokens, K width
of an encoder, D dim of the model's embeddings.
"""

from __future__ import annotations

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

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import (
    SOUND_AXES,
    TEXT_AXES,
    TEXT_NOTE,
    PublicModel,
    TransformersReference,
    additive_mask,
    windowed_masks,
)
from model_export.public.preprocessing import PixelNormalization, normalization_of, open_processor, stream_of
from model_export.public.tokenization import max_text_length, open_tokenizer
from model_export.public.weights import load_model
from vitascope.bundle.manifest import AudioStream
from vitascope.errors import InvalidInput

SPACE_NOTE = (
    "The model compares a text with videos and with sounds by different embeddings of it. An embedding here has three "
    "blocks, so that the similarity of a text with a video, a text with a sound, and a sound with a video is half the "
    "cosine of the model's own embeddings; that of two videos, or two sounds, is their cosine."
)
SCALE_NOTE = (
    "Embeddings are normalized; the model's own logits multiply those that are not, so its scale and bias do not apply."
)
JOINT_NOTE = "The model's joint embeddings of a video with its sound, and of either with a text, are not exported."
WINDOWS_NOTE = (
    "The model states no length of sounds. A sound longer than {seconds:g} s is cut into equal windows, whose "
    "embeddings are averaged; shorter ones are padded, as by its processor in a batch."
)
FRAMES_NOTE = "A clip is read as {frames} frames at the centers of its equal parts, an image as as many equal frames."
_WINDOW_SECONDS = 10.0
_MAX_TEXT_LENGTH = 512


class PeEncoder(nn.Module):
    """Input states (B, L, K) of which `valid` (B, L) exist -> state of the class token (B, K).

    valid: None: all exist.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, valid: Tensor | None) -> Tensor:
        embedder = self.encoder.patch_embedder
        states = torch.cat([embedder.class_embedding.expand(inputs.shape[0], -1, -1), inputs], dim=1)
        mask = None
        if valid is not None:
            valid = torch.cat([valid[:, :1], valid], dim=1)
            mask = additive_mask(valid[:, None, None].expand(-1, 1, states.shape[1], -1))
        residual = states.transpose(1, 2)
        convolved = residual
        for block in (embedder.resnet_block.block1, embedder.resnet_block.block2):
            convolved = block.project(block.activation(_normalize_valid(block.groupnorm, convolved, valid)))
        states = (residual + convolved).transpose(1, 2)
        angles = self.encoder.rotary_emb(states, torch.arange(states.shape[1])[None])
        for layer in self.encoder.layers:
            states = layer(states, attention_mask=mask, position_embeddings=angles)
        output: Tensor = self.encoder.output(self.encoder.norm(states[:, 0]))
        return output


class PeText(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, 3 D), L2-normalized."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.radius = model.text_model, int(model.config.text_config.sliding_window)
        self.for_video, self.for_audio = model.video_model.text_video_head, model.audio_model.text_audio_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        masks = windowed_masks(attention_mask > 0, self.radius)
        states = self.model(input_ids=input_ids, attention_mask=masks).last_hidden_state[:, 0]
        return text_vector(self.for_video(states), self.for_audio(states))


class PeVideo(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, 3 D), L2-normalized, and the same as one visual token."""

    def __init__(self, model: Any, normalization: PixelNormalization) -> None:
        super().__init__()
        self.embedder, self.head = model.video_model.video_encoder.embedder, model.video_model.video_head
        self.encoder, self.normalization = PeEncoder(model.video_model.video_encoder), normalization

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (stream,) = streams
        batch, clips, frames = stream.shape[:3]
        logits = self.embedder.vision_model.timm_model(self.normalization.frames(stream))
        features = normalize(logits.reshape(batch * clips, frames, -1), dim=-1)
        states = self.encoder(self.embedder.data_proj(self.embedder.proj(features)), None)
        of_clips = normalize(self.head(states), dim=-1).reshape(batch, clips, -1)
        vector = video_vector(of_clips.mean(dim=1))
        return vector, vector[:, None]


class PeAudio(nn.Module):
    """samples (B, N) float32, lengths (B,) int64 -> vector (B, 3 D), L2-normalized."""

    def __init__(self, model: Any, hop: int) -> None:
        """hop: Number of samples per token."""
        super().__init__()
        self.embedder, self.head = model.audio_model.audio_encoder.embedder, model.audio_model.audio_head
        self.encoder, self.hop = PeEncoder(model.audio_model.audio_encoder), hop

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        # The processor mirrors the end of a sound up to a whole token.
        positions, starts = torch.arange(samples.shape[1]), torch.arange(0, samples.shape[1], self.hop)
        length, valid = lengths[:, None], starts < lengths[:, None]
        source = torch.where(positions < length, positions, (2 * length - 2 - positions).abs())
        mirrored = samples.gather(1, source).reshape(samples.shape[0], -1, self.hop)
        samples = (mirrored * valid[:, :, None]).flatten(1)
        codes = self.embedder.bottleneck(self.embedder.dac_encoder(samples[:, None])).transpose(1, 2)
        return sound_vector(self.head(self.encoder(self.embedder.data_proj(codes), valid)))


@dataclass(frozen=True)
class PeReference(TransformersReference):
    """PE-AV in transformers; `processor` has its parts for videos and for sounds."""

    frames: int
    samples: int
    """Number of samples of a window."""

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            states = self.model.text_model(**self._encode(texts)).last_hidden_state[:, 0]
            video_model, audio_model = self.model.video_model, self.model.audio_model
            return np.asarray(text_vector(video_model.text_video_head(states), audio_model.text_audio_head(states)))

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        prepare, model = self.processor.video_processor, self.model.video_model
        with torch.no_grad():
            rows = []
            for image in images:
                video = np.stack([np.asarray(image.convert("RGB"))] * self.frames)
                pixels = prepare(video, do_sample_frames=False, return_tensors="pt")
                rows.append(model.video_head(model.video_encoder(**pixels).pooler_output))
            return np.asarray(video_vector(torch.cat(rows)))

    def sound_embeddings(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        extractor = self.processor.feature_extractor
        inputs = extractor(
            list(sounds),
            sampling_rate=extractor.sampling_rate,
            padding="max_length",
            max_length=self.samples,
            return_tensors="pt",
        )
        with torch.no_grad():
            return np.asarray(sound_vector(self.model.audio_model.get_audio_embeds(**inputs)))

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        logits: np.ndarray = self.text_embeddings(texts) @ self.image_embeddings(images).T
        return logits


def text_vector(for_videos: Tensor, for_sounds: Tensor) -> Tensor:
    """Combine the two embeddings (B, D) of texts, for videos and for sounds, into one (B, 3 D)."""
    for_videos, for_sounds = normalize(for_videos, dim=-1), normalize(for_sounds, dim=-1)
    return torch.cat([for_videos, for_sounds, torch.zeros_like(for_videos)], dim=-1) / 2**0.5


def video_vector(videos: Tensor) -> Tensor:
    """Return (B, 3 D) of embeddings (B, D)."""
    videos = normalize(videos, dim=-1)
    return torch.cat([videos, torch.zeros_like(videos), videos], dim=-1) / 2**0.5


def sound_vector(sounds: Tensor) -> Tensor:
    """Return (B, 3 D) of embeddings (B, D)."""
    sounds = normalize(sounds, dim=-1)
    return torch.cat([torch.zeros_like(sounds), sounds, sounds], dim=-1) / 2**0.5


def load_pe_audio_video(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load PE-AV from a transformers folder. Raises InvalidInput."""
    from transformers import PeAudioVideoConfig, PeAudioVideoModel

    settings: Any = PeAudioVideoConfig.from_dict(config)
    vision = settings.audio_video_config.video_config.vision_config
    # The library reads the size of the frame encoder's output only where it is the whole configuration.
    vision.num_labels = getattr(vision, "num_classes", None) or vision.num_labels
    model = load_model(PeAudioVideoModel, folder, allow_pickle=allow_pickle, config=settings)
    processor, tokenizer = open_processor(folder, "processor"), open_tokenizer(folder)
    frame_encoder = model.video_model.video_encoder.embedder.vision_model.timm_model
    (side, _) = frame_encoder.patch_embed.img_size
    stream = stream_of(processor.video_processor, folder, side, frames)
    audio, hop = _audio_stream(folder, processor.feature_extractor, model)
    text = model.config.text_config
    text_length = min(_MAX_TEXT_LENGTH, max_text_length(tokenizer.library, text.max_position_embeddings))
    width = 3 * int(text.hidden_size)
    notes = [
        SPACE_NOTE,
        SCALE_NOTE,
        JOINT_NOTE,
        FRAMES_NOTE.format(frames=frames),
        WINDOWS_NOTE.format(seconds=audio.seconds),
        TEXT_NOTE.format(length=text_length),
    ]
    return PublicModel(
        architecture="pe_audio_video",
        tasks=["retrieval", "audio_retrieval"],
        specs=[
            video_spec(PeVideo(model, normalization_of(processor.video_processor)), [stream]),
            GraphSpec("text", PeText(model), TEXT_AXES, ("vector",)),
            GraphSpec("audio", PeAudio(model, hop), SOUND_AXES, ("vector",)),
        ],
        reference=PeReference(model, tokenizer.library, processor, text_length, frames, audio.samples),
        frame_streams=[stream],
        audio=audio,
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=width,
        visual_tokens=1,
        visual_width=width,
        temperature=1.0,
        tokenizer_json=tokenizer.json,
        notes=[*notes, *tokenizer.notes],
        versions={"transformers": version("transformers"), "timm": version("timm")},
        config=config,
    )


def _audio_stream(folder: Path, extractor: Any, model: Any) -> tuple[AudioStream, int]:
    """Return the stream of windows, and the samples of a token. Raises InvalidInput."""
    hop = int(model.config.audio_video_config.audio_config.dac_config.hop_length)
    if int(extractor.hop_length) != hop:
        raise InvalidInput(
            f"model: {folder}: its feature extractor has hop_length {extractor.hop_length}; {hop} was expected, as "
            "the model's configuration states"
        )
    rate = int(extractor.sampling_rate)
    return AudioStream(sample_rate=rate, seconds=round(_WINDOW_SECONDS * rate / hop) * hop / rate), hop


def _normalize_valid(norm: nn.GroupNorm, states: Tensor, valid: Tensor | None) -> Tensor:
    """Apply a group norm to states (B, K, L) over their valid positions (B, L); other positions become 0."""
    if valid is None:
        return nn.GroupNorm.forward(norm, states)
    exists = valid[:, None].to(states.dtype)
    count = exists.sum(dim=(1, 2), keepdim=True) * states.shape[1]
    centered = states - (states * exists).sum(dim=(1, 2), keepdim=True) / count
    variance = (centered.square() * exists).sum(dim=(1, 2), keepdim=True) / count
    return (centered / (variance + norm.eps).sqrt() * norm.weight[:, None] + norm.bias[:, None]) * exists
