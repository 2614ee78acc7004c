"""Does the bundle, served, give what the model gives in its own library? From the text and the picture file on.

Tokeniser, decoding, resizing, normalisation, padding and graphs take part, so that none of them can differ unnoticed.
Shape letters: T texts, P pictures, D vector width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model_export.parity import OutputCheck, ParityError, Tolerance, compared
from model_export.public import probes
from model_export.public.model import Original
from model_export.recall import NEAR_TIE
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

    Raises ParityError naming the first thing that differs: token numbers, a vector, or which picture a text finds.
    """
    shown = probes.pictures() if pictures is None else list(pictures)
    check_tokens(runtime, original, texts)
    seen = [_embedded(runtime, picture) for picture in shown]
    ours = np.concatenate([one.vectors for one in seen])
    wanted = original.picture_vectors(shown)
    checks = [compared("video", "vector", "real", [wanted], [ours], precision, tolerance)]
    said, expected = runtime.embed_text(texts), original.text_vectors(texts)
    checks.append(compared("text", "vector", "real", [expected], [said], precision, tolerance))
    logits = original.logits(texts, shown)
    ranked = said @ ours.T
    if "matching" in runtime.tasks:
        ranked = np.stack([runtime.match(texts, np.repeat(one.visual_tokens, len(texts), 0)).logits for one in seen], 1)
        checks.append(
            compared("match", "match_logit", "real", [logits.ravel()], [ranked.ravel()], precision, tolerance)
        )
    if tolerance.recall == 0:
        _check_first(ranked, logits)
    return checks


def check_tokens(runtime: Model, original: Original, texts: Sequence[str]) -> None:
    """Raises ParityError unless the bundle's tokeniser gives the original's numbers, cut at the same place."""
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


def _check_first(scores: np.ndarray, logits: np.ndarray) -> None:
    """(T, P) each: the picture that fits each text best must be the same, near ties aside."""
    for text, (ours, theirs) in enumerate(zip(scores, logits, strict=True)):
        first, wanted = int(ours.argmax()), int(theirs.argmax())
        if ours[first] - ours[wanted] > NEAR_TIE:
            raise ParityError(f"texts[{text}]: picture {first} comes first; {wanted} was expected, as in the original")
