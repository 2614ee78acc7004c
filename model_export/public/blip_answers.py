"""BLIP of transformers for question answering: a text encoder reads the question beside the picture, and a decoder
says how likely each answer is.

Shape letters: B videos or questions, C clips, F frames, H height, W width, L tokens, P patches and one, V of all
frames, K their width, N answers, M tokens of an answer.
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

from model_export.graphs import ANSWER_AXES, GraphSpec, video_spec
from model_export.public.folder import load_model
from model_export.public.model import PublicModel
from model_export.public.pictures import PixelScale, frames_of_one_clip, scale_of, stream_of
from model_export.public.texts import length_of, open_tokenizer
from model_export.public.towers import TEXT_AXES, open_processor
from vitascope.errors import InvalidInput

CLASS = "BlipForQuestionAnswering"
ANSWER_LENGTH = 16
"""Tokens, the two special ones included. Those of VQA have 3 to 9."""
MOST_WEIGHED = 128
"""Of answers whose first token is the likeliest, as the model's authors weigh them."""
LEFT_OUT = -1e4
"""The log-likelihood that the others are given."""

POOLING = (
    "The model knows pictures only. It reads the patches of {frames} frames at the centres of equal parts of the clip "
    "as one sequence, as its authors do with videos; of a picture the answers are the model's own."
)
LIKELIHOODS = (
    f"An answer's logit is its log-likelihood by the decoder, up to its end, not divided by its length. Of more than "
    f"{MOST_WEIGHED} answers only those are weighed whose first tokens are the likeliest; the others get a probability "
    "of 0."
)


class BlipPatches(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> visual_tokens (B, F * P, K)."""

    def __init__(self, model: Any, scale: PixelScale) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, *streams: Tensor) -> Tensor:
        frames = frames_of_one_clip(streams[0])
        batch, count, height, width, _ = frames.shape
        pixels = self.scale(frames.reshape(batch * count, height, width, 3))
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        seen: Tensor = states.reshape(batch, count * states.shape[1], states.shape[2])
        return seen


class BlipAnswers(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K), answer_ids, answer_mask (B, N, M) -> answer_logits
    (B, N): log-likelihoods."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.start = model, int(model.decoder_start_token_id)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual_tokens: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
    ) -> Tensor:
        question = self.model.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=visual_tokens
        ).last_hidden_state
        unread = _barred(attention_mask == 0)[:, None, None]
        read = torch.cat([torch.full_like(answer_ids[:, :, :1], self.start), answer_ids[:, :, 1:-1]], dim=2)
        said, counts = answer_ids[:, :, 1:], answer_mask[:, :, 1:]
        begun = self._log_probabilities(read[:, :1, :1], question, unread)[:, 0, 0].gather(1, said[:, :, 0])
        most = torch.sym_min(answer_ids.shape[1], MOST_WEIGHED)  # type: ignore[no-untyped-call]
        weighed = begun.sort(dim=1, descending=True).indices[:, :most]
        places = weighed[..., None].expand(-1, -1, read.shape[2])
        each = self._log_probabilities(read.gather(1, places), question, unread)
        each = each.gather(3, said.gather(1, places)[..., None])[..., 0]
        total = (each * counts.gather(1, places)).sum(dim=2)
        return torch.full_like(begun, LEFT_OUT).scatter(1, weighed, total)

    def _log_probabilities(self, read: Tensor, question: Tensor, unread: Tensor) -> Tensor:
        """(B, N, M, words) of the token after each of ``read`` (B, N, M).

        The decoder's own modules, with the answers of a question side by side where they read it: what they read is
        prepared once for all of them, and what is padding is not read.
        """
        decoder = self.model.text_decoder
        batch, answers, length = read.shape
        states = decoder.bert.embeddings(input_ids=read.reshape(batch * answers, length))
        ahead = _barred(torch.ones(length, length, dtype=torch.bool).triu(1))[None, None]
        for layer in decoder.bert.encoder.layer:
            states, _ = layer.attention(states, attention_mask=ahead)
            beside = states.reshape(batch, answers * length, states.shape[2])
            seen, _ = layer.crossattention.self(beside, encoder_hidden_states=question, encoder_attention_mask=unread)
            beside = layer.crossattention.output(seen, beside)
            states = layer.feed_forward_chunk(beside.reshape(batch * answers, length, beside.shape[2]))
        likely: Tensor = decoder.cls(states).log_softmax(dim=2)
        return likely.reshape(batch, answers, length, likely.shape[2])


@dataclass(frozen=True)
class OriginalBlipAnswers:
    """BLIP as transformers runs it, on what its own processor and tokenizer make."""

    model: Any
    tokenizer: Any
    processor: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def answer_logits(
        self, questions: Sequence[str], pictures: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        """By the model's own loss, the mean over the tokens of an answer, one question and answer at a time."""
        assert candidates is not None  # it has no vocabulary
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        rows = [[[self._of(q, picture[None], a) for a in candidates] for picture in pixels] for q in questions]
        return np.array(rows, np.float32)

    def _of(self, question: str, pixels: Tensor, answer: str) -> float:
        labels = torch.tensor([self.token_ids(answer)])
        labels[:, 0] = self.model.decoder_start_token_id
        ids = torch.tensor([self.token_ids(question)])
        with torch.no_grad():
            loss = self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, labels=labels
            ).loss
        return -float(loss) * (labels.shape[1] - 1)


def load_blip_answers(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """BLIP with its head for question answering, of a transformers folder. Raises InvalidInput."""
    from transformers import BlipForQuestionAnswering

    model = load_model(BlipForQuestionAnswering, folder, allow_pickle=allow_pickle)
    processor, tokens = open_processor(folder), open_tokenizer(folder)
    vision, text = model.config.vision_config, model.config.text_config
    if text.hidden_size != vision.hidden_size:
        raise InvalidInput(
            f"model: {folder}: text_config.hidden_size {text.hidden_size}; {vision.hidden_size} was expected, that of "
            "vision_config, as the library's own model reads questions and pictures by layers of one width"
        )
    stream = stream_of(processor, folder, vision.image_size, frames, "uniform")
    text_length = length_of(tokens.library, text.max_position_embeddings)
    answer_axes = TEXT_AXES | {"visual_tokens": {0: "batch"}} | ANSWER_AXES
    patches = BlipPatches(model, scale_of(processor))
    return PublicModel(
        architecture="blip",
        tasks=["answering"],
        specs=[
            video_spec(patches, [stream], ("visual_tokens",)),
            GraphSpec("answer", BlipAnswers(model), answer_axes, ("answer_logits",)),
        ],
        original=OriginalBlipAnswers(model, tokens.library, processor, text_length),
        frame_streams=[stream],
        vocabulary=text.vocab_size,
        text_length=text_length,
        vector_width=0,
        visual_tokens=frames * (1 + (vision.image_size // vision.patch_size) ** 2),
        visual_width=vision.hidden_size,
        temperature=1.0,
        tokenizer_json=tokens.written,
        answer_length=ANSWER_LENGTH,
        notes=[POOLING.format(frames=frames), LIKELIHOODS, *tokens.notes],
        versions={"transformers": version("transformers")},
        config=config,
    )


def _barred(hidden: Tensor) -> Tensor:
    """What is added to attention scores: nothing, or where ``hidden`` as good as minus infinity."""
    return torch.where(hidden, torch.finfo(torch.float32).min, 0.0)
