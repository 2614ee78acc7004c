"""ViLT of transformers: one encoder for the tokens of a text and the patches of an image, for matching or question
answering. It has no embeddings for retrieval.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L text tokens, P maximum number of patches of a
frame, K width of a patch's embedding, N answers, G patches per side of the padded frame, S positions per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import FUSED_AXES, PublicModel, TransformersReference
from model_export.public.preprocessing import (
    PixelNormalization,
    normalization_of,
    open_processor,
    padded_streams,
    select_clip_frames,
)
from model_export.public.tokenization import max_text_length, open_tokenizer
from model_export.public.weights import load_model
from vitascope.errors import InvalidInput

FRAMES_NOTE = (
    "The model reads single images. The logits of a clip are the mean over {frames} frames at the centers of equal "
    "parts of the clip; the logits of an image are the model's logits."
)
MATCH_NOTE = (
    "Match probabilities are uncalibrated sigmoids of the model's logits. They can rank texts or images, but are not "
    "probabilities of single pairs."
)
ANSWER_NOTE = (
    "Answer probabilities are a softmax over all answers; the model was trained with a separate sigmoid per answer."
    " The order is the same."
)
_MATCHING, _ANSWERING = "ViltForImageAndTextRetrieval", "ViltForQuestionAnswering"


class ViltFrames(nn.Module):
    """Padded frames (B, C, F, H, W, 3) and their masks (B, C, F, G, G, 3) uint8 -> visual_tokens (B, F * (1 + P), K).

    For each frame: the class token and the patches, with position embeddings, and then zeros.
    """

    def __init__(self, model: Any, normalization: PixelNormalization, patches: int) -> None:
        super().__init__()
        self.embeddings, self.normalization, self.patches = model.vilt.embeddings, normalization, patches

    def forward(self, *streams: Tensor) -> Tensor:
        frames, mask = (select_clip_frames(stream) for stream in streams)
        batch, count, height, width, _ = frames.shape
        pixels = self.normalization(frames.reshape(batch * count, height, width, 3))
        inside = mask.reshape(batch * count, *mask.shape[2:])[..., 0] > 0
        rows, columns = inside[:, :, 0].sum(dim=1), inside[:, 0].sum(dim=1)
        grid = self.embeddings.patch_embeddings(pixels).permute(0, 2, 3, 1)
        grid = grid + self._positions(rows, columns, grid.shape[1])
        first = self.embeddings.cls_token + self.embeddings.position_embeddings[:, :1]
        tokens = torch.cat([first.expand(batch * count, -1, -1), self._select_patches(grid, rows, columns)], dim=1)
        visual: Tensor = tokens.reshape(batch, count * (1 + self.patches), tokens.shape[2])
        return visual

    def _positions(self, rows: Tensor, columns: Tensor, edge: int) -> Tensor:
        """Return the position embeddings (B * F, G, G, K), interpolated to the size of each frame."""
        table = self.embeddings.position_embeddings[0, 1:]
        side = round(len(table) ** 0.5)
        by_row, by_column = _interpolation_weights(rows, edge, side), _interpolation_weights(columns, edge, side)
        lines = by_row @ table.reshape(side, -1)  # (B * F, G, S * K)
        lines = lines.reshape(rows.shape[0], edge, side, table.shape[1]).transpose(1, 2).flatten(2)
        grid: Tensor = (by_column @ lines).reshape(rows.shape[0], edge, edge, table.shape[1])
        return grid.transpose(1, 2)

    def _select_patches(self, grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the patches of the first rows and columns, then zeros: (B * F, G, G, K) -> (B * F, P, K)."""
        indices = torch.arange(self.patches)[None]
        row_length = columns[:, None].clamp(min=1)
        exists = indices < (rows * columns)[:, None]
        positions = torch.where(exists, indices // row_length * grid.shape[2] + indices % row_length, 0)
        selected = grid.flatten(1, 2).gather(1, positions[..., None].expand(-1, -1, grid.shape[3]))
        return selected * exists[..., None]


class ViltHead(nn.Module):
    """input_ids, attention_mask (B, L) int64, visual_tokens (B, F * (1 + P), K) -> match_logit (B,) or answer_logits
    (B, N), the mean over frames."""

    def __init__(self, model: Any, frames: int, *, is_answering: bool) -> None:
        super().__init__()
        self.model, self.frames, self.is_answering = model, frames, is_answering

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        by_frame = visual_tokens.reshape(visual_tokens.shape[0], self.frames, -1, visual_tokens.shape[2])
        # One frame at a time, so that memory does not grow with the number of frames.
        logits = [self._frame_logits(input_ids, attention_mask, by_frame[:, i]) for i in range(self.frames)]
        mean = torch.stack(logits).mean(dim=0)
        return mean if self.is_answering else mean[:, 0]

    def _frame_logits(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        exists = (tokens != 0).any(dim=2).to(torch.int64)
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, image_embeds=tokens, pixel_mask=exists
        ).logits
        return logits


class ViltReference(TransformersReference):
    """ViLT in transformers."""

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        return self._head_logits(texts, images)[:, :, 0]

    def answer_logits(
        self, questions: Sequence[str], images: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        assert candidates is None  # the model answers from its own vocabulary
        return self._head_logits(questions, images)

    def _head_logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Return logits, (number of texts, number of images, number of logits)."""
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding=True, return_tensors="pt"
        )
        columns = []
        for image in images:
            pixels = self.processor(images=[image] * len(texts), return_tensors="pt")
            with torch.no_grad():
                columns.append(np.asarray(self.model(**encoded, **pixels).logits))
        return np.stack(columns, axis=1)


def load_vilt(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load ViLT for retrieval or question answering from the folder of a transformers model.

    Args:
        folder: Folder of the model.
        config: Content of its config.json.
        frames: Number of frames of a clip.
        allow_pickle: Whether weights may be pickles.

    Raises:
        InvalidInput: The architecture or a setting is not supported, or a file is missing or invalid.
    """
    from transformers import ViltForImageAndTextRetrieval, ViltForQuestionAnswering

    heads = config.get("architectures")
    if heads not in ([_MATCHING], [_ANSWERING]):
        raise InvalidInput(f"model: {folder}: architectures {heads}; ['{_MATCHING}'] or ['{_ANSWERING}'] was expected")
    is_answering = heads == [_ANSWERING]
    model_class = ViltForQuestionAnswering if is_answering else ViltForImageAndTextRetrieval
    model = load_model(model_class, folder, allow_pickle=allow_pickle)
    model_config, processor, tokenizer = model.config, open_processor(folder), open_tokenizer(folder)
    streams, patches = padded_streams(processor, folder, model_config.patch_size, frames)
    if 0 <= model_config.max_image_length < patches:
        raise InvalidInput(
            f"model: {folder}: max_image_length {model_config.max_image_length}, with which patches are sampled at "
            f"random; -1 or at least {patches} was expected"
        )
    head = ViltHead(model, frames, is_answering=is_answering)
    text_length = max_text_length(tokenizer.library, model_config.max_position_embeddings)
    frame_encoder = ViltFrames(model, normalization_of(processor), patches)
    return PublicModel(
        architecture="vilt",
        tasks=["answering"] if is_answering else ["matching"],
        specs=[
            video_spec(frame_encoder, streams, ("visual_tokens",)),
            GraphSpec("answer", head, FUSED_AXES, ("answer_logits",))
            if is_answering
            else GraphSpec("match", head, FUSED_AXES, ("match_logit",)),
        ],
        reference=ViltReference(model, tokenizer.library, processor, text_length),
        frame_streams=streams,
        vocabulary=model_config.vocab_size,
        text_length=text_length,
        vector_width=0,
        visual_tokens=frames * (1 + patches),
        visual_width=model_config.hidden_size,
        temperature=1.0,
        tokenizer_json=tokenizer.json,
        answers=_read_answers(folder, model_config) if is_answering else [],
        notes=[FRAMES_NOTE.format(frames=frames), ANSWER_NOTE if is_answering else MATCH_NOTE, *tokenizer.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _interpolation_weights(counts: Tensor, edge: int, side: int) -> Tensor:
    """Return weights (B * F, edge, side) of linear interpolation from `side` positions to `counts` (B * F,) positions,
    with aligned corners. Rows of weights after the first `counts` are not used."""
    step = (side - 1) / (counts - 1).clamp(min=1)
    coordinates = torch.arange(edge)[None] * step[:, None]
    return (1.0 - (coordinates[..., None] - torch.arange(side)).abs()).clamp(min=0.0)


def _read_answers(folder: Path, config: Any) -> list[str]:
    answers = [str(config.id2label[index]) for index in range(config.num_labels)]
    if not all(answers):
        raise InvalidInput(f"model: {folder}: id2label {answers.index('')} is empty; an answer was expected")
    return answers
