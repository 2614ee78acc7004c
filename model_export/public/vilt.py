"""ViLT of transformers: one encoder that reads a text beside the patches of a picture. It matches them, or answers out
of a vocabulary; it has no vectors.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, P patches that a frame has at most,
K their width, N answers, G patches on an edge of the corner that frames lie in, S the same of the positions.
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

from model_export.graphs import GraphSpec, video_spec
from model_export.public.folder import load_model
from model_export.public.model import PublicModel
from model_export.public.pictures import PixelScale, corner_streams, frames_of_one_clip, scale_of
from model_export.public.texts import length_of, open_tokenizer
from model_export.public.towers import TEXT_AXES, open_processor
from vitascope.errors import InvalidInput

POOLING = (
    "The model knows pictures only. It reads a text beside each of {frames} frames at the centres of equal parts of "
    "the clip, and the clip's logits are the mean of theirs: every frame has a say, and of a picture they are the "
    "model's own."
)
RANKS = (
    "Match probabilities are sigmoids of the model's logits, not calibrated: these rank texts, or pictures, against "
    "one another and say nothing about one pair."
)
SHARES = (
    "Answer probabilities are shares among all answers (softmax); the model itself was trained to judge each answer "
    "apart from the others. The order is the same."
)
_MATCHES, _ANSWERS = "ViltForImageAndTextRetrieval", "ViltForQuestionAnswering"


class ViltFrames(nn.Module):
    """Frames in a corner (B, C, F, H, W, 3) and their cover (B, C, F, G, G, 3) uint8 -> visual_tokens (B, F * (1 + P),
    K): of each frame the first token and its patches, with their positions, and zeros after those that are there."""

    def __init__(self, model: Any, scale: PixelScale, patches: int) -> None:
        """``patches``: that a frame has at most."""
        super().__init__()
        self.embeddings, self.scale, self.patches = model.vilt.embeddings, scale, patches

    def forward(self, *streams: Tensor) -> Tensor:
        frames, cover = (frames_of_one_clip(stream) for stream in streams)
        batch, count, height, width, _ = frames.shape
        pixels = self.scale(frames.reshape(batch * count, height, width, 3))
        covered = cover.reshape(batch * count, *cover.shape[2:])[..., 0] > 0
        rows, columns = covered[:, :, 0].sum(dim=1), covered[:, 0].sum(dim=1)
        grid = self.embeddings.patch_embeddings(pixels).permute(0, 2, 3, 1)
        grid = grid + self._positions(rows, columns, grid.shape[1])
        first = self.embeddings.cls_token + self.embeddings.position_embeddings[:, :1]
        tokens = torch.cat([first.expand(batch * count, -1, -1), self._those_there(grid, rows, columns)], dim=1)
        seen: Tensor = tokens.reshape(batch, count * (1 + self.patches), tokens.shape[2])
        return seen

    def _positions(self, rows: Tensor, columns: Tensor, edge: int) -> Tensor:
        """(B * F, G, G, K): the model's positions, stretched over each frame from corner to corner."""
        table = self.embeddings.position_embeddings[0, 1:]
        side = round(len(table) ** 0.5)
        high, wide = _stretched(rows, edge, side), _stretched(columns, edge, side)
        lines = high @ table.reshape(side, -1)  # (B * F, G, S * K)
        lines = lines.reshape(rows.shape[0], edge, side, table.shape[1]).transpose(1, 2).flatten(2)
        grid: Tensor = (wide @ lines).reshape(rows.shape[0], edge, edge, table.shape[1])
        return grid.transpose(1, 2)

    def _those_there(self, grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(B * F, P, K): the patches of (B * F, G, G, K) that lie in the first rows and columns, then zeros."""
        numbers = torch.arange(self.patches)[None]
        across = columns[:, None].clamp(min=1)
        there = numbers < (rows * columns)[:, None]
        places = torch.where(there, numbers // across * grid.shape[2] + numbers % across, 0)
        chosen = grid.flatten(1, 2).gather(1, places[..., None].expand(-1, -1, grid.shape[3]))
        return chosen * there[..., None]


class ViltHead(nn.Module):
    """input_ids, attention_mask (B, L) int64, visual_tokens (B, F * (1 + P), K) -> the logits of the model's head, the
    mean over frames: match_logit (B,) or answer_logits (B, N)."""

    def __init__(self, model: Any, frames: int, *, answers: bool) -> None:
        super().__init__()
        self.model, self.frames, self.answers = model, frames, answers

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        each = visual_tokens.reshape(visual_tokens.shape[0], self.frames, -1, visual_tokens.shape[2])
        # One frame after the other, so that memory does not grow with their number.
        logits = [self._of_frame(input_ids, attention_mask, each[:, number]) for number in range(self.frames)]
        mean = torch.stack(logits).mean(dim=0)
        return mean if self.answers else mean[:, 0]

    def _of_frame(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        there = (tokens != 0).any(dim=2).to(torch.int64)
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, image_embeds=tokens, pixel_mask=there
        ).logits
        return logits


@dataclass(frozen=True)
class OriginalVilt:
    """ViLT as transformers runs it, on what its own processor and tokenizer make."""

    model: Any
    tokenizer: Any
    processor: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        return self._heads(texts, pictures)[:, :, 0]

    def answer_logits(
        self, questions: Sequence[str], pictures: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        assert candidates is None  # it has a vocabulary
        return self._heads(questions, pictures)

    def _heads(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        """(texts, pictures, logits)."""
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding=True, return_tensors="pt"
        )
        columns = []
        for picture in pictures:
            pixels = self.processor(images=[picture] * len(texts), return_tensors="pt")
            with torch.no_grad():
                columns.append(np.asarray(self.model(**encoded, **pixels).logits))
        return np.stack(columns, axis=1)


def load_vilt(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """ViLT with its head for retrieval or for question answering, of a transformers folder. Raises InvalidInput, also
    for its other heads."""
    from transformers import ViltForImageAndTextRetrieval, ViltForQuestionAnswering

    heads = config.get("architectures")
    if heads not in ([_MATCHES], [_ANSWERS]):
        raise InvalidInput(f"model: {folder}: architectures {heads}; [{_MATCHES!r}] or [{_ANSWERS!r}] was expected")
    answers = heads == [_ANSWERS]
    kind = ViltForQuestionAnswering if answers else ViltForImageAndTextRetrieval
    model = load_model(kind, folder, allow_pickle=allow_pickle)
    stated, processor, tokens = model.config, open_processor(folder), open_tokenizer(folder)
    streams, patches = corner_streams(processor, folder, stated.patch_size, frames)
    if 0 <= stated.max_image_length < patches:
        raise InvalidInput(
            f"model: {folder}: max_image_length {stated.max_image_length}, by which patches are drawn at random; "
            f"-1 or at least {patches} was expected"
        )
    head = ViltHead(model, frames, answers=answers)
    fused_axes = TEXT_AXES | {"visual_tokens": {0: "batch"}}
    text_length = length_of(tokens.library, stated.max_position_embeddings)
    return PublicModel(
        architecture="vilt",
        tasks=["answering"] if answers else ["matching"],
        specs=[
            video_spec(ViltFrames(model, scale_of(processor), patches), streams, ("visual_tokens",)),
            GraphSpec("answer", head, fused_axes, ("answer_logits",))
            if answers
            else GraphSpec("match", head, fused_axes, ("match_logit",)),
        ],
        original=OriginalVilt(model, tokens.library, processor, text_length),
        frame_streams=streams,
        vocabulary=stated.vocab_size,
        text_length=text_length,
        vector_width=0,
        visual_tokens=frames * (1 + patches),
        visual_width=stated.hidden_size,
        temperature=1.0,
        tokenizer_json=tokens.written,
        answers=_answers_of(folder, stated) if answers else [],
        notes=[POOLING.format(frames=frames), SHARES if answers else RANKS, *tokens.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _stretched(counts: Tensor, edge: int, side: int) -> Tensor:
    """(B * F, edge, side): the share that each of ``side`` positions has in each of the first ``counts`` places, when
    they are stretched linearly, the first onto the first and the last onto the last."""
    step = (side - 1) / (counts - 1).clamp(min=1)
    at = torch.arange(edge)[None] * step[:, None]
    return (1.0 - (at[..., None] - torch.arange(side)).abs()).clamp(min=0.0)


def _answers_of(folder: Path, config: Any) -> list[str]:
    answers = [str(config.id2label[number]) for number in range(config.num_labels)]
    if not all(answers):
        raise InvalidInput(f"model: {folder}: id2label has an empty answer, number {answers.index('')}; words expected")
    return answers
