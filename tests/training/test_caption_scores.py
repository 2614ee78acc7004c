"""RefCLIPScore and EMScore over a corpus are those of the runtime, caption by caption."""

from __future__ import annotations

import pytest

from tests.vitascope.test_model import colour_streams
from training.evaluation.captions import refclipscores, still_emscores
from vitascope.model import Model, VideoEmbedding
from vitascope.scoring import FrameEmbeddings, score_captions

TEXTS = ["a red ball", "a blue thing", "the dog"]
REFERENCES = [["red", "a cat"], ["a green ball", "blue"], ["a dog"]]


def test_scores_over_a_corpus_are_those_of_single_captions(small_model: Model) -> None:
    seen = small_model.embed_video(colour_streams("red", "blue", "red"))
    similarity = (small_model.embed_text(TEXTS) * seen.vectors).sum(axis=1)
    by_references = refclipscores(small_model, TEXTS, similarity, REFERENCES)
    by_words = still_emscores(small_model, TEXTS, similarity, seen.vectors)
    for i, (text, references) in enumerate(zip(TEXTS, REFERENCES, strict=True)):
        clip = VideoEmbedding(seen.vectors[i : i + 1], seen.visual_tokens[i : i + 1])
        frames = FrameEmbeddings([0.0], seen.vectors[i : i + 1])
        alone = score_captions(small_model, clip, [text], references, frames)[0]
        assert by_references[i] == pytest.approx(alone.refclipscore, abs=1e-6)
        assert alone.emscore is not None
        assert by_words[i] == pytest.approx(alone.emscore.score, abs=1e-6)
