"""A loaded bundle: embed texts, videos and sounds, match pairs, answer questions.

Shape letters: B videos, texts, sounds or pairs, C clips, F frames, H height, W width (pixels), V visual tokens, K their
width, T audio tokens, A their width, L text tokens, D embedding dim, N answers, M tokens of an answer.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitascope.answering import Answer, answer_from_vocabulary, score_answers, top_answers
from vitascope.audio_windows import Samples, check_sounds, read_sounds
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import ENTAILMENT_LOGITS, random_inputs
from vitascope.bundle.manifest import CAPTION_GRAPHS, Calibration, FrameStream, InputType, Task
from vitascope.bundle.parts import CaptionDecoder, GroundingGrid, MomentWindows
from vitascope.captions import DEFAULT_OPTIONS, Caption, CaptionOptions, generate_captions
from vitascope.embeddings import (
    AudioEmbedding,
    FileEmbedding,
    Floats,
    VideoEmbedding,
    embed_clips,
    embed_file,
    embed_sounds,
    embed_video,
)
from vitascope.engines.graphs import GraphRunner, Graphs
from vitascope.engines.onnx_runtime import Array, Device, Placement
from vitascope.entailment import Entailment, entailment_of
from vitascope.errors import InvalidInput
from vitascope.grounding import Grounding, ground
from vitascope.input_validation import Streams, check_spans, check_texts, check_tokens, check_visual_tokens
from vitascope.integrations.kserve import ONNXRUNTIME, served_name, server_url
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.moments import MomentResult, find_moments
from vitascope.scoring import Match, fused_score, match_probability
from vitascope.tokenizer import MAX_CHARACTERS, TextBatch, length_sorted_batches

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.sandbox.decoder import Decoder

T = TypeVar("T")
Tokens = NDArray[np.floating]
Clips = Sequence[tuple[float, float]]
"""Start and end of each clip in s."""
TextEmbedder = Callable[["Model", Sequence[str]], Floats]
"""Function that returns embeddings (B, D) of texts including prompts, such as a cache of the model's embeddings."""


