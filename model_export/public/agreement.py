"""Does the bundle, served, give what the model gives in its own library? From the text and the picture file on.

Tokenizer, decoding, resizing, normalization, padding and graphs take part, so that none of them can differ unnoticed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model_export.parity.checks import OutputCheck, ParityError, Tolerance, compare_output
from model_export.parity.variants import NEAR_TIE
from model_export.public import probes
from model_export.public.model import Original, OriginalAnswers, OriginalPairs, OriginalVectors
from model_export.weights import Precision
from vitascope.model import Model, VideoEmbedding

LIBRARY = Tolerance(max_difference=None, cosine=0.99999, recall=0.0)
"""At float32. Two libraries that resize a picture round a few of its pixels differently."""

Say = Callable[[str], None]


def check_agreement(
    runtime: Model,
    original: Original,
    precision: Precision,
    tolerance: Tolerance,
    *,
    texts: Sequence[str] = probes.TEXTS,
    pictures: Sequence[Image.Image] | None = None,
) -> list[OutputCheck]:
    """Texts and pictures (built-in ones by default) through the bundle and through the original library.

    Raises ParityError naming the first thing that differs: token numbers, a vector, a logit, or what comes first.
    """
    shown = probes.pictures() if pictures is None else list(pictures)
    check_tokens(runtime, original, texts)
    seen = [_embedded(runtime, picture) for picture in shown]
    checks: list[OutputCheck] = []
    if "retrieval" in runtime.tasks:
        assert isinstance(original, OriginalVectors)
        checks += _check_vectors(runtime, original, precision, tolerance, texts, shown, seen)
    if "matching" in runtime.tasks:
        assert isinstance(original, OriginalPairs)
        found = np.stack([runtime.match(texts, np.repeat(one.visual_tokens, len(texts), 0)).logits for one in seen], 1)
        wanted = original.logits(texts, shown)
        checks.append(
            compare_output("match", "match_logit", "real", [wanted.ravel()], [found.ravel()], precision, tolerance)
        )
        _check_first(found, wanted, tolerance)
    if "answering" in runtime.tasks:
        assert isinstance(original, OriginalAnswers)
        checks.append(_check_answers(runtime, original, precision, tolerance, texts, shown, seen))
    return checks


def _check_vectors(
    runtime: Model,
    original: OriginalVectors,
    precision: Precision,
    tolerance: Tolerance,
    texts: Sequence[str],
    pictures: Sequence[Image.Image],
    seen: Sequence[VideoEmbedding],
) -> list[OutputCheck]:
    ours = np.concatenate([one.vectors for one in seen])
    said = runtime.embed_text(texts)
    wanted, expected = original.picture_vectors(pictures), original.text_vectors(texts)
    if "matching" not in runtime.tasks:  # else its own logits decide what comes first
        _check_first(said @ ours.T, original.logits(texts, pictures), tolerance)
    return [
        compare_output("video", "vector", "real", [wanted], [ours], precision, tolerance),
        compare_output("text", "vector", "real", [expected], [said], precision, tolerance),
    ]


def _check_answers(
    runtime: Model,
    original: OriginalAnswers,
    precision: Precision,
    tolerance: Tolerance,
    questions: Sequence[str],
    pictures: Sequence[Image.Image],
    seen: Sequence[VideoEmbedding],
) -> OutputCheck:
    """Of two of the pictures: libraries weigh answers that they are given one by one."""
    candidates = probes.ANSWERS if runtime.reads_answers else None
    found = np.stack(
        [
            runtime.answer_logits(questions, np.repeat(one.visual_tokens, len(questions), 0), candidates)
            for one in seen[:2]
        ],
        axis=1,
    )
    wanted = original.answer_logits(questions, pictures[:2], candidates)
    rows = (-1, found.shape[2])
    _check_first(found.reshape(rows), wanted.reshape(rows), tolerance)
    return compare_output(
        "answer", "answer_logits", "real", [wanted.reshape(rows)], [found.reshape(rows)], precision, tolerance
    )


def check_tokens(runtime: Model, original: Original, texts: Sequence[str]) -> None:
    """Raises ParityError unless the bundle's tokenizer gives the original's numbers, cut at the same place."""
    tokenizer = runtime.bundle.tokenizer()
    for text in texts:
        ids, _ = tokenizer.encode([text])
        found, wanted = ids[0].tolist(), original.token_ids(text)
        if found != wanted:
            raise ParityError(f"tokens of {text[:40]!r}: {found[:12]}; {wanted[:12]} were expected (first 12 each)")


def _embedded(runtime: Model, picture: Image.Image) -> VideoEmbedding:
    """The picture as a file, as people bring it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        picture.save(path)
        return runtime.embed_file(path)


def _check_first(scores: np.ndarray, logits: np.ndarray, tolerance: Tolerance) -> None:
    """Two of (rows, choices): the choice that comes first in each row must be the same, near ties aside."""
    if tolerance.recall:
        return
    for row, (ours, theirs) in enumerate(zip(scores, logits, strict=True)):
        first, wanted = int(ours.argmax()), int(theirs.argmax())
        if ours[first] - ours[wanted] > NEAR_TIE:
            raise ParityError(f"row {row}: choice {first} comes first; {wanted} was expected, as in the original")
