"""EmbeddingGemma 2 of transformers: one encoder of texts, images, videos and sounds.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, N frames or sequences, T tiles of a
frame, P patches of a frame, K width of the encoder, D embedding dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.assemble import read_json_object
from model_export.graphs import GraphSpec, video_spec
from model_export.public.gemma_audio import GemmaAudio, clamp_by_numbers, open_audio_stream
from model_export.public.model import (
    SOUND_AXES,
    TEXT_AXES,
    TEXT_NOTE,
    PublicModel,
    TransformersReference,
    additive_mask,
    valid_positions,
    windowed_masks,
)
from model_export.public.preprocessing import PixelNormalization, normalization_of, open_processor, tile_streams
from model_export.public.tokenization import max_text_length, open_tokenizer
from model_export.public.weights import load_model
from vitascope.bundle.manifest import FrameStream, Prompts
from vitascope.errors import InvalidInput

FRAMES_NOTE = (
    "A clip is read as a video of {frames} frames at the centers of its equal parts, where the model's own processor "
    "takes one frame per second, at most 32. An image, and a clip whose frames are all equal, is read as an image."
)
DIMENSIONS_NOTE = "Matryoshka dimensions {dimensions}: those that the authors state for {width} dimensions."
WINDOWS_NOTE = (
    "A sound longer than {seconds:g} s is cut into equal windows, whose embeddings are averaged; the model's own "
    "processor ends there."
)
_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
_MAX_TEXT_LENGTH = 2048
_PUBLISHED_WIDTH, _PUBLISHED_DIMENSIONS = 768, [512, 256, 128]


class SequenceEncoder(nn.Module):
    """Input states (N, L, K) of the tokens that `valid` (N, L) selects -> vector (N, D), L2-normalized.

    Excluded tokens may be between others; positions and attention windows skip them.
    """

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.model = language_model
        self.radius = int(language_model.config.sliding_window)

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        positions, masks = valid_positions(valid).clamp(min=0).long(), windowed_masks(valid, self.radius)
        output = self.model(inputs_embeds=states, attention_mask=masks, position_ids=positions)
        weights = valid[:, :, None].to(states.dtype)
        mean = (output.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1)
        return normalize(mean, dim=-1)


class GemmaText(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.words, self.encoder = model.get_input_embeddings(), encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vector: Tensor = self.encoder(self.words(input_ids), attention_mask > 0)
        return vector


class GemmaVision(nn.Module):
    """Frames (N, H, W, 3) and covers (N, H / tile, W / tile, 3) uint8 of a stream with fit `tiles` -> states (N, T, K)
    and which of them exist (N, T)."""

    def __init__(self, model: Any, normalization: PixelNormalization) -> None:
        super().__init__()
        self.tower, self.project = clamp_by_numbers(model.vision_tower), model.embed_vision
        self.normalization = normalization
        config = model.config.vision_config
        self.patch, self.kernel = int(config.patch_size), int(config.pooling_kernel_size)

    def forward(self, frames: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
        exists, columns, rows = _tile_positions(cover)
        patches, positions = self._patches(frames), self._patch_positions(columns, rows)
        is_padding = ~exists.repeat_interleave(self.kernel**2, dim=1)
        positions = torch.where(is_padding[..., None], -1, positions)
        states = self.tower.patch_embedder(patches, positions, is_padding)
        angles = self.tower.encoder.rotary_emb(states, positions)
        mask = additive_mask(~is_padding[:, None, None, :])
        for layer in self.tower.encoder.layers:
            states = layer(states, attention_mask=mask, position_embeddings=angles, position_ids=positions)
        width = states.shape[-1]
        pooled = states.unflatten(1, (exists.shape[1], self.kernel**2)).mean(dim=2) * width**0.5
        if self.tower.config.standardize:
            pooled = (pooled - self.tower.std_bias) * self.tower.std_scale
        return self.project(pooled), exists

    def _patches(self, frames: Tensor) -> Tensor:
        """Return the patches of each tile, (N, P, values)."""
        side = self.patch * self.kernel
        pixels = self.normalization(frames).permute(0, 2, 3, 1)
        rows, columns = frames.shape[1] // side, frames.shape[2] // side
        split = pixels.unflatten(2, (columns, self.kernel, self.patch)).unflatten(1, (rows, self.kernel, self.patch))
        # (N, rows, kernel, patch, columns, kernel, patch, 3)
        patches: Tensor = split.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5).flatten(1, 4)
        return patches

    def _patch_positions(self, columns: Tensor, rows: Tensor) -> Tensor:
        """Return the (x, y) of each patch in its frame, (N, P, 2)."""
        offset = torch.arange(self.kernel)
        x = (columns[:, :, None] * self.kernel + offset).repeat(1, 1, self.kernel)
        y = (rows[:, :, None] * self.kernel + offset).repeat_interleave(self.kernel, dim=2)
        return torch.stack([x, y], dim=-1).flatten(1, 2)


class GemmaVideo(nn.Module):
    """Frames, an image and the cover of each, (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and the same as
    one visual token (B, 1, D).

    A clip of different frames is read as a video, one of equal frames as an image.
    """

    def __init__(self, model: Any, encoder: SequenceEncoder, vision: GemmaVision, tokens: MediaTokens) -> None:
        super().__init__()
        self.words, self.encoder, self.vision, self.tokens = model.get_input_embeddings(), encoder, vision, tokens

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        batch, clips = streams[0].shape[:2]
        frames, frame_covers, image, image_cover = (stream.flatten(0, 1) for stream in streams)
        is_still = (frames == frames[:, :1]).flatten(1).all(dim=1)
        of_videos = self._encode_rows(~is_still, self.tokens.video, frames, frame_covers)
        of_stills = self._encode_rows(is_still, self.tokens.image, image, image_cover)
        vectors = torch.where(is_still[:, None], of_stills, of_videos)
        vector = normalize(vectors.reshape(batch, clips, -1).mean(dim=1), dim=-1)
        return vector, vector[:, None]

    def _encode_rows(self, selected: Tensor, parts: Sequence[Sequence[int]], frames: Tensor, covers: Tensor) -> Tensor:
        """Return embeddings (N, D), computed for the selected rows; others are undefined."""
        # At least one row, since graphs cannot infer sizes of empty arrays.
        fallback = ~selected.any() & (torch.arange(selected.shape[0]) == 0)
        rows = torch.nonzero(selected | fallback)[:, 0]
        vectors = self._encode(parts, frames[rows], covers[rows])
        return torch.zeros(selected.shape[0], vectors.shape[1]).index_copy(0, rows, vectors)

    def _encode(self, parts: Sequence[Sequence[int]], frames: Tensor, covers: Tensor) -> Tensor:
        """Return embeddings (N, D) of F frames each, (N, F, H, W, 3), with the ids of `parts` around them."""
        count = frames.shape[1]
        states, exists = self.vision(frames.flatten(0, 1), covers.flatten(0, 1))
        states, exists = states.unflatten(0, (-1, count)), exists.unflatten(0, (-1, count))
        sequence, valid = [], []
        for index, ids in enumerate(parts):
            literal = self.words(torch.tensor(ids)).expand(states.shape[0], -1, -1)
            sequence.append(literal)
            valid.append(torch.ones_like(literal[..., 0], dtype=torch.bool))
            if index < count:
                sequence.append(states[:, index])
                valid.append(exists[:, index])
        vector: Tensor = self.encoder(torch.cat(sequence, dim=1), torch.cat(valid, dim=1))
        return vector


@dataclass(frozen=True)
class MediaTokens:
    """Token ids around the states of frames: before the first frame, between frames, and after the last frame."""

    image: list[list[int]]
    video: list[list[int]]

    @classmethod
    def of(cls, tokenizer: Any, frames: int, video_token: str) -> MediaTokens:
        """Return the ids that the model's processor uses for an image, and for a video of `frames` frames."""
        return cls(
            *(
                _literals(tokenizer, (tokenizer.boi_token, token, tokenizer.eoi_token), count)
                for token, count in ((tokenizer.image_token, 1), (video_token, frames))
            )
        )


@dataclass(frozen=True)
class GemmaReference(TransformersReference):
    """EmbeddingGemma 2 in transformers, with mean pooling as its authors use it; `processor` is the omni-modal one."""

    prompt: str

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(**self._encode([self.prompt + text for text in texts]))

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.concatenate([self._embed(**self.processor(images=[[i]], return_tensors="pt")) for i in images])

    def sound_embeddings(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([self._embed(**self.processor(audio=[s], return_tensors="pt")) for s in sounds])

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        logits: np.ndarray = self.text_embeddings(texts) @ self.image_embeddings(images).T
        return logits

    def _embed(self, **inputs: Any) -> np.ndarray:
        with torch.no_grad():
            states = self.model(**inputs).last_hidden_state
        weights = inputs["attention_mask"][..., None]
        return np.asarray(normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1))


def load_embedding_gemma2(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load EmbeddingGemma 2 from a transformers folder. Raises InvalidInput."""
    from transformers import EmbeddingGemma2Model

    model = load_model(EmbeddingGemma2Model, folder, allow_pickle=allow_pickle)
    if model.vision_tower is None:
        raise InvalidInput(f"model: {folder}: vision_config null; EmbeddingGemma 2 with a vision tower was expected")
    tokenizer, processor = open_tokenizer(folder), _open_processor(folder)
    streams = _streams(folder, processor, model.config.vision_config, frames)
    encoder = SequenceEncoder(model.language_model)
    vision = GemmaVision(model, normalization_of(processor.image_processor))
    tokens = MediaTokens.of(tokenizer.library, frames, processor.video_token)
    text_length = min(
        _MAX_TEXT_LENGTH, max_text_length(tokenizer.library, model.config.text_config.max_position_embeddings)
    )
    prompts, width = _read_prompts(folder), int(model.config.text_config.embedding_dim)
    dimensions, notes = _dimensions(config, width)
    specs = [
        video_spec(GemmaVideo(model, encoder, vision, tokens), streams),
        GraphSpec("text", GemmaText(model, encoder), TEXT_AXES, ("vector",)),
    ]
    audio = None if model.audio_tower is None else open_audio_stream(folder, processor)
    if audio is not None:
        library = tokenizer.library
        around = _literals(library, (library.boa_token, library.audio_token, library.eoa_token), 1)
        module = GemmaAudio(model, processor.feature_extractor, encoder, around)
        specs.append(GraphSpec("audio", module, SOUND_AXES, ("vector",)))
        notes = [WINDOWS_NOTE.format(seconds=audio.seconds), *notes]
    return PublicModel(
        architecture="embedding_gemma2",
        tasks=["retrieval"] if audio is None else ["retrieval", "audio_retrieval"],
        specs=specs,
        reference=GemmaReference(model, tokenizer.library, processor, text_length, prompts.query),
        frame_streams=streams,
        audio=audio,
        vocabulary=model.config.text_config.vocab_size,
        text_length=text_length,
        vector_width=width,
        matryoshka_dimensions=dimensions,
        prompts=prompts,
        visual_tokens=1,
        visual_width=width,
        temperature=1.0,
        tokenizer_json=tokenizer.json,
        notes=[FRAMES_NOTE.format(frames=frames), TEXT_NOTE.format(length=text_length), *notes, *tokenizer.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _open_processor(folder: Path) -> Any:
    processor = open_processor(folder, "processor")
    if processor.video_processor.add_timestamps:
        raise InvalidInput(f"model: {folder}: add_timestamps true; videos without timestamps were expected")
    return processor


def _streams(folder: Path, processor: Any, vision: Any, frames: int) -> list[FrameStream]:
    """Return the streams of the video graph: frames, image, and the cover of each."""
    return [
        *tile_streams(processor.video_processor, folder, vision, "frames", frames, "uniform"),
        *tile_streams(processor.image_processor, folder, vision, "image", 1, "middle"),
    ]


def _read_prompts(folder: Path) -> Prompts:
    """Return the prompts that the folder states for sentence-transformers; none without the file."""
    path = folder / _SENTENCE_TRANSFORMERS
    values = read_json_object("model", path).get("prompts") or {} if path.is_file() else {}
    return Prompts(query=values.get("query") or "", document=values.get("document") or "")


def _dimensions(config: dict[str, Any], width: int) -> tuple[list[int], list[str]]:
    """Return the Matryoshka dimensions below `width`, and a note if the configuration does not state them."""
    dimensions = config.get("matryoshka_dimensions")
    if dimensions is not None:
        return sorted({int(number) for number in dimensions if int(number) < width}, reverse=True), []
    if width != _PUBLISHED_WIDTH:
        return [], []
    return _PUBLISHED_DIMENSIONS, [DIMENSIONS_NOTE.format(dimensions=_PUBLISHED_DIMENSIONS, width=width)]


def _literals(tokenizer: Any, tokens: tuple[str, str, str], count: int) -> list[list[int]]:
    """Return the processor's token ids around the media token.

    tokens: Tokens before the media, of the media, and after the media. count: Number of repetitions of the three.
    """
    ids = tokenizer("".join(tokens) * count)["input_ids"]
    place = tokenizer.convert_tokens_to_ids(tokens[1])
    return [list(group) for is_literal, group in groupby(ids, lambda id_: id_ != place) if is_literal]


def _tile_positions(cover: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which tiles exist, and their columns and rows in their frame, (N, T) each."""
    flat = cover[..., 0].flatten(1)
    is_last = (flat == 255).long()
    index = torch.arange(flat.shape[1])[None]
    rows = is_last.cumsum(dim=1) - is_last
    columns = index - rows * (is_last.argmax(dim=1, keepdim=True) + 1)
    return flat > 0, columns.clamp(min=0), rows
