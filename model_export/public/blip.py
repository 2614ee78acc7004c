"""BLIP of transformers: for retrieval and matching, for question answering, or for captioning.

BLIP for retrieval has embeddings of texts and images, and a text encoder that attends to the image. BLIP for questions
has a text encoder that attends to the image, and a decoder that scores answers. Captioning is in `blip_captions`.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L tokens, P patches and the class token, V
visual tokens (P of one frame, or of all frames), K their width, D embedding dim, N answers, M tokens of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.graphs import ANSWER_AXES, GraphSpec, video_spec
from model_export.public.blip_captions import FRAME_NOTE, PROMPT_NOTE, BlipCaptionsReference, caption_fields
from model_export.public.clip import POOLING_NOTE, pool_frames
from model_export.public.model import FUSED_AXES, TEXT_AXES, PublicModel, TransformersReference
from model_export.public.preprocessing import (
    PixelNormalization,
    normalization_of,
    open_processor,
    select_clip_frames,
    stream_of,
)
from model_export.public.tokenization import max_text_length, open_tokenizer
from model_export.public.weights import load_model
from vitascope.errors import InvalidInput

MATCH_FRAME_NOTE = "Matching uses the middle frame of the {frames}; the clip's embedding uses all of them."
TEMPERATURE_NOTE = (
    "The temperature is the configuration's initial value, as the weights contain no trained one; no score depends "
    "on it."
)
FRAMES_NOTE = (
    "The patches of {frames} frames at the centers of equal parts of the clip are one sequence, as in the authors' "
    "video experiments; for an image the answers are the model's own."
)
MAX_SCORED_ANSWERS = 128
"""Answers scored per question: those with the likeliest first tokens, as the authors do."""
NOT_SCORED = -1e4
"""Log-likelihood of all other answers."""
LIKELIHOOD_NOTE = (
    "An answer's logit is its log-likelihood by the decoder, up to its end, not divided by its length. Of more than "
    f"{MAX_SCORED_ANSWERS} answers only those with the likeliest first tokens are scored; the others get a probability "
    "of 0."
)
MAX_ANSWER_TOKENS = 16
"""Including the two special tokens. Answers of VQA have 3 to 9."""
_RETRIEVAL, _ANSWERING = "BlipForImageTextRetrieval", "BlipForQuestionAnswering"
_CAPTIONING = "BlipForConditionalGeneration"


class BlipText(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return normalize(self.model.text_proj(states[:, 0]), dim=-1)


class BlipFrames(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> vector (B, D), L2-normalized, and visual_tokens (B, P, K) of one frame."""

    def __init__(self, model: Any, normalization: PixelNormalization) -> None:
        super().__init__()
        self.model, self.normalization = model, normalization

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (stream,) = streams
        batch, count = stream.shape[0], stream.shape[1] * stream.shape[2]
        states = self.model.vision_model(pixel_values=self.normalization.frames(stream)).last_hidden_state
        vector = pool_frames(normalize(self.model.vision_proj(states[:, 0]), dim=-1), stream)
        tokens = states.reshape(batch, count, states.shape[1], states.shape[2])
        return vector, tokens[:, count // 2]


class BlipMatch(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, P, K) -> match_logit (B,): logit of the model's own match
    probability."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        states = self.model.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=visual_tokens
        ).last_hidden_state
        scores = self.model.itm_head(states[:, 0])
        logit: Tensor = scores[:, 1] - scores[:, 0]
        return logit


