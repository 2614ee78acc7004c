"""Validation splits as a bundle sees them, and what is lost where some of its graphs compute otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model_export.export import LIMIT
from model_export.optimize.compare import Side
from model_export.optimize.swapped import with_graphs
from model_export.optimize.validation_scores import (
    Corpus,
    Pairs,
    Seen,
    Shares,
    answered,
    hard_captions,
    judged,
    read,
    retrieved,
    seen,
)
from model_export.parity.recall import Embedded
from training.data.packed import PACK_NAME, open_packed
from training.evaluation.embedding import embed_corpus, streams_of
from vitascope.engines.onnx_runtime import Array, Engine
from vitascope.errors import InvalidInput
from vitascope.model import Model

CLIPS, TEXTS = 64, 256
"""On whose values ranges are measured."""
BATCH = 8
SAMPLE = 8
"""Clips, or texts, on which the harm of each node is measured."""

Videos = dict[str, Seen]
"""By corpus."""
Texts = dict[str, np.ndarray]
"""Vectors (captions, D) by corpus."""


def open_corpora(model: Model, data: Path) -> list[Corpus]:
    """The validation splits in `data` that the model can see. Raises InvalidInput where there are none."""
    found = []
    for path in sorted(data.glob(f"*/val/{PACK_NAME}")):
        packed = open_packed(path.parent)
        if not packed.stream_mismatches(model.streams):
            found.append(Corpus.of(path.parent.parent.name, replace(packed, examples=packed.examples[:LIMIT])))
    if not any(corpus.captions for corpus in found):
        raise InvalidInput(
            f"data: {data} has no validation split with captions that this bundle can see; "
            f"{data}/CORPUS/val of `vitascope prepare` was expected"
        )
    return found


class Evidence:
    """Of one bundle. `model` runs its graphs as they are stored; other engines take their places by name."""

    def __init__(self, model: Model, corpora: Sequence[Corpus], pairs: Mapping[str, Pairs] | None = None) -> None:
        """pairs: what match graphs are asked, by corpus; None: what is hard for this model."""
        self.model, self.corpora = model, corpora
        self.videos = self.see({})
        self.texts = self.read({})
        self.pairs = pairs or {
            c.name: hard_captions(c, self.videos[c.name], self.texts[c.name]) for c in corpora if c.captions
        }
        self.shares = self.retrieved(self.videos, self.texts) | self.judged({}, self.videos)
        self.shares |= self.answered({}, self.videos)

    def see(self, engines: Mapping[str, Engine]) -> Videos:
        model = with_graphs(self.model, engines)
        return {corpus.name: seen(model, corpus) for corpus in self.corpora}

    def read(self, engines: Mapping[str, Engine]) -> Texts:
        model = with_graphs(self.model, engines)
        return {corpus.name: read(model, corpus) for corpus in self.corpora if corpus.captions}

    def retrieved(self, videos: Videos, texts: Texts) -> Shares:
        told = [corpus for corpus in self.corpora if corpus.captions]
        return _joined(retrieved(c, videos[c.name], texts[c.name]) for c in told)

    def judged(self, engines: Mapping[str, Engine], videos: Videos) -> Shares:
        if "matching" not in self.model.tasks:
            return {}
        model = with_graphs(self.model, engines)
        told = [corpus for corpus in self.corpora if corpus.captions]
        return _joined(judged(model, c, videos[c.name], self.pairs[c.name]) for c in told)

    def answered(self, engines: Mapping[str, Engine], videos: Videos) -> Shares:
        if "answering" not in self.model.tasks:
            return {}
        model = with_graphs(self.model, engines)
        return _joined(answered(model, c, videos[c.name]) for c in self.corpora)

    def side(self, corpus: Corpus) -> Side:
        """What the bundle gives of a corpus, to be compared with what another gives."""
        return Side(self.model, self.videos[corpus.name], self.texts.get(corpus.name))

    def embedded(self) -> dict[str, Embedded]:
        """All corpora, one vector a video, for fitting probabilities."""
        out = {}
        for corpus in self.corpora:
            vectors, tokens = self.videos[corpus.name].gallery.vectors, self.videos[corpus.name].tokens
            if vectors.ndim == 3:  # of each clip; what is served with a match is one of the whole video
                vectors, _ = embed_corpus(self.model, corpus.packed)
            out[corpus.name] = Embedded(corpus.packed, vectors, tokens, None)
        return out

    def calibration(self, graph: str) -> Iterator[dict[str, Array]]:
        """Inputs of a graph from all corpora alike."""
        for corpus in self.corpora:
            count = max(1, (CLIPS if graph == "video" else TEXTS) // len(self.corpora))
            rows = np.unique(np.linspace(0, len(corpus.packed.examples) - 1, count).astype(int))
            for start in range(0, len(rows), BATCH):
                yield self._inputs(graph, corpus, rows[start : start + BATCH])

    def sample(self, graph: str) -> dict[str, Array]:
        """Some inputs of a graph, from the first corpus with captions."""
        corpus = next(corpus for corpus in self.corpora if corpus.captions)
        rows = np.unique(np.linspace(0, len(corpus.packed.examples) - 1, SAMPLE).astype(int))
        return self._inputs(graph, corpus, rows)

    def _inputs(self, graph: str, corpus: Corpus, rows: np.ndarray) -> dict[str, Array]:
        if graph == "video":
            return {**streams_of(corpus.packed, rows, self.model.streams)}
        said = [_text(corpus, int(row)) for row in rows]
        (batch,) = self.model.text_batches(said, len(said))
        inputs = dict(batch.inputs)
        if graph != "text":
            inputs["visual_tokens"] = self.videos[corpus.name].tokens[rows[batch.rows]].astype(np.float32)
        return inputs


def _text(corpus: Corpus, row: int) -> str:
    example = corpus.packed.examples[row]
    said = [*example.captions[:1], *(question.question for question in example.questions[:1])]
    return said[0] if said else "a video"


def _joined(parts: Iterator[Shares]) -> Shares:
    return {name: share for part in parts for name, share in part.items()}
