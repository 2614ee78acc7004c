"""The four things a bundle can do: embed text, embed video, judge a pair, answer a question.

Shape letters: B videos, C clips, F frames, H height, W width (pixels, or of a visual token), V visual
tokens, L text tokens, D vector width, N answers.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_spec import ANSWER_IDS, ANSWER_MASK
from vitascope.bundle.manifest import FrameStream, Task
from vitascope.engines.graphs import GraphRunner, Graphs
from vitascope.engines.onnx_runtime import Array, Device, Placement
from vitascope.errors import InvalidInput
from vitascope.input_validation import Streams, check_texts, checked_tokens, count_of_streams
from vitascope.integrations.kserve.address import ONNXRUNTIME, served_name, server_url
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.sandbox.decoder import IN_PROCESS, Decoder
from vitascope.scores import answer_probabilities, fused_score, match_probability
from vitascope.text_batches import TextBatch, text_batches
from vitascope.tokenizer import MAX_CHARACTERS

Floats = NDArray[np.float32]
TextVectors = Callable[["Model", Sequence[str]], Floats]
"""Gives vectors (B, D) of texts, and asks the model's graph for those it does not have."""

_CLIPS_AT_ONCE = 64
"""Clips of one file whose frames are held in memory together."""


@dataclass(frozen=True)
class VideoEmbedding:
    """vectors (B, D) float32, each of length 1, D 0 where the bundle has none; visual_tokens (B, V, W) float32."""

    vectors: Floats
    visual_tokens: Floats


@dataclass(frozen=True)
class Match:
    """logits (B,) float32; probabilities (B,) float32 that text and video belong together."""

    logits: Floats
    probabilities: Floats


@dataclass(frozen=True)
class Answer:
    """One answer and its probability among all that were weighed."""

    text: str
    probability: float