class BlipPatches(nn.Module):
    """A stream (B, C, F, H, W, 3) uint8 -> visual_tokens (B, F * P, K)."""

    def __init__(self, model: Any, normalization: PixelNormalization) -> None:
        super().__init__()
        self.model, self.normalization = model, normalization

    def forward(self, *streams: Tensor) -> Tensor:
        frames = select_clip_frames(streams[0])
        batch, count, height, width, _ = frames.shape
        pixels = self.normalization(frames.reshape(batch * count, height, width, 3))
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        tokens: Tensor = states.reshape(batch, count * states.shape[1], states.shape[2])
        return tokens


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
        question_bias = _attention_bias(attention_mask == 0)[:, None, None]
        inputs = torch.cat([torch.full_like(answer_ids[:, :, :1], self.start), answer_ids[:, :, 1:-1]], dim=2)
        targets, target_mask = answer_ids[:, :, 1:], answer_mask[:, :, 1:]
        first = self._log_probabilities(inputs[:, :1, :1], question, question_bias)[:, 0, 0].gather(1, targets[:, :, 0])
        count = torch.sym_min(answer_ids.shape[1], MAX_SCORED_ANSWERS)  # type: ignore[no-untyped-call]
        scored = first.sort(dim=1, descending=True).indices[:, :count]
        rows = scored[..., None].expand(-1, -1, inputs.shape[2])
        by_token = self._log_probabilities(inputs.gather(1, rows), question, question_bias)
        by_token = by_token.gather(3, targets.gather(1, rows)[..., None])[..., 0]
        total = (by_token * target_mask.gather(1, rows)).sum(dim=2)
        return torch.full_like(first, NOT_SCORED).scatter(1, scored, total)

    def _log_probabilities(self, inputs: Tensor, question: Tensor, question_bias: Tensor) -> Tensor:
        """Return log-probabilities (B, N, M, vocabulary) of the token after each of `inputs` (B, N, M).

        Uses the decoder's own modules, with all answers of a question in one sequence for cross-attention, so that its
        keys and values are computed once.
        """
        decoder = self.model.text_decoder
        batch, answers, length = inputs.shape
        states = decoder.bert.embeddings(input_ids=inputs.reshape(batch * answers, length))
        causal_bias = _attention_bias(torch.ones(length, length, dtype=torch.bool).triu(1))[None, None]
        for layer in decoder.bert.encoder.layer:
            states, _ = layer.attention(states, attention_mask=causal_bias)
            joined = states.reshape(batch, answers * length, states.shape[2])
            attended, _ = layer.crossattention.self(
                joined, encoder_hidden_states=question, encoder_attention_mask=question_bias
            )
            joined = layer.crossattention.output(attended, joined)
            states = layer.feed_forward_chunk(joined.reshape(batch * answers, length, joined.shape[2]))
        log_probabilities: Tensor = decoder.cls(states).log_softmax(dim=2)
        return log_probabilities.reshape(batch, answers, length, log_probabilities.shape[2])


def _attention_bias(masked: Tensor) -> Tensor:
    """Return the bias of attention scores: 0, or the smallest float where `masked`."""
    return torch.where(masked, torch.finfo(torch.float32).min, 0.0)


class BlipReference(TransformersReference):
    """BLIP for retrieval and matching in transformers."""

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            states = self.model.text_encoder(**self._encode(texts)).last_hidden_state
            return np.asarray(normalize(self.model.text_proj(states[:, 0]), dim=-1))

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        with torch.no_grad():
            states = self.model.vision_model(pixel_values=self._pixels(images)).last_hidden_state
            return np.asarray(normalize(self.model.vision_proj(states[:, 0]), dim=-1))

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        encoded, columns = self._encode(texts), []
        for pixels in self._pixels(images):
            repeated = pixels.expand(len(texts), -1, -1, -1)
            with torch.no_grad():
                scores = self.model(**encoded, pixel_values=repeated, use_itm_head=True).itm_score
            columns.append(np.asarray(scores[:, 1] - scores[:, 0]))
        return np.stack(columns, axis=1)


class BlipAnswersReference(TransformersReference):
    """BLIP for question answering in transformers."""

    def answer_logits(
        self, questions: Sequence[str], images: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        """Score by the model's own loss, one question and answer at a time."""
        assert candidates is not None  # it has no vocabulary
        pixels = self._pixels(images)
        rows = [[[self._score(q, image[None], a) for a in candidates] for image in pixels] for q in questions]
        return np.array(rows, np.float32)

    def _score(self, question: str, pixels: Tensor, answer: str) -> float:
        labels = torch.tensor([self.token_ids(answer)])
        labels[:, 0] = self.model.decoder_start_token_id
        ids = torch.tensor([self.token_ids(question)])
        with torch.no_grad():
            loss = self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, labels=labels
            ).loss
        return -float(loss) * (labels.shape[1] - 1)  # the loss is the mean over tokens