class Model:
    """A bundle with its graphs, which load on first use. Thread-safe.

    Arguments of its methods:
        visual_tokens: (B, V, K) of any float dtype, as ``embed_video`` returns them; 0 for clips without pictures, if
            the model ``fuses_audio``.
        audio_tokens: (B, T, A); 0 for clips without sound. None: no clip has sound, or the model does not fuse sound.
        path, file: Path of a media file, or an open one.
        clips: Start and end of each clip in s; None: the whole file.
        limits: Limits of the decoder.

    Errors of its methods:
        TextError: A text is blank or too long.
        InvalidInput: An argument is out of range, or has a wrong shape or dtype, or a clip is outside of the file.
        MediaError: A file cannot be decoded, or lacks the pictures or the sound that the method embeds.
        TaskMissing: The bundle has no graph for the task.
        EngineError: A run failed.
    """

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
            device: "auto", "cpu", "cuda" or "tensorrt"; see ``OnnxRuntimeEngine``.
            engine: ``onnxruntime``, or the URL of an inference server with the graphs (``kserve:http://triton:8000``);
                then ``threads`` and ``device`` have no effect.
            optimize: Optimize graphs when they are loaded, see ``OnnxRuntimeEngine``; False is faster for one search.
            batch_size: Maximum rows per run; larger batches are split.
            max_characters: Maximum length of a text in characters.

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
        """Open the bundle in a folder. Does not connect to a server.

        Args:
            path: Folder of the bundle.
            threads, device, engine, optimize: See the constructor.

        Raises:
            The errors of ``Bundle.open`` and of the constructor.
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
            wrap_runner: Called with the current graph runner; returns the runner to use.
            batch_size: Maximum rows per run.
            decoder: Decoder of media files.
            text_embedder: Called by ``embed_text`` instead of the text graph.
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
    def caption_matrix(self) -> Floats | None:
        """Matrix (D, D) by which CLIPScore multiplies text embeddings; None: it uses them unchanged."""
        return self.bundle.caption_matrix

    @property
    def scores_free_form_answers(self) -> bool:
        """Return whether the model can score any candidate answer, not only answers of its vocabulary."""
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
        """
        return self._graphs.run(graph, inputs)

    def text_batches(self, texts: Sequence[str], size: int | None = None) -> list[TextBatch]:
        """Tokenize texts into batches of similar length. ``size``: maximum texts per batch; None: ``batch_size``."""
        return length_sorted_batches(self.tokenizer, texts, size or self.batch_size)

    def warm_up(self) -> None:
        """Load every graph and run it once, so that the first request is as fast as later ones.

        Raises BundleCorrupt and EngineError for a graph that cannot be loaded or run.
        """
        rng = np.random.default_rng(0)
        for graph in self._graphs.names:
            self._graphs.ensure_loaded(graph)  # checks the manifest's sizes before inputs of them are allocated
            specs, _ = self.bundle.graph_spec(graph)
            self._graphs.run(graph, random_inputs(specs, rng, self.tokenizer.vocabulary_size))

    def add_prompt(self, texts: Sequence[str], input_type: InputType = "query") -> list[str]:
        """Return texts preceded by the prompt that the model expects for texts of this type."""
        check_texts(texts)
        prompts = self.bundle.manifest.prompts
        prompt = prompts.query if input_type == "query" else prompts.document
        if prompt:
            self.tokenizer.check(texts)  # a prompt is not blank
        return [prompt + text for text in texts] if prompt else list(texts)

    def embed_text(self, texts: Sequence[str], input_type: InputType = "query") -> Floats:
        """Embed texts. A text that, with its prompt, is longer than the bundle's text length (tokens) is truncated.

        Args:
            texts: B texts.
            input_type: Purpose of the texts; determines the prompt, if the model expects one.

        Returns:
            (B, D) float32, normalized.
        """
        self._graphs.ensure_loaded("text")
        texts = self.add_prompt(texts, input_type)
        if self._text_embedder is not None:
            return self._text_embedder(self, texts)
        return self.run_text_graph("text", texts, None)["vector"]

    def embed_video(self, streams: Streams) -> VideoEmbedding:
        """Embed B videos of C clips each; still pictures in two views if the bundle says so.

        Args:
            streams: Frames by stream name, (B, C, F, H, W, 3) uint8 RGB; ``sample_streams`` returns them without B.
        """
        self._graphs.ensure_loaded("video")
        return embed_video(self._graphs, self.bundle.manifest, streams, self.batch_size)

    def embed_audio(self, sounds: Sequence[Samples]) -> AudioEmbedding:
        """Embed B sounds. A sound that is longer than a window is the mean of its equal windows, except silent ones.

        Args:
            sounds: Mono samples (N,) from -1 to 1, not silent, at the sample rate of the bundle's audio stream, as
                ``read_audio`` returns them. N may differ between sounds.
        """
        stream = self._loaded("audio", self.bundle.manifest.audio)
        check_sounds(sounds)
        return embed_sounds(self._graphs, stream, enumerate(sounds), len(sounds), self.batch_size)[0]

    @property
    def fuses_audio(self) -> bool:
        """Return whether matching and answering can use sound."""
        audio = self.bundle.manifest.audio
        return audio is not None and audio.fused

    def match(self, texts: Sequence[str], visual_tokens: Tokens, audio_tokens: Tokens | None = None) -> Match:
        """Score how well ``texts[i]`` matches the clip of ``visual_tokens[i]``, for B pairs."""
        self._graphs.ensure_loaded("match")
        logits = self.run_text_graph("match", texts, visual_tokens, audio_tokens)["match_logit"]
        return Match(logits, match_probability(self.calibration, logits).astype(np.float32))

    def classify_entailment(
        self, texts: Sequence[str], visual_tokens: Tokens, audio_tokens: Tokens | None = None
    ) -> Entailment:
        """Classify ``texts[i]`` as entailed, neutral or contradicted by clip i, for B pairs."""
        self._graphs.ensure_loaded("entailment")
        logits = self.run_text_graph("entailment", texts, visual_tokens, audio_tokens)[ENTAILMENT_LOGITS]
        return entailment_of(logits)

    def fused_score(self, similarity: NDArray[np.floating], match_logits: NDArray[np.floating]) -> Floats:
        """Combine cosines (B,) and match logits (B,) to scores (B,), 0 to 1, by which reranked results are ordered."""
        return fused_score(self.calibration, similarity, match_logits).astype(np.float32)

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: Tokens,
        top: int = 5,
        candidate_ids: Sequence[int] | None = None,
        audio_tokens: Tokens | None = None,
    ) -> list[list[Answer]]:
        """Answer ``questions[i]`` about ``visual_tokens[i]`` from the answer vocabulary.

        Args:
            questions: B questions.
            top: Maximum number of answers per question.
            candidate_ids: Indices of the possible answers in ``bundle.answers``, over which probabilities are
                normalized; None: all answers.

        Returns:
            Up to ``top`` answers per question, most probable first.
        """
        self._graphs.ensure_loaded("answer")
        return answer_from_vocabulary(self, questions, visual_tokens, top, candidate_ids, audio_tokens)

    def answer_from_candidates(
        self,
        questions: Sequence[str],
        visual_tokens: Tokens,
        candidates: Sequence[str],
        top: int = 5,
        audio_tokens: Tokens | None = None,
    ) -> list[list[Answer]]:
        """Like ``answer``, with free-form ``candidates``. Needs a model that ``scores_free_form_answers``."""
        logits = self.answer_logits(questions, visual_tokens, candidates, audio_tokens)
        return top_answers(self.calibration, logits, candidates, top)

    def answer_logits(
        self,
        questions: Sequence[str],
        visual_tokens: Tokens,
        candidates: Sequence[str] | None = None,
        audio_tokens: Tokens | None = None,
    ) -> Floats:
        """Score answers to ``questions[i]`` about ``visual_tokens[i]``.

        Args:
            questions: B questions.
            candidates: Free-form answers, if the model ``scores_free_form_answers``; otherwise ignored.

        Returns:
            (B, N) float32: a logit per entry of the vocabulary, or the log-likelihood of each candidate (very low for
            candidates with an improbable first token).
        """
        self._graphs.ensure_loaded("answer")
        return score_answers(self, questions, visual_tokens, candidates, audio_tokens)

    @property
    def moment_windows(self) -> MomentWindows:
        """Window parameters of ``find_moments``. Raises TaskMissing if the bundle has no moments graph."""
        return self._loaded("moments", self.bundle.manifest.moments)

    def find_moments(
        self, texts: Sequence[str], windows: NDArray[np.floating], spans: Clips | None = None, top: int = 5
    ) -> list[MomentResult]:
        """Find the spans of a video in which texts are true; see ``moments.find_moments``."""
        return find_moments(self, texts, windows, spans, top)

    @property
    def caption_decoder(self) -> CaptionDecoder:
        """Caption decoder of the manifest. Raises TaskMissing if the bundle has no caption graphs."""
        return self._loaded("caption_step", self.bundle.manifest.captions)

    def generate_captions(
        self,
        visual_tokens: Tokens,
        audio_tokens: Tokens | None = None,
        options: CaptionOptions = DEFAULT_OPTIONS,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> list[list[Caption]]:
        """Generate captions of B clips.

        Args:
            options: Options of decoding, such as beams or sampling, and the number of captions.
            is_cancelled: Called before each token; generation ends with ``CancelledError`` if it returns True.

        Returns:
            Up to ``options.count`` captions per clip, best first.
        """
        decoder = self.caption_decoder
        tokens = check_tokens(self.bundle.manifest, len(visual_tokens), visual_tokens, audio_tokens)
        matches_sound = self.bundle.manifest.sound_reranking is not None  # as in searches
        return generate_captions(self, decoder, tokens, options, is_cancelled, matches_sound=matches_sound)

    @property
    def grounding_grid(self) -> GroundingGrid:
        """Description of the grounding graph's outputs. Raises TaskMissing if the bundle has no grounding graph."""
        return self._loaded("grounding", self.bundle.manifest.grounding)

    def ground(self, phrases: Sequence[str], visual_tokens: Tokens) -> list[Grounding]:
        """Locate the object that ``phrases[i]`` describes in the picture or middle frame of ``visual_tokens[i]``."""
        grid = self.grounding_grid
        check_texts(phrases)
        tokens = check_visual_tokens(self.bundle.manifest, len(phrases), visual_tokens)
        return ground(self, grid, phrases, tokens)

    def embed_file(
        self, path: MediaSource, clips: Clips | None = None, limits: MediaLimits = DEFAULT_LIMITS
    ) -> FileEmbedding:
        """Embed the pictures and the sound of clips of a media file, as far as the file and the bundle have them.

        If the sound of a file with pictures cannot be decoded, the sound is left out.
        """
        return embed_file(self, path, clips, limits)

    def embed_audio_file(
        self, file: MediaSource, clips: Clips | None = None, limits: MediaLimits = DEFAULT_LIMITS
    ) -> tuple[AudioEmbedding, NDArray[np.int64]]:
        """Embed the sound of clips of a media file.

        Returns:
            Embeddings with one row per clip that is not silent, and the ascending positions of these clips, int64.
        """
        stream = self._loaded("audio", self.bundle.manifest.audio)
        spans = [(0.0, self.decoder.probe(file, limits).duration)] if clips is None else check_spans(clips)
        sounds = read_sounds(self.decoder, file, spans, stream, limits)
        return embed_sounds(self._graphs, stream, sounds, len(spans), self.batch_size)

    def embed_video_file(
        self, path: MediaSource, clips: Clips | None = None, limits: MediaLimits = DEFAULT_LIMITS
    ) -> VideoEmbedding:
        """Embed the pictures of clips of a media file, one row per clip."""
        self._graphs.ensure_loaded("video")
        spans = [(0.0, self.decoder.probe(path, limits).duration)] if clips is None else list(clips)
        return VideoEmbedding.concatenate(embed_clips(self, path, spans, limits))

    def _loaded(self, graph: str, part: T | None) -> T:
        """Load a graph and return ``part``, its description in the manifest. Raises TaskMissing if that is None."""
        self._graphs.ensure_loaded(graph)
        assert part is not None
        return part

    def run_text_graph(
        self, graph: str, texts: Sequence[str], visual_tokens: Tokens | None, audio_tokens: Tokens | None = None
    ) -> dict[str, Floats]:
        """Run a graph on texts in batches. ``visual_tokens``, ``audio_tokens``: one clip per text, if needed."""
        check_texts(texts)
        tokens: Mapping[str, Array] = {}
        if visual_tokens is not None:
            tokens = check_tokens(self.bundle.manifest, len(texts), visual_tokens, audio_tokens)
        shapes = self._graphs.output_shapes(graph)
        results = {name: np.empty((len(texts), *shape), np.float32) for name, shape in shapes.items()}
        for batch in self.text_batches(texts):
            of_clips = {name: array[batch.rows] for name, array in tokens.items()}
            for name, array in self._graphs.run(graph, {**batch.inputs, **of_clips}).items():
                results[name][batch.rows] = array
        return results