class Model:
    """A bundle at work; safe to share between threads. Graphs are loaded when first needed."""

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 0,
        device: Device = "auto",
        *,
        engine: str = ONNXRUNTIME,
        batch_size: int = 32,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        """``threads`` and ``device`` as for ``OnnxRuntimeEngine``. ``engine``: ``onnxruntime``, or the URL of a server
        that has the graphs (``kserve:http://triton:8000``), for which both mean nothing.

        Batches larger than ``batch_size`` are run in pieces. ``max_characters``: of one text.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch_size: {batch_size}; at least 1 was expected")
        self.bundle = bundle
        self.batch_size = batch_size
        self.decoder: Decoder = IN_PROCESS
        """What reads media files for it."""
        self._text_vectors: TextVectors | None = None
        self._server = None
        if (url := server_url(engine)) is not None:
            from vitascope.integrations.kserve.server import InferenceServer  # here, since most need no HTTP client

            self._server = InferenceServer(url)
        self._graphs: GraphRunner = Graphs(bundle, threads, device, self._server)
        self._tokenizer = bundle.tokenizer(max_characters)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], threads: int = 0, device: Device = "auto", engine: str = ONNXRUNTIME
    ) -> Model:
        """Open the bundle in the folder ``path``; raises as ``Bundle.open``. Nothing is asked of ``engine`` yet."""
        return cls(Bundle.open(path), threads, device, engine=engine)

    def through(
        self,
        wrap: Callable[[GraphRunner], GraphRunner] | None = None,
        batch_size: int | None = None,
        *,
        decoder: Decoder | None = None,
        text_vectors: TextVectors | None = None,
    ) -> Self:
        """This model with its graphs run by what ``wrap`` makes of them, in pieces of ``batch_size``, its files read
        by ``decoder``, and vectors of texts given by ``text_vectors``; what is not given stays.
        """
        other = copy.copy(self)
        other._graphs = self._graphs if wrap is None else wrap(self._graphs)
        other.batch_size = batch_size or self.batch_size
        other.decoder = decoder or self.decoder
        other._text_vectors = text_vectors or self._text_vectors
        return other

    @property
    def tasks(self) -> Sequence[Task]:
        """What the bundle can do, as its manifest states it."""
        return self.bundle.manifest.tasks

    @property
    def streams(self) -> Sequence[FrameStream]:
        """What the bundle sees of a clip, as its manifest states it."""
        return self.bundle.manifest.streams

    @property
    def reads_answers(self) -> bool:
        """Whether it weighs any answers that it is given, and not only those of its vocabulary."""
        return self.bundle.manifest.answer_length is not None

    @property
    def is_remote(self) -> bool:
        """Whether a server runs the graphs."""
        return self._server is not None

    def check_engine(self) -> None:
        """Raise EngineUnavailable while the server that runs the graphs, where one does, is not ready."""
        if self._server is not None:
            stated = self.bundle.manifest
            self._server.check_ready([served_name(stated, graph) for graph in sorted(stated.graphs)])

    @property
    def placements(self) -> Mapping[str, Placement]:
        """Where the graphs that are loaded run, by name: engine, device, and why it is not what was tried first."""
        return self._graphs.placements

    def run_graph(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run of a graph on whatever rows ``inputs`` holds. Raises TaskMissing and EngineError."""
        return self._graphs.run(graph, inputs)

    def text_batches(self, texts: Sequence[str], size: int | None = None) -> list[TextBatch]:
        """What graphs that take texts run on: pieces of at most ``size`` texts, ``batch_size`` by default, of similar
        length. Raises TextError.
        """
        return text_batches(self._tokenizer, texts, size or self.batch_size)

    def warm(self) -> None:
        """Load every graph and run each once, so that the first request is as fast as the others."""
        stated = self.bundle.manifest
        streams = {s.name: np.zeros((1, 1, s.frames, s.height, s.width, 3), np.uint8) for s in stated.streams}
        tokens = np.zeros((1, stated.visual_tokens, stated.visual_width), np.float32)
        ids, mask = self._tokenizer.encode(["warm"])
        for graph in self._graphs.names:
            if graph == "video":
                self._graphs.run(graph, streams)
                continue
            inputs: dict[str, Array] = {"input_ids": ids, "attention_mask": mask}
            if graph != "text":
                inputs["visual_tokens"] = tokens
            if graph == "answer" and self.reads_answers:
                inputs |= {ANSWER_IDS: ids[None], ANSWER_MASK: mask[None]}
            self._graphs.run(graph, inputs)

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Vectors (B, D) float32 of length 1, one per text.

        Texts longer than the bundle's text length in tokens are cut. Raises TextError for an empty or
        blank text or one beyond the limit of characters; TaskMissing; EngineError.
        """
        self._graphs.require("text")
        check_texts(texts)
        if self._text_vectors is not None:
            return self._text_vectors(self, texts)
        return self._with_texts("text", texts, None)["vector"]

    def embed_video(self, streams: Streams) -> VideoEmbedding:
        """Embed B videos of C clips each from their frame streams: name -> (B, C, F, H, W, 3) uint8 RGB.

        ``sample_streams`` makes them (without B). Raises InvalidInput, naming the stream, when dtype or
        shape is not what the manifest states; TaskMissing; EngineError.
        """
        self._graphs.require("video")
        count = count_of_streams(self.streams, streams)
        stated = self.bundle.manifest
        vectors = np.empty((count, stated.vector_width), np.float32)
        tokens = np.empty((count, stated.visual_tokens, stated.visual_width), np.float32)
        for rows in self._pieces(count):
            results = self._graphs.run(
                "video", {s.name: np.ascontiguousarray(streams[s.name][rows]) for s in stated.streams}
            )
            tokens[rows] = results["visual_tokens"]
            if stated.vector_width:
                vectors[rows] = results["vector"]
        return VideoEmbedding(vectors, tokens)

    def match(self, texts: Sequence[str], visual_tokens: NDArray[np.floating]) -> Match:
        """Judge B pairs: texts[i] with visual_tokens[i]; visual_tokens is (B, V, W) of any float type.

        Raises TextError, InvalidInput, TaskMissing and EngineError.
        """
        self._graphs.require("match")
        logits = self._with_texts("match", texts, visual_tokens)["match_logit"]
        return Match(logits, match_probability(self.bundle.manifest.calibration, logits).astype(np.float32))

    def fused(self, similarity: NDArray[np.floating], match_logits: NDArray[np.floating]) -> Floats:
        """The score that results are ranked by after reranking: (B,) float32 from 0 to 1.

        ``similarity``: cosines (B,); ``match_logits``: (B,). Raises InvalidInput when shapes differ.
        """
        if np.shape(similarity) != np.shape(match_logits):
            raise InvalidInput(
                f"similarity {np.shape(similarity)} and match_logits {np.shape(match_logits)}: "
                "equal shapes were expected"
            )
        return fused_score(self.bundle.manifest.calibration, similarity, match_logits).astype(np.float32)

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: NDArray[np.floating],
        top: int = 5,
        among: Sequence[int] | None = None,
    ) -> list[list[Answer]]:
        """The ``top`` likeliest answers to questions[i] about visual_tokens[i] (B, V, W), best first.

        ``among``: entries of the vocabulary (``bundle.answers``) that alone may be the answer, by their numbers;
        probabilities are among these then. Fewer than ``top`` where there are fewer to choose from. Raises TextError,
        InvalidInput, also where the bundle has no vocabulary, TaskMissing, EngineError.
        """
        self._graphs.require("answer")
        vocabulary = self.bundle.answers
        if not vocabulary:
            raise InvalidInput("candidates: none; some were expected, as the model has no answers of its own")
        entries = np.arange(len(vocabulary)) if among is None else np.array(among, np.int64)
        if not len(entries) or entries.min() < 0 or entries.max() >= len(vocabulary):
            raise InvalidInput(f"among: {among!r}; numbers from 0 to {len(vocabulary) - 1} were expected")
        texts = [vocabulary[entry] for entry in entries]
        if self.reads_answers:
            return self.answer_among(questions, visual_tokens, texts, top)
        return self._likeliest(self.answer_logits(questions, visual_tokens)[:, entries], texts, top)

    def answer_among(
        self, questions: Sequence[str], visual_tokens: NDArray[np.floating], candidates: Sequence[str], top: int = 5
    ) -> list[list[Answer]]:
        """As ``answer``, out of answers in any words; only where ``reads_answers``. Raises as ``answer_logits``."""
        return self._likeliest(self.answer_logits(questions, visual_tokens, candidates), candidates, top)

    def answer_logits(
        self,
        questions: Sequence[str],
        visual_tokens: NDArray[np.floating],
        candidates: Sequence[str] | None = None,
    ) -> Floats:
        """(B, N) float32, for each entry of the vocabulary; where ``reads_answers``, the log-likelihood of each of
        ``candidates``, and very low for those whose first token is far from likely.

        Raises TextError, InvalidInput, also for a candidate of too many tokens, TaskMissing and EngineError.
        """
        self._graphs.require("answer")
        if not self.reads_answers:
            return self._with_texts("answer", questions, visual_tokens)["answer_logits"]
        check_texts(questions)
        tokens = checked_tokens(self.bundle.manifest, len(questions), visual_tokens)
        given = self._read_answers(candidates or ())
        logits = np.empty((len(questions), len(given[ANSWER_IDS][0])), np.float32)
        for batch in self.text_batches(questions, 1):  # the answers of one question are enough for a run
            inputs = {**batch.inputs, "visual_tokens": tokens[batch.rows], **given}
            logits[batch.rows] = self._graphs.run("answer", inputs)["answer_logits"]
        return logits

    def embed_file(
        self,
        path: str | os.PathLike[str],
        clips: Sequence[tuple[float, float]] | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> VideoEmbedding:
        """Embed each clip (start, end in s) of a media file: one row per clip; the whole file by default.

        Raises media errors and InvalidInput as ``decoder`` does; TaskMissing; EngineError.
        """
        self._graphs.require("video")
        file = Path(path)
        spans = [(0.0, self.decoder.probe(file, limits).duration)] if clips is None else list(clips)
        streams = self.bundle.manifest.streams
        parts = []
        for first in range(0, max(1, len(spans)), _CLIPS_AT_ONCE):
            piece = spans[first : first + _CLIPS_AT_ONCE]
            sampled = self.decoder.sample(file, streams, piece, limits).frames
            parts.append(self.embed_video({name: frames[:, None] for name, frames in sampled.items()}))
        return VideoEmbedding(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.visual_tokens for part in parts]),
        )

    def _with_texts(
        self, graph: str, texts: Sequence[str], visual_tokens: NDArray[np.floating] | None
    ) -> dict[str, Floats]:
        """Run a graph that takes texts, and perhaps a video for each, in pieces."""
        check_texts(texts)
        tokens = None if visual_tokens is None else checked_tokens(self.bundle.manifest, len(texts), visual_tokens)
        results = {
            name: np.empty((len(texts), *tail), np.float32) for name, tail in self._graphs.stated_outputs(graph).items()
        }
        for batch in self.text_batches(texts):
            inputs = batch.inputs if tokens is None else {**batch.inputs, "visual_tokens": tokens[batch.rows]}
            for name, array in self._graphs.run(graph, inputs).items():
                results[name][batch.rows] = array
        return results

    def _read_answers(self, candidates: Sequence[str]) -> dict[str, Array]:
        """answer_ids and answer_mask (1, N, M)."""
        check_texts(candidates)
        if not candidates:
            raise InvalidInput("candidates: none; at least one was expected")
        ids, mask = self._tokenizer.encode(candidates)
        most = self.bundle.manifest.answer_length or 0
        lengths = mask.sum(axis=1)
        if lengths.max() > most:
            number = int(lengths.argmax())
            raise InvalidInput(
                f"candidates[{number}]: {candidates[number][:40]!r} is {lengths[number]} tokens long; at most {most} "
                "were expected"
            )
        return {ANSWER_IDS: ids[None], ANSWER_MASK: mask[None]}

    def _likeliest(self, logits: Floats, texts: Sequence[str], top: int) -> list[list[Answer]]:
        """The ``top`` best of ``texts`` by each row of ``logits`` (B, N), with their shares."""
        if top < 1:
            raise InvalidInput(f"top: {top}; at least 1 was expected")
        probabilities = answer_probabilities(self.bundle.manifest.calibration, logits)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Answer(texts[place], float(row[place])) for place in order]
            for row, order in zip(probabilities, best, strict=True)
        ]

    def _pieces(self, count: int) -> list[slice]:
        return [slice(first, first + self.batch_size) for first in range(0, count, self.batch_size)]