def load_blip(folder: Path, config: dict[str, Any], frames: int, *, allow_pickle: bool) -> PublicModel:
    """Load BLIP with one of its heads from a transformers folder.

    Args:
        folder: The transformers folder.
        config: Content of its config.json.
        frames: Number of frames of a clip; captioning always uses one frame.
        allow_pickle: Read pickled weights, with a reader that runs no code.

    Raises:
        InvalidInput: The folder is invalid or has another head.
    """
    import transformers

    references = {_RETRIEVAL: BlipReference, _ANSWERING: BlipAnswersReference, _CAPTIONING: BlipCaptionsReference}
    heads = config.get("architectures")
    if heads not in [[head] for head in references]:
        expected = " or ".join(str([head]) for head in references)
        raise InvalidInput(f"model: {folder}: architectures {heads}; {expected} was expected")
    (head,) = heads
    frames = 1 if head == _CAPTIONING else frames
    model = load_model(getattr(transformers, head), folder, allow_pickle=allow_pickle)
    processor, tokenizer = open_processor(folder), open_tokenizer(folder)
    vision, text = model.config.vision_config, model.config.text_config
    stream = stream_of(processor, folder, vision.image_size, frames)
    text_length = max_text_length(tokenizer.library, text.max_position_embeddings)
    patches = 1 + (vision.image_size // vision.patch_size) ** 2
    reference = references[head](model, tokenizer.library, processor, text_length)
    fields: dict[str, Any] = {
        "architecture": "blip",
        "reference": reference,
        "frame_streams": [stream],
        "vocabulary": text.vocab_size,
        "text_length": text_length,
        "visual_width": vision.hidden_size,
        "tokenizer_json": tokenizer.json,
        "versions": {"transformers": version("transformers")},
        "config": config,
    }
    normalization = normalization_of(processor)
    if head == _CAPTIONING:
        return PublicModel(
            **caption_fields(model, BlipPatches(model, normalization), stream, reference),
            vector_width=0,
            visual_tokens=patches,
            temperature=1.0,
            notes=[FRAME_NOTE, PROMPT_NOTE, *tokenizer.notes],
            **fields,
        )
    if head == _ANSWERING:
        if text.hidden_size != vision.hidden_size:
            raise InvalidInput(
                f"model: {folder}: text_config.hidden_size {text.hidden_size}; {vision.hidden_size} was expected, that "
                "of vision_config, as the library's own model requires"
            )
        return PublicModel(
            tasks=["answering"],
            specs=[
                video_spec(BlipPatches(model, normalization), [stream], ("visual_tokens",)),
                GraphSpec("answer", BlipAnswers(model), FUSED_AXES | ANSWER_AXES, ("answer_logits",)),
            ],
            vector_width=0,
            visual_tokens=frames * patches,
            temperature=1.0,
            answer_length=MAX_ANSWER_TOKENS,
            notes=[FRAMES_NOTE.format(frames=frames), LIKELIHOOD_NOTE, *tokenizer.notes],
            **fields,
        )
    notes = [POOLING_NOTE.format(frames=frames), MATCH_FRAME_NOTE.format(frames=frames), TEMPERATURE_NOTE]
    return PublicModel(
        tasks=["retrieval", "matching"],
        specs=[
            video_spec(BlipFrames(model, normalization), [stream]),
            GraphSpec("text", BlipText(model), TEXT_AXES, ("vector",)),
            GraphSpec("match", BlipMatch(model), FUSED_AXES, ("match_logit",)),
        ],
        vector_width=model.config.image_text_hidden_size,
        visual_tokens=patches,
        temperature=1.0 / math.exp(model.config.logit_scale_init_value),
        notes=[*notes, *tokenizer.notes],
        **fields,
    )
