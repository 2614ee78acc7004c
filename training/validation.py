"""Validation during training: retrieval and answers on validation splits, in at most a minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from training.data.packed import Packed, open_packed
from training.evaluation.answers import exact_answers
from training.evaluation.encoder import TorchEncoder
from training.evaluation.gallery import embed_gallery, merge_temperature
from training.evaluation.retrieval import caption_retrieval
from training.models.fusion import FusedModel
from training.recipe import Recipe
from vitascope.tokenizer import Tokenizer

LIMIT = 500
"""Validation examples per corpus; a full evaluation uses them all."""


def validator(recipe: Recipe, data: Path) -> Callable[[FusedModel, list[str], Path], dict[str, float]]:
    """Return a function that evaluates a model on the recipe's validation corpora.

    It takes (model, answers, tokenizer file) and returns metrics by `corpus metric`.
    """
    corpora = {name: _first(open_packed(data / name / "val"), LIMIT) for name in recipe.validate_on}

    def measure(model: FusedModel, answers: list[str], tokenizer: Path) -> dict[str, float]:
        encoder = TorchEncoder(model, Tokenizer.open(tokenizer, max_length=model.cfg.text_length), answers)
        out: dict[str, float] = {}
        for name, packed in corpora.items():
            videos, tokens = embed_gallery(encoder, packed, merge_temperature(model.cfg))
            if any(e.captions for e in packed.examples):
                scores = caption_retrieval(encoder, packed, videos, captions=1)
                out |= {f"{name} {k}": round(v, 2) for k, v in scores.items() if k in ("t2v R@1", "v2t R@1")}
            if answers and name in recipe.answers_from:
                exact = exact_answers(encoder, packed, tokens)
                out |= {f"{name} {k}": round(v, 2) for k, v in exact.items() if k.startswith("exact")}
        return out

    return measure


def _first(packed: Packed, count: int) -> Packed:
    return replace(packed, examples=packed.examples[:count])
