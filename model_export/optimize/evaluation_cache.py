"""Cached encodings of validation splits by a bundle, and its accuracy when some graphs run on other engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model_export.export import MAX_EXAMPLES
from model_export.optimize.validation_scores import (
    CaptionPairs,
    Corpus,
    EmbeddedVideos,
    Scores,
    answer_accuracy,
    caption_accuracy,
    embed_captions,
    embed_videos,
    hard_caption_pairs,
    recall_at_1,
    sound_recall_at_1,
)
from model_export.parity.checks import Embedded
from model_export.parity.variants import BundleOutputs
from training.data.packed import PACK_NAME, open_packed
from training.evaluation.encoder import embed_corpus, streams_of
from training.evaluation.sound import EmbeddedSounds, embed_sounds, is_packed_for, packed_sounds
from vitascope.bundle.graph_specs import AUDIO_TOKENS
from vitascope.engines.graphs import GraphRunner
from vitascope.engines.onnx_runtime import Array, Engine, Placement
from vitascope.errors import InvalidInput
from vitascope.model import Model

CALIBRATION_CLIPS, CALIBRATION_TEXTS = 64, 256
"""Number of inputs for measuring calibration ranges."""
BATCH_SIZE = 8
SAMPLE_SIZE = 8
"""Number of inputs for measuring the sensitivity of each node."""

Videos = dict[str, EmbeddedVideos]
"""By corpus."""
Sounds = dict[str, EmbeddedSounds]
"""By corpus with sound."""
Texts = dict[str, np.ndarray]
"""Caption embeddings (T, D) by corpus."""


def open_corpora(model: Model, data: Path) -> list[Corpus]:
    """Open the validation splits in `data` that the model can read: by their streams, or their sounds.

    Raises InvalidInput if there are none.
    """
    corpora, audio = [], model.bundle.manifest.audio
    for path in sorted(data.glob(f"*/val/{PACK_NAME}")):
        packed = open_packed(path.parent)
        if packed.sound_alone:
            fits = audio is not None and is_packed_for(packed, audio)
        else:
            fits = bool(model.streams) and not packed.stream_mismatches(model.streams)
        if fits:
            packed = replace(packed, examples=packed.examples[:MAX_EXAMPLES])
            corpora.append(Corpus.from_packed(path.parent.parent.name, packed))
    if not any(corpus.captions for corpus in corpora):
        raise InvalidInput(
            f"data: {data} has no validation split with captions whose streams fit this bundle; "
            f"{data}/CORPUS/val of `vitascope prepare` was expected"
        )
    return corpora


class EvalCache:
    """Encodings and scores of one bundle on its validation splits.

    Methods with an argument `engines` run the named graphs on these engines, and the other graphs as stored.
    """

    def __init__(
        self, model: Model, corpora: Sequence[Corpus], pairs: Mapping[str, CaptionPairs] | None = None
    ) -> None:
        """Encode all corpora.

        Args:
            model: Model of the bundle.
            corpora: Validation splits.
            pairs: Caption pairs by corpus for the match graph; None: pairs that are hard for this model.
        """
        self.model, self.corpora, self.audio = model, corpora, model.bundle.manifest.audio
        self.seen = [corpus for corpus in corpora if not corpus.packed.sound_alone]
        self.heard = [corpus for corpus in corpora if self.audio and is_packed_for(corpus.packed, self.audio)]
        self.captioned = [corpus for corpus in self.seen if corpus.captions]
        self.videos = self.embed_videos({})
        self.sounds = self.embed_sounds({})
        self.texts = self.embed_captions({})
        self.pairs = pairs or {
            c.name: hard_caption_pairs(c, self.videos[c.name], self.texts[c.name]) for c in self.captioned
        }
        self.scores = self.recall(self.videos, self.texts, self.sounds)
        self.scores |= self.caption_accuracy({}, self.videos, self.sounds)
        self.scores |= self.answer_accuracy({}, self.videos, self.sounds)

    def embed_videos(self, engines: Mapping[str, Engine]) -> Videos:
        model = with_engines(self.model, engines)
        return {corpus.name: embed_videos(model, corpus) for corpus in self.seen}

    def embed_sounds(self, engines: Mapping[str, Engine]) -> Sounds:
        model = with_engines(self.model, engines)
        return {corpus.name: embed_sounds(model, corpus.packed) for corpus in self.heard}

    def embed_captions(self, engines: Mapping[str, Engine]) -> Texts:
        model = with_engines(self.model, engines)
        return {corpus.name: embed_captions(model, corpus) for corpus in self.corpora if corpus.captions}

    def recall(self, videos: Videos, texts: Texts, sounds: Sounds) -> Scores:
        by_sight = _merge(recall_at_1(c, videos[c.name], texts[c.name]) for c in self.captioned)
        captioned = (c for c in self.heard if c.captions)
        return by_sight | _merge(sound_recall_at_1(c, sounds[c.name], texts[c.name]) for c in captioned)

    def caption_accuracy(self, engines: Mapping[str, Engine], videos: Videos, sounds: Sounds) -> Scores:
        if "matching" not in self.model.tasks:
            return {}
        model = with_engines(self.model, engines)
        return _merge(
            caption_accuracy(model, c, videos[c.name], self.pairs[c.name], audio_tokens(sounds, c))
            for c in self.captioned
        )

    def answer_accuracy(self, engines: Mapping[str, Engine], videos: Videos, sounds: Sounds) -> Scores:
        if "answering" not in self.model.tasks:
            return {}
        model = with_engines(self.model, engines)
        return _merge(answer_accuracy(model, c, videos[c.name], audio_tokens(sounds, c)) for c in self.seen)

    def outputs(self, corpus: Corpus) -> BundleOutputs:
        name = corpus.name
        return BundleOutputs(self.model, self.videos.get(name), self.texts.get(name), self.sounds.get(name))

    def embedded(self) -> dict[str, Embedded]:
        """Return all corpora with pictures, with one embedding per video, for calibration."""
        embedded = {}
        for corpus in self.seen:
            vectors, tokens = self.videos[corpus.name].gallery.vectors, self.videos[corpus.name].tokens
            if vectors.ndim == 3:  # one per clip; fused scores combine the match with that of the whole video
                vectors, _ = embed_corpus(self.model, corpus.packed)
            embedded[corpus.name] = Embedded(corpus.packed, vectors, tokens, None)
        return embedded

    def calibration_inputs(self, graph: str) -> Iterator[dict[str, Array]]:
        """Yield batches of inputs of a graph, equally many from each corpus that has inputs for the graph."""
        corpora = self._readable_by(graph)
        for corpus in corpora:
            size = CALIBRATION_CLIPS if graph in ("video", "audio") else CALIBRATION_TEXTS
            count = max(1, size // len(corpora))
            rows = np.unique(np.linspace(0, len(corpus.packed.examples) - 1, count).astype(int))
            for start in range(0, len(rows), BATCH_SIZE):
                yield self._inputs(graph, corpus, rows[start : start + BATCH_SIZE])

    def sample_inputs(self, graph: str) -> dict[str, Array]:
        """Return a few inputs of a graph, from the first corpus that has such inputs, if possible with captions."""
        corpora = self._readable_by(graph)
        corpus = next((corpus for corpus in corpora if corpus.captions), corpora[0])
        rows = np.unique(np.linspace(0, len(corpus.packed.examples) - 1, SAMPLE_SIZE).astype(int))
        return self._inputs(graph, corpus, rows)

    def can_measure(self, graph: str) -> bool:
        """Return whether any corpus has inputs for a graph."""
        return bool(self._readable_by(graph))

    def _readable_by(self, graph: str) -> Sequence[Corpus]:
        return {"text": self.corpora, "audio": self.heard}.get(graph, self.seen)

    def _inputs(self, graph: str, corpus: Corpus, rows: np.ndarray) -> dict[str, Array]:
        if graph == "video":
            return {**streams_of(corpus.packed, rows, self.model.streams)}
        if graph == "audio":
            assert self.audio is not None
            return packed_sounds(corpus.packed, rows, self.audio)
        texts = [_first_text(corpus, int(row)) for row in rows]
        (batch,) = self.model.text_batches(texts, len(texts))
        inputs = dict(batch.inputs)
        if graph != "text":
            selected = rows[batch.rows]
            inputs["visual_tokens"] = self.videos[corpus.name].tokens[selected].astype(np.float32)
            if self.audio is not None and self.audio.fused:
                audio = audio_tokens(self.sounds, corpus)
                silence = np.zeros((len(rows), self.audio.tokens, self.audio.width), np.float32)
                inputs[AUDIO_TOKENS] = silence if audio is None else audio[selected].astype(np.float32)
        return inputs


def audio_tokens(sounds: Sounds, corpus: Corpus) -> np.ndarray | None:
    """Return the audio tokens (N, T, A) of a corpus; None without any."""
    embedded = sounds.get(corpus.name)
    return None if embedded is None else embedded.tokens


def with_engines(model: Model, engines: Mapping[str, Engine]) -> Model:
    """Return a copy of `model` that runs the named graphs on other engines."""
    return model.with_overrides(lambda runner: _EngineOverride(runner, engines))


class _EngineOverride:
    """GraphRunner that runs some graphs on other engines."""

    def __init__(self, runner: GraphRunner, engines: Mapping[str, Engine]) -> None:
        self.runner, self.engines = runner, engines

    @property
    def names(self) -> list[str]:
        return self.runner.names

    @property
    def placements(self) -> dict[str, Placement]:
        return self.runner.placements | {graph: engine.placement for graph, engine in self.engines.items()}

    def ensure_loaded(self, graph: str) -> None:
        self.runner.ensure_loaded(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.engines[graph].run(inputs) if graph in self.engines else self.runner.run(graph, inputs)

    def output_shapes(self, graph: str) -> dict[str, tuple[int, ...]]:
        return self.runner.output_shapes(graph)


def _first_text(corpus: Corpus, row: int) -> str:
    example = corpus.packed.examples[row]
    texts = [*example.captions[:1], *(question.question for question in example.questions[:1])]
    return texts[0] if texts else "a video"


def _merge(parts: Iterator[Scores]) -> Scores:
    return {name: score for part in parts for name, score in part.items()}
