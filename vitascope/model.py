"""A loaded bundle: embed texts, videos and sounds, match pairs, answer questions.

Shape letters: B videos, texts, sounds or pairs, C clips, F frames, H height, W width (pixels), V visual tokens, K their
width, T audio tokens, A their width, L text tokens, D embedding dim, N answers, M tokens of an answer.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vitascope.audio_windows import Samples, batched_inputs, check_sounds, cut_windows, read_sounds
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import ANSWER_IDS, ANSWER_MASK, AUDIO_TOKENS, random_inputs
from vitascope.bundle.manifest import (
    CAPTION_GRAPHS,
    AudioStream,
    Calibration,
    CaptionDecoder,
    FrameStream,
    InputType,
    MomentWindows,
    Task,
)
from vitascope.captions import DEFAULT_OPTIONS, Caption, CaptionOptions, generate_captions
from vitascope.engines.graphs import GraphRunner, Graphs
from vitascope.engines.onnx_runtime import Array, Device, Placement
from vitascope.errors import InvalidInput, MediaError
from vitascope.input_validation import (
    Streams,
    batch_size_of_streams,
    check_audio_tokens,
    check_texts,
    check_visual_tokens,
)
from vitascope.integrations.kserve import ONNXRUNTIME, served_name, server_url
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.moments import MomentResult, find_moments
from vitascope.scoring import answer_probabilities, fused_score, match_probability
from vitascope.tokenizer import MAX_CHARACTERS, TextBatch, length_sorted_batches

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.sandbox.decoder import Decoder

Floats = NDArray[np.float32]
TextEmbedder = Callable[["Model", Sequence[str]], Floats]
"""Returns embeddings (B, D) of texts with their prompts, such as a cache in front of the model's text graph."""

