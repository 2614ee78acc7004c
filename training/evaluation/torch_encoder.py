"""`TorchEncoder`: a torch model with the interface of the runtime's `Model`.

Shape letters: n pairs, B items, C clips, F frames, H W pixels, D embedding dim, L text tokens, V visual tokens, W their
width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from training.models.fusion import FusedModel
from training.models.grounding_head import grounding_outputs
from training.models.pooled_answer_head import AnswerLogits
from training.models.text import VisualCache
from vitascope.answering import Answer
from vitascope.bundle.graph_specs import (
    AUDIO_TOKENS,
    BOX,
    HEAT_LOGITS,
    LENGTHS,
    LOGITS,
    PAST_KEYS,
    PAST_VALUES,
    PRESENT_KEYS,
    PRESENT_VALUES,
    SAMPLES,
    VISUAL_KEYS,
    VISUAL_MASK,
    VISUAL_VALUES,
)
from vitascope.bundle.manifest import Calibration, FrameStream, Task
from vitascope.captions import Caption, CaptionOptions, generate_captions
from vitascope.embeddings import VideoEmbedding, embed_views
from vitascope.entailment import Entailment, entailment_of
from vitascope.scoring import Match, fused_score, match_probability
from vitascope.tokenizer import Tokenizer

PAIRS_PER_BATCH = 128
SENTENCES_PER_BATCH = 96
"""Number of captions that are generated at once."""
CLIPS_PER_PASS = 256
"""Number of clips whose keys and values for the fused layers are in memory at once: 1 MB each with sound."""


class PairBatch(NamedTuple):
    """A batch of B of n pairs of text and clip, for the heads of a torch model."""

    positions: list[int]
    """Indices of the B pairs among the n pairs."""
    states: Tensor
    """(B, L, D) text states."""
    mask: Tensor
    """(B, L)"""
    cache: VisualCache
    """The clip of each text."""


class TorchEncoder:
    """A torch model with the interface of the runtime's `Model`, for validation, evaluation and parity checks."""

    def __init__(
        self, model: FusedModel, tokenizer: Tokenizer, answers: list[str], calibration: Calibration | None = None
    ) -> None:
        self.model, self.tokenizer, self.answers = model, tokenizer, answers
        self.batch_size = SENTENCES_PER_BATCH
        self.calibration: Calibration = calibration or Calibration()
        self.caption_matrix: np.ndarray | None = None

    @property
    def tasks(self) -> Sequence[Task]:
        """Return the tasks of the model, as in a manifest."""
        cfg = self.model.cfg
        added = {"answering": self.answers, "captioning": cfg.caption_layers, "grounding": cfg.grounding_layers}
        added["entailment"] = cfg.entailment == "video"
        return ("retrieval", "matching", *(cast(Task, task) for task, exists in added.items() if exists))

    @property
    def streams(self) -> Sequence[FrameStream]:
        """Return the input streams of a clip."""
        return self.model.cfg.streams()

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return L2-normalised embeddings (B, D) float32."""
        with inference_mode(self.model):
            return _numpy(self.model.encode_text(*self._tokens(texts))[0])

    def embed_video(self, streams: Mapping[str, np.ndarray]) -> VideoEmbedding:
        """Return embeddings (B, D) and visual tokens (B, V, W) of streams (B, C, F, H, W, 3) uint8."""

        def run(streams: Mapping[str, np.ndarray]) -> VideoEmbedding:
            frames = {s.name: self._tensor(np.ascontiguousarray(streams[s.name])) for s in self.streams}
            with inference_mode(self.model):
                vector, tokens = self.model.encode_video(frames)
            return VideoEmbedding(vectors=_numpy(vector), visual_tokens=_numpy(tokens))

        return embed_views(run, streams, self.model.cfg.mirrored_view)

    def embed_windows(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph `audio` on windows of sound: inputs and outputs by the names of the graph."""
        with inference_mode(self.model):
            vector, tokens = self.model.encode_audio(self._tensor(inputs[SAMPLES]), self._tensor(inputs[LENGTHS]))
        return {"vector": _numpy(vector), AUDIO_TOKENS: _numpy(tokens)}

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray, audio_tokens: np.ndarray | None = None) -> Match:
        """Return matching logits and calibrated probabilities, both (B,)."""
        _, logits = self.score_pairs(texts, range(len(texts)), visual_tokens, audio_tokens)
        return Match(logits=logits, probabilities=match_probability(self.calibration, logits).astype(np.float32))

    def score_pairs(
        self, texts: Sequence[str], rows: Sequence[int], visual: np.ndarray, audio: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the text embeddings (n, D), and the matching logits (n,) of texts[i] with clip rows[i].

        visual, audio: Visual tokens and audio tokens of all clips.
        """
        vectors = np.empty((len(texts), self.model.cfg.vector_width), np.float32)
        logits = np.empty(len(texts), np.float32)
        with inference_mode(self.model):
            for part in self._pair_batches(texts, rows, visual, audio):
                vectors[part.positions] = _numpy(self.model.text_embedding(part.states, part.mask))
                logits[part.positions] = _numpy(self.model.match_logits(part.states, part.mask, part.cache))
        return vectors, logits

    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        """Return the fused score (B,), 0..1."""
        return fused_score(self.calibration, similarity, match_logits)

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: np.ndarray,
        top: int = 5,
        *,
        audio_tokens: np.ndarray | None = None,
    ) -> list[list[Answer]]:
        """Return the `top` answers to each question, most probable first."""
        return self.answer_pairs(questions, range(len(questions)), visual_tokens, audio_tokens, top)

    def answer_pairs(
        self,
        questions: Sequence[str],
        rows: Sequence[int],
        visual: np.ndarray,
        audio: np.ndarray | None = None,
        top: int = 1,
    ) -> list[list[Answer]]:
        """Return the `top` answers to questions[i] about clip rows[i], most probable first."""
        answers: list[list[Answer]] = [[]] * len(questions)
        with inference_mode(self.model):
            for part in self._pair_batches(questions, rows, visual, audio):
                logits = self.model.answer_logits(part.states, part.mask, part.cache).float()
                probabilities = (logits / self.calibration.answer_temperature).softmax(dim=-1)
                best = probabilities.topk(min(top, len(self.answers)))
                for position, values, indices in zip(
                    part.positions, best.values.tolist(), best.indices.tolist(), strict=True
                ):
                    answers[position] = [Answer(self.answers[i], p) for p, i in zip(values, indices, strict=True)]
        return answers

    def answer_logits_by_head(
        self, questions: Sequence[str], rows: Sequence[int], visual: np.ndarray, audio: np.ndarray | None = None
    ) -> AnswerLogits:
        """Return the logits of both answer heads for questions[i] about clip rows[i], float32 on the CPU."""
        positions: list[int] = []
        parts: list[tuple[Tensor, ...]] = []
        with inference_mode(self.model):
            for part in self._pair_batches(questions, rows, visual, audio):
                logits = self.model.answer_logits_by_head(part.states, part.mask, part.cache)
                parts.append(tuple(x.float().cpu() for x in logits))
                positions += part.positions
        order = torch.tensor(positions).argsort()
        return AnswerLogits(*(torch.cat(tensors)[order] for tensors in zip(*parts, strict=True)))

    def classify_entailment(
        self, texts: Sequence[str], visual_tokens: np.ndarray, audio_tokens: np.ndarray | None = None
    ) -> Entailment:
        """Classify texts[i] as entailed, neutral or contradicted by clip i."""
        return entailment_of(self.entailment_logits(texts, visual_tokens, audio_tokens))

    def entailment_logits(
        self, texts: Sequence[str], visual: np.ndarray, audio: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the logits (n, classes) of texts[i] about clip i, or about the pictures 2i and 2i + 1 of a pair.

        visual, audio: Visual tokens and audio tokens of the clips or pictures.
        """
        with inference_mode(self.model):
            states, mask = self._states(texts)
            return _numpy(self.model.entailment_logits(states, mask, self._visual_cache(visual, audio)))

    def generate_captions(
        self, visual_tokens: np.ndarray, audio_tokens: np.ndarray | None, options: CaptionOptions
    ) -> list[list[Caption]]:
        """Return `options.count` captions of each clip, best first."""
        decoder = self.model.cfg.caption_decoder(self.tokenizer.vocabulary())
        assert decoder is not None
        tokens = {"visual_tokens": visual_tokens} | ({} if audio_tokens is None else {AUDIO_TOKENS: audio_tokens})
        return generate_captions(self, decoder, tokens, options)

    def run_graph(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a graph of captions or grounding: inputs and outputs by the names of the graph."""
        tensors = {name: self._tensor(x.astype(np.float32) if x.dtype.kind == "f" else x) for name, x in inputs.items()}
        prepared = (VISUAL_KEYS, VISUAL_VALUES, VISUAL_MASK)
        names: tuple[str, ...]
        outputs: tuple[Tensor, ...]
        with inference_mode(self.model):
            if graph == "grounding":
                names, outputs = (HEAT_LOGITS, BOX), grounding_outputs(self.model, *tensors.values())
            elif graph == "caption_prefill":
                names, outputs = prepared, self.model.prepare_captions(*tensors.values())
            else:
                names = (LOGITS, PRESENT_KEYS, PRESENT_VALUES)
                words = (tensors[name] for name in ("input_ids", PAST_KEYS, PAST_VALUES, *prepared))
                outputs = self.model.next_word_logits(*words)
        return {name: x.cpu().numpy() for name, x in zip(names, outputs, strict=True)}

    def _pair_batches(
        self, texts: Sequence[str], rows: Sequence[int], visual: np.ndarray, audio: np.ndarray | None
    ) -> Iterator[PairBatch]:
        """Yield all pairs in batches of similar length. Clips are prepared once, texts encoded once per batch."""
        distinct = sorted(set(rows))
        for first in range(0, len(distinct), CLIPS_PER_PASS):
            clips = distinct[first : first + CLIPS_PER_PASS]
            cache = self._visual_cache(visual[clips], None if audio is None else audio[clips])
            index = {row: i for i, row in enumerate(clips)}
            pairs = sorted(
                (i for i, row in enumerate(rows) if row in index), key=lambda i: (len(texts[i]), texts[i], rows[i])
            )
            for start in range(0, len(pairs), PAIRS_PER_BATCH):
                part = pairs[start : start + PAIRS_PER_BATCH]
                words = {text: i for i, text in enumerate(dict.fromkeys(texts[i] for i in part))}
                states, mask = self._states(list(words))
                copies = [words[texts[i]] for i in part]
                yield PairBatch(part, states[copies], mask[copies], cache.select([index[rows[i]] for i in part]))

    def _states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self._tokens(texts)
        return self.model.text.encode(ids, mask), mask

    def _visual_cache(self, visual_tokens: np.ndarray, audio_tokens: np.ndarray | None) -> VisualCache:
        audio = None if audio_tokens is None else self._tensor(np.asarray(audio_tokens, dtype=np.float32))
        return self.model.prepare_visual(self._tensor(np.asarray(visual_tokens, dtype=np.float32)), audio)

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer.encode(list(texts))
        return self._tensor(ids), self._tensor(mask)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)


class inference_mode:
    """Context manager for evaluation mode without gradients; the previous mode is restored on exit."""

    def __init__(self, model: FusedModel) -> None:
        self.model = model
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.was_training = self.model.training
        if self.was_training:
            self.model.eval()
        self.no_grad.__enter__()

    def __exit__(self, *_: object) -> None:
        self.no_grad.__exit__(None, None, None)
        if self.was_training:
            self.model.train()


def _numpy(tensor: Tensor) -> np.ndarray:
    result: np.ndarray = tensor.float().cpu().numpy()
    return result