_CLIPS_PER_BATCH = 64
"""Clips of a file whose frames, or windows of its sound, are in memory at the same time."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoEmbedding:
    """Embeddings of videos.

    Attributes:
        vectors: (B, D) float32, normalized; D is 0 if the bundle has no embeddings.
        visual_tokens: (B, V, K) float32.
    """

    vectors: Floats
    visual_tokens: Floats


@dataclass(frozen=True)
class AudioEmbedding:
    """Embeddings of sounds.

    Attributes:
        vectors: (B, D) float32, normalized.
        tokens: (B, T, A) float32; None if the bundle has no audio tokens.
    """

    vectors: Floats
    tokens: Floats | None


@dataclass(frozen=True)
class FileEmbedding:
    """Embeddings of the clips of a file.

    Attributes:
        video: One row per clip; None if the file has no pictures, or the bundle no video graph.
        audio: One row per clip with sound; None if no clip has any, or the bundle no audio graph.
        clips_with_sound: Positions of the clips with sound, ascending int64.
    """

    video: VideoEmbedding | None
    audio: AudioEmbedding | None
    clips_with_sound: NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """Match logits and calibrated probabilities, each (B,) float32."""

    logits: Floats
    probabilities: Floats


@dataclass(frozen=True)
class Answer:
    """An answer and its probability among the answers that were scored."""

    text: str
    probability: float


class Model:
    """A bundle with its graphs, which load on first use. Thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 0,
        device: Device = "auto",
        *,
        engine: str = ONNXRUNTIME,
        optimize: bool = True,
        batch_size: int = 32,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        """Create a model without loading a graph.

        Args:
            bundle: Open bundle.
            threads: Threads within an operator; 0: one per core.
            device: "auto", "cpu", "cuda" or "tensorrt", as for ``OnnxRuntimeEngine``.
            engine: ``onnxruntime``, or the URL of an inference server with the graphs (``kserve:http://triton:8000``),
                which ignores ``threads`` and ``device``.
            optimize: Optimize graphs as they load, as for ``OnnxRuntimeEngine``; False is faster for a single search.
            batch_size: Maximum rows of a run; larger batches are split.
            max_characters: Longest text accepted.

        Raises:
            InvalidInput: ``batch_size`` is below 1, or ``engine`` is unknown.
            BundleCorrupt: The tokenizer cannot be read.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch_size: {batch_size}; at least 1 was expected")
        self.bundle = bundle
        self.batch_size = batch_size
        self._text_embedder: TextEmbedder | None = None
        self._server = None
        if (url := server_url(engine)) is not None:
            from vitascope.integrations.kserve.server import InferenceServer  # imports an HTTP client

            self._server = InferenceServer(url)
        self._graphs: GraphRunner = Graphs(bundle, threads, device, self._server, optimize=optimize)
        self.tokenizer = bundle.tokenizer(max_characters)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        threads: int = 0,
        device: Device = "auto",
        engine: str = ONNXRUNTIME,
        *,
        optimize: bool = True,
    ) -> Model:
        """Open the bundle in a folder; arguments as in the constructor. Does not connect to a server.

        Raises:
            BundleError: As ``Bundle.open``.
            InvalidInput: As the constructor.
        """
        return cls(Bundle.open(path), threads, device, engine=engine, optimize=optimize)

    def with_overrides(
        self,
        wrap_runner: Callable[[GraphRunner], GraphRunner] | None = None,
        batch_size: int | None = None,
        *,
        decoder: Decoder | None = None,
        text_embedder: TextEmbedder | None = None,
    ) -> Self:
        """Return a copy that shares the loaded graphs, with some parts replaced; None keeps a part.

        Args:
            wrap_runner: Returns the graph runner to use, given the present one.
            batch_size: Maximum rows of a run.
            decoder: Decoder of media files.
            text_embedder: Replacement for the text graph in ``embed_text``.
        """
        other = copy.copy(self)
        other._graphs = self._graphs if wrap_runner is None else wrap_runner(self._graphs)
        other.batch_size = batch_size or self.batch_size
        if decoder is not None:
            other.decoder = decoder
        other._text_embedder = text_embedder or self._text_embedder
        return other

    @cached_property
    def decoder(self) -> Decoder:
        """Decoder of media files."""
        from vitascope.sandbox.decoder import IN_PROCESS  # imports PyAV and Pillow, which texts do not need

        return IN_PROCESS

    @property
    def tasks(self) -> Sequence[Task]:
        """Tasks of the bundle."""
        return self.bundle.manifest.tasks

    @property
    def streams(self) -> Sequence[FrameStream]:
        """Frame streams that the video graph takes."""
        return self.bundle.manifest.streams

    @property
    def calibration(self) -> Calibration:
        """Calibration of the bundle's probabilities."""
        return self.bundle.manifest.calibration

    @property
    def scores_free_form_answers(self) -> bool:
        """Return whether the model scores any candidate answer, and not only those of its vocabulary."""
        return self.bundle.manifest.answer_length is not None

    @property
    def is_remote(self) -> bool:
        """Return whether an inference server runs the graphs."""
        return self._server is not None

    def check_ready(self) -> None:
        """Raise EngineUnavailable if an inference server runs the graphs and is not ready.

        Caption graphs run in this process.
        """
        if self._server is not None:
            manifest = self.bundle.manifest
            self._server.check_ready(
                [served_name(manifest, graph) for graph in sorted({*manifest.graphs} - {*CAPTION_GRAPHS})]
            )

    @property
    def placements(self) -> Mapping[str, Placement]:
        """Engine and device of each loaded graph by name."""
        return self._graphs.placements

    def run_graph(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph once, without splitting the batch, and return its outputs by name.

        Raises:
            TaskMissing: The bundle has no such graph.
            EngineError: The run failed.
        """
        return self._graphs.run(graph, inputs)

    def text_batches(self, texts: Sequence[str], size: int | None = None) -> list[TextBatch]:
        """Tokenize texts into batches of similar length.

        Args:
            texts: Texts.
            size: Maximum texts of a batch; ``batch_size`` by default.

        Raises:
            TextError: A text is blank or too long.
        """
        return length_sorted_batches(self.tokenizer, texts, size or self.batch_size)

    def warm_up(self) -> None:
        """Load every graph and run it once, so that the first request is not slower than others.

        Raises BundleCorrupt and EngineError for a graph that cannot be loaded or run.
        """
        rng = np.random.default_rng(0)
        for graph in self._graphs.names:
            specs, _ = self.bundle.graph_spec(graph)
            self._graphs.run(graph, random_inputs(specs, rng, self.tokenizer.vocabulary_size))

    def add_prompt(self, texts: Sequence[str], input_type: InputType = "query") -> list[str]:
        """Return texts with the prompt that the model expects before texts of this type.

        Raises:
            TextError: A text is blank or has too many characters.
        """
        check_texts(texts)
        prompts = self.bundle.manifest.prompts
        prompt = prompts.query if input_type == "query" else prompts.document
        if prompt:
            self.tokenizer.check(texts)  # a prompt is not blank
        return [prompt + text for text in texts] if prompt else list(texts)

    def embed_text(self, texts: Sequence[str], input_type: InputType = "query") -> Floats:
        """Embed texts. With their prompt, texts longer than the bundle's text length (tokens) are truncated.

        Args:
            texts: Texts.
            input_type: Purpose of the texts, which chooses the prompt if the model expects one.

        Returns:
            (B, D) float32, normalized.

        Raises:
            TextError: A text is blank or has too many characters.
            TaskMissing: The bundle has no text graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("text")
        texts = self.add_prompt(texts, input_type)
        if self._text_embedder is not None:
            return self._text_embedder(self, texts)
        return self._run_text_graph("text", texts, None)["vector"]

    def embed_video(self, streams: Streams) -> VideoEmbedding:
        """Embed B videos of C clips each.

        Args:
            streams: Frames by stream name, (B, C, F, H, W, 3) uint8 RGB, as ``sample_streams`` makes them (without B).

        Raises:
            InvalidInput: Names, dtypes or shapes differ from the manifest.
            TaskMissing: The bundle has no video graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("video")
        count = batch_size_of_streams(self.streams, streams)
        manifest = self.bundle.manifest
        vectors = np.empty((count, manifest.vector_width), np.float32)
        tokens = np.empty((count, manifest.visual_tokens, manifest.visual_width), np.float32)
        for rows in self._batches(count):
            inputs = {s.name: np.ascontiguousarray(streams[s.name][rows]) for s in manifest.streams}
            results = self._graphs.run("video", inputs)
            tokens[rows] = results["visual_tokens"]
            if manifest.vector_width:
                vectors[rows] = results["vector"]
        return VideoEmbedding(vectors, tokens)

    def embed_audio(self, sounds: Sequence[Samples]) -> AudioEmbedding:
        """Embed B sounds. Of one that is longer than a window, the mean of equal windows without silent ones.

        Args:
            sounds: Mono samples (N,) from -1 to 1 at the sample rate of the bundle's audio stream, of any N each, as
                ``read_audio`` returns them.

        Raises:
            InvalidInput: A sound has another shape or dtype, values out of range, or is silent.
            TaskMissing: The bundle has no audio graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("audio")
        check_sounds(sounds)
        return self._embed_sounds(enumerate(sounds), len(sounds))[0]

    @property
    def fuses_audio(self) -> bool:
        """Return whether matching and answers can use sound."""
        audio = self.bundle.manifest.audio
        return audio is not None and audio.fused

    def match(
        self,
        texts: Sequence[str],
        visual_tokens: NDArray[np.floating],
        audio_tokens: NDArray[np.floating] | None = None,
    ) -> Match:
        """Match B pairs of ``texts[i]`` and ``visual_tokens[i]``.

        Args:
            texts: B texts.
            visual_tokens: (B, V, K) of any float dtype; 0 for clips without a picture, if the model ``fuses_audio``.
            audio_tokens: (B, T, A) of any float dtype, if the model ``fuses_audio``; 0 for clips without sound. None:
                no clip has sound.

        Raises:
            TextError: A text is blank or too long.
            InvalidInput: Tokens have another shape or dtype, or the model does not take those of sound.
            TaskMissing: The bundle has no match graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("match")
        logits = self._run_text_graph("match", texts, visual_tokens, audio_tokens)["match_logit"]
        return Match(logits, match_probability(self.calibration, logits).astype(np.float32))

    def fused_score(self, similarity: NDArray[np.floating], match_logits: NDArray[np.floating]) -> Floats:
        """Combine cosines (B,) and match logits (B,) to the scores that reranked results are ordered by.

        Returns:
            (B,) float32, from 0 to 1.

        Raises:
            InvalidInput: Shapes differ.
        """
        if np.shape(similarity) != np.shape(match_logits):
            raise InvalidInput(
                f"similarity {np.shape(similarity)} and match_logits {np.shape(match_logits)}: "
                "equal shapes were expected"
            )
        return fused_score(self.calibration, similarity, match_logits).astype(np.float32)

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: NDArray[np.floating],
        top: int = 5,
        candidate_ids: Sequence[int] | None = None,
        audio_tokens: NDArray[np.floating] | None = None,
    ) -> list[list[Answer]]:
        """Answer ``questions[i]`` about ``visual_tokens[i]`` from the answer vocabulary.

        Args:
            questions: B questions.
            visual_tokens: (B, V, K) of any float dtype.
            top: Maximum answers per question.
            candidate_ids: Indices into ``bundle.answers`` to choose from; probabilities are among these. None: all.
            audio_tokens: As in ``match``.

        Returns:
            Up to ``top`` answers per question, most probable first.

        Raises:
            TextError: A question is blank or too long.
            InvalidInput: An argument is out of range, or the bundle has no vocabulary.
            TaskMissing: The bundle has no answer graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("answer")
        vocabulary = self.bundle.answers
        if not vocabulary:
            raise InvalidInput("candidates: none; at least one was expected, since the model has no answer vocabulary")
        entries = np.arange(len(vocabulary)) if candidate_ids is None else np.array(candidate_ids, np.int64)
        if not len(entries) or entries.min() < 0 or entries.max() >= len(vocabulary):
            raise InvalidInput(
                f"candidate_ids: {candidate_ids!r}; indices from 0 to {len(vocabulary) - 1} were expected"
            )
        texts = [vocabulary[entry] for entry in entries]
        if self.scores_free_form_answers:
            return self.answer_from_candidates(questions, visual_tokens, texts, top, audio_tokens)
        logits = self.answer_logits(questions, visual_tokens, audio_tokens=audio_tokens)
        return self._top_k(logits[:, entries], texts, top)

    def answer_from_candidates(
        self,
        questions: Sequence[str],
        visual_tokens: NDArray[np.floating],
        candidates: Sequence[str],
        top: int = 5,
        audio_tokens: NDArray[np.floating] | None = None,
    ) -> list[list[Answer]]:
        """Answer from free-form candidates, where the model ``scores_free_form_answers``; otherwise as ``answer``."""
        return self._top_k(self.answer_logits(questions, visual_tokens, candidates, audio_tokens), candidates, top)

    def answer_logits(
        self,
        questions: Sequence[str],
        visual_tokens: NDArray[np.floating],
        candidates: Sequence[str] | None = None,
        audio_tokens: NDArray[np.floating] | None = None,
    ) -> Floats:
        """Score answers to ``questions[i]`` about ``visual_tokens[i]``.

        Args:
            questions: B questions.
            visual_tokens: (B, V, K) of any float dtype.
            candidates: Free-form answers, where the model ``scores_free_form_answers``; ignored otherwise.
            audio_tokens: As in ``match``.

        Returns:
            (B, N) float32: a logit per entry of the vocabulary; or the log-likelihood of each candidate, very low for
            candidates with an improbable first token.

        Raises:
            TextError: A text is blank or too long.
            InvalidInput: Tokens have another shape or dtype, the model does not take those of sound, or a candidate
                has too many tokens.
            TaskMissing: The bundle has no answer graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("answer")
        if not self.scores_free_form_answers:
            return self._run_text_graph("answer", questions, visual_tokens, audio_tokens)["answer_logits"]
        check_texts(questions)
        tokens = self._fused_tokens(len(questions), visual_tokens, audio_tokens)
        candidate_inputs = self._encode_candidates(candidates or ())
        logits = np.empty((len(questions), candidate_inputs[ANSWER_IDS].shape[1]), np.float32)
        for batch in self.text_batches(questions, 1):  # the candidates of one question fill a run
            inputs = {**batch.inputs, **_rows(tokens, batch.rows), **candidate_inputs}
            logits[batch.rows] = self._graphs.run("answer", inputs)["answer_logits"]
        return logits

    @property
    def moment_windows(self) -> MomentWindows:
        """Windows of a video that ``find_moments`` takes. Raises TaskMissing if the bundle has no moments graph."""
        self._graphs.ensure_loaded("moments")
        windows = self.bundle.manifest.moments
        assert windows is not None
        return windows

    def find_moments(
        self,
        texts: Sequence[str],
        windows: NDArray[np.floating],
        spans: Sequence[tuple[float, float]] | None = None,
        top: int = 5,
    ) -> list[MomentResult]:
        """Find the spans of a video of which texts are true, as ``moments.find_moments``."""
        return find_moments(self, texts, windows, spans, top)

    @property
    def caption_decoder(self) -> CaptionDecoder:
        """Decoder that ``generate_captions`` uses. Raises TaskMissing if the bundle has no caption graphs."""
        self._graphs.ensure_loaded("caption_step")
        decoder = self.bundle.manifest.captions
        assert decoder is not None
        return decoder

    def generate_captions(
        self,
        visual_tokens: NDArray[np.floating],
        audio_tokens: NDArray[np.floating] | None = None,
        options: CaptionOptions = DEFAULT_OPTIONS,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> list[list[Caption]]:
        """Generate captions of B clips.

        Args:
            visual_tokens: (B, V, K) of any float dtype.
            audio_tokens: As in ``match``.
            options: Decoding, such as beams or sampling, and the number of captions.
            is_cancelled: Called before each token; generation ends with ``CancelledError`` if it returns True.

        Returns:
            Up to ``options.count`` captions per clip, best first.

        Raises:
            InvalidInput: Tokens have another shape or dtype, the model does not take those of sound, or
                ``options.max_tokens`` is larger than the bundle's.
            TaskMissing: The bundle has no caption graphs.
            EngineError: A run failed.
        """
        decoder = self.caption_decoder
        tokens = self._fused_tokens(len(visual_tokens), visual_tokens, audio_tokens)
        return generate_captions(self, decoder, tokens, options, is_cancelled)

    def embed_file(
        self,
        path: str | os.PathLike[str],
        clips: Sequence[tuple[float, float]] | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> FileEmbedding:
        """Embed the pictures and the sound of clips of a media file, as far as the file and the bundle have them.

        Sound that cannot be decoded is left out of a file with pictures.

        Args:
            path: Video, image or sound file.
            clips: (start, end) of each clip in s; the whole file by default.
            limits: Limits of the decoder.

        Raises:
            MediaError: The file cannot be decoded.
            InvalidInput: A clip is outside the file.
            TaskMissing: The bundle has no graph for anything that the file has.
            EngineError: A run failed.
        """
        file = Path(path)
        info = self.decoder.probe(file, limits)
        spans = [(0.0, info.duration)] if clips is None else list(clips)
        graphs = self.bundle.manifest.graphs
        audio, clips_with_sound = None, np.zeros(0, np.int64)
        if info.kind == "audio" or (info.audio is not None and ("audio" in graphs or "video" not in graphs)):
            try:
                audio, clips_with_sound = self.embed_audio_file(file, spans, limits)
            except MediaError as error:
                if info.kind == "audio" or "video" not in graphs:
                    raise
                _log.warning("the sound is left out: %s", error)
        has_video = info.kind != "audio" and ("video" in graphs or info.audio is None)
        video = self.embed_video_file(file, spans, limits) if has_video else None
        return FileEmbedding(video, audio if len(clips_with_sound) else None, clips_with_sound)

    def embed_audio_file(
        self,
        file: MediaSource,
        clips: Sequence[tuple[float, float]] | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> tuple[AudioEmbedding, NDArray[np.int64]]:
        """Embed the sound of clips of a media file.

        Args:
            file: Sound or video file, by path or open.
            clips: (start, end) of each clip in s; the whole file by default.
            limits: Limits of the decoder.

        Returns:
            One row per clip that is not silent; and the positions of these clips, ascending.

        Raises:
            MediaError: The file cannot be decoded.
            InvalidInput: A clip ends before its start.
            TaskMissing: The bundle has no audio graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("audio")
        spans = [(0.0, self.decoder.probe(file, limits).duration)] if clips is None else list(clips)
        sounds = read_sounds(self.decoder, file, spans, self._audio_stream, limits)
        return self._embed_sounds(sounds, len(spans))

    def embed_video_file(
        self,
        path: str | os.PathLike[str],
        clips: Sequence[tuple[float, float]] | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> VideoEmbedding:
        """Embed the pictures of clips of a media file.

        Args:
            path: Video or image file.
            clips: (start, end) of each clip in s; the whole file by default.
            limits: Limits of the decoder.

        Returns:
            One row per clip.

        Raises:
            MediaError: The file cannot be decoded, or has no pictures.
            InvalidInput: A clip is outside the file.
            TaskMissing: The bundle has no video graph.
            EngineError: The run failed.
        """
        self._graphs.ensure_loaded("video")
        file = Path(path)
        spans = [(0.0, self.decoder.probe(file, limits).duration)] if clips is None else list(clips)
        streams = self.bundle.manifest.streams
        parts = []
        for first in range(0, max(1, len(spans)), _CLIPS_PER_BATCH):
            batch = spans[first : first + _CLIPS_PER_BATCH]
            frames = self.decoder.sample(file, streams, batch, limits).frames
            parts.append(self.embed_video({name: array[:, None] for name, array in frames.items()}))
        return VideoEmbedding(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.visual_tokens for part in parts]),
        )

    @property
    def _audio_stream(self) -> AudioStream:
        stream = self.bundle.manifest.audio
        assert stream is not None
        return stream

    def _embed_sounds(
        self, sounds: Iterable[tuple[int, Samples]], count: int
    ) -> tuple[AudioEmbedding, NDArray[np.int64]]:
        """Embed ``count`` sounds, whose samples come with the position of the sound, in one or more parts.

        Returns:
            The embeddings of sounds that are not silent, and their positions.
        """
        stream, shapes = self._audio_stream, self._graphs.output_shapes("audio")
        sums = {name: np.zeros((count, *shape)) for name, shape in shapes.items()}
        windows = np.zeros(count, np.int64)
        for positions, inputs in batched_inputs(cut_windows(stream, sounds), self.batch_size):
            for name, array in self._graphs.run("audio", inputs).items():
                np.add.at(sums[name], positions, array)
            np.add.at(windows, positions, 1)
        rows = np.flatnonzero(windows)
        norms = np.linalg.norm(sums["vector"][rows], axis=1, keepdims=True)
        vectors = (sums["vector"][rows] / np.maximum(norms, 1e-12)).astype(np.float32)
        tokens = None
        if stream.tokens:
            tokens = (sums["audio_tokens"][rows] / windows[rows, None, None]).astype(np.float32)
        return AudioEmbedding(vectors, tokens), rows

    def _fused_tokens(
        self, count: int, visual_tokens: NDArray[np.floating], audio_tokens: NDArray[np.floating] | None
    ) -> dict[str, Floats]:
        """Return the tokens of ``count`` clips, by the names of the inputs of the match and answer graphs."""
        manifest = self.bundle.manifest
        tokens = {"visual_tokens": check_visual_tokens(manifest, count, visual_tokens)}
        if self.fuses_audio or audio_tokens is not None:
            tokens[AUDIO_TOKENS] = check_audio_tokens(manifest, count, audio_tokens)
        return tokens

    def _run_text_graph(
        self,
        graph: str,
        texts: Sequence[str],
        visual_tokens: NDArray[np.floating] | None,
        audio_tokens: NDArray[np.floating] | None = None,
    ) -> dict[str, Floats]:
        """Run a graph in batches on texts, with the tokens of one clip per text if it takes them."""
        check_texts(texts)
        tokens = {} if visual_tokens is None else self._fused_tokens(len(texts), visual_tokens, audio_tokens)
        shapes = self._graphs.output_shapes(graph)
        results = {name: np.empty((len(texts), *shape), np.float32) for name, shape in shapes.items()}
        for batch in self.text_batches(texts):
            for name, array in self._graphs.run(graph, {**batch.inputs, **_rows(tokens, batch.rows)}).items():
                results[name][batch.rows] = array
        return results

    def _encode_candidates(self, candidates: Sequence[str]) -> dict[str, Array]:
        """Return answer_ids and answer_mask, each (1, N, M) int64."""
        check_texts(candidates)
        if not candidates:
            raise InvalidInput("candidates: none; at least one was expected")
        ids, mask = self.tokenizer.encode(candidates)
        max_length = self.bundle.manifest.answer_length or 0
        lengths = mask.sum(axis=1)
        if lengths.max() > max_length:
            index = int(lengths.argmax())
            raise InvalidInput(
                f"candidates[{index}]: {candidates[index][:40]!r} is {lengths[index]} tokens long; at most "
                f"{max_length} were expected"
            )
        return {ANSWER_IDS: ids[None], ANSWER_MASK: mask[None]}

    def _top_k(self, logits: Floats, texts: Sequence[str], top: int) -> list[list[Answer]]:
        """Return the ``top`` most probable of N texts for each row of ``logits`` (B, N)."""
        if top < 1:
            raise InvalidInput(f"top: {top}; at least 1 was expected")
        probabilities = answer_probabilities(self.calibration, logits)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Answer(texts[index], float(row[index])) for index in order]
            for row, order in zip(probabilities, best, strict=True)
        ]

    def _batches(self, count: int) -> list[slice]:
        return [slice(first, first + self.batch_size) for first in range(0, count, self.batch_size)]


def _rows(arrays: Mapping[str, Floats], rows: NDArray[np.int64]) -> dict[str, Array]:
    """Return some rows of arrays, by name."""
    return {name: array[rows] for name, array in arrays.items()}
