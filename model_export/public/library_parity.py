"""Parity of a bundle with the public model in its own library, for fixed texts, image files and sounds.

The comparison covers tokenizer, decoding, resizing, normalization, padding and graphs.

Shape letters: T texts, I images, N samples or vocabulary, D embedding dim, L tokens of a caption.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from model_export.parity.checks import OutputCheck, ParityError, compare_output
from model_export.parity.variants import NEAR_TIE
from model_export.public.model import AnswerScorer, Captioner, Embedder, PairScorer, ReferenceModel, SoundEmbedder
from model_export.weights import Precision
from vitascope.bundle.graph_specs import LOGITS, PAST_KEYS, PAST_VALUES, PRESENT_KEYS, PRESENT_VALUES
from vitascope.bundle.manifest import AudioStream
from vitascope.bundle.parity_report import Bounds
from vitascope.embeddings import VideoEmbedding
from vitascope.model import Model

LIBRARY = Bounds(cosine=0.99999, recall=0.0)
"""Tolerance at float32. Two libraries round a few pixels differently when they resize."""
TEXTS = (
    "a dog runs across a sunny beach",
    "A Photo of TWO red cars, parked!",
    "一只猫坐在窗台上看雨",
    "party 🎉🎂 with friends 👩‍👩‍👧‍👦 and a dog 🐕",
    "café, naïve, Übergrößenträger; e\u0301 combined",
    "  spaces\tand\nnew lines  ",
    "it's 12:30 (don't worry) #video @home 100%",
    "words " * 1000,
    "x",
)
ANSWERS = ("yes", "no", "two red cars", "一只猫 🎉")
"""Candidates for models that score any answer."""
IMAGE_SIZES = ((320, 240), (180, 320), (224, 224), (401, 97), (640, 361))
"""(width, height): landscape, portrait, square, very wide, odd."""
SOUND_SHARES = (1.0, 0.5, 0.33, 0.14, 0.03)
"""Lengths of the sounds as fractions of a window."""


def check_library_parity(
    runtime: Model,
    reference: ReferenceModel,
    precision: Precision,
    tolerance: Bounds,
    *,
    images: Sequence[Image.Image] | None = None,
) -> list[OutputCheck]:
    """Compare a bundle's results with the original library's.

    Raises ParityError naming the first difference: token ids, an embedding, a logit, or a best result.
    """
    images = draw_images() if images is None else list(images)
    _check_token_ids(runtime, reference)
    embedded = [_embed_as_file(runtime, image) for image in images] if runtime.streams else []
    rows = [np.repeat(image.visual_tokens, len(TEXTS), 0) for image in embedded]
    checks: list[OutputCheck] = []
    if "retrieval" in runtime.tasks:
        assert isinstance(reference, Embedder)
        checks += _check_embeddings(runtime, reference, precision, tolerance, images, embedded)
    if "audio_retrieval" in runtime.tasks:
        assert isinstance(reference, SoundEmbedder)
        checks += _check_sounds(runtime, reference, precision, tolerance)
    if "matching" in runtime.tasks:
        assert isinstance(reference, PairScorer)
        actual = np.stack([runtime.match(TEXTS, tokens).logits for tokens in rows], 1)
        expected = reference.logits(TEXTS, images)
        checks.append(_compare("match", "match_logit", expected.ravel(), actual.ravel(), precision, tolerance))
        _check_best(actual, expected, tolerance)
    if "answering" in runtime.tasks:
        assert isinstance(reference, AnswerScorer)
        candidates = ANSWERS if runtime.scores_free_form_answers else None
        # Two images only, as libraries score candidate answers one by one.
        actual = np.stack([runtime.answer_logits(TEXTS, tokens, candidates) for tokens in rows[:2]], axis=1)
        actual = actual.reshape(-1, actual.shape[2])
        expected = reference.answer_logits(TEXTS, images[:2], candidates).reshape(actual.shape)
        _check_best(actual, expected, tolerance)
        checks.append(_compare("answer", "answer_logits", expected, actual, precision, tolerance))
    if "captioning" in runtime.tasks:
        assert isinstance(reference, Captioner)
        captions = reference.greedy_captions(images, runtime.caption_decoder.max_tokens)
        expected = np.concatenate([logits for _, logits in captions])
        by_image = zip(embedded, captions, strict=True)
        actual = np.concatenate([_caption_logits(runtime, image.visual_tokens, ids) for image, (ids, _) in by_image])
        _check_best(actual, expected, tolerance)
        checks.append(_compare("caption_step", LOGITS, expected, actual, precision, tolerance))
    return checks


def draw_images() -> list[Image.Image]:
    """Return one drawn scene per size: a gradient, shapes with hard edges, fine stripes and grain."""
    return [_draw_scene(seed, *size) for seed, size in enumerate(IMAGE_SIZES)]


def make_sounds(stream: AudioStream) -> list[np.ndarray]:
    """Return sounds (N,) float32 of several lengths up to a window: fading tones in noise of several levels."""
    random = np.random.default_rng(0)
    sounds = []
    for share in SOUND_SHARES:
        time = np.arange(max(1600, round(stream.samples * share))) / stream.sample_rate
        tones = [
            random.uniform(0.05, 0.3) * np.sin(2 * np.pi * hertz * time) * np.exp(-time * random.uniform(0, 5))
            for hertz in random.uniform(100, stream.sample_rate / 4, 3)
        ]
        noise = 10 ** random.uniform(-4, -1) * random.standard_normal(len(time))
        sounds.append(np.clip(np.sum(tones, axis=0) + noise, -1, 1).astype(np.float32))
    return sounds


def _check_sounds(
    runtime: Model, reference: SoundEmbedder, precision: Precision, tolerance: Bounds
) -> list[OutputCheck]:
    assert runtime.bundle.manifest.audio is not None
    sounds = make_sounds(runtime.bundle.manifest.audio)
    expected, actual = reference.sound_embeddings(sounds), runtime.embed_audio(sounds).vectors
    checks = [_compare("audio", "vector", expected, actual, precision, tolerance)]
    if "retrieval" not in runtime.tasks:
        expected, actual = reference.text_embeddings(TEXTS), runtime.embed_text(TEXTS)
        checks.append(_compare("text", "vector", expected, actual, precision, tolerance))
    return checks


def _caption_logits(runtime: Model, visual_tokens: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Return the logits (L, N) for each token of a caption, computed from the earlier tokens. ids: (L,)."""
    decoder = runtime.caption_decoder
    visual = runtime.run_graph("caption_prefill", {"visual_tokens": visual_tokens})
    keys = values = np.zeros((1, decoder.layers, decoder.heads, 0, decoder.head_width), np.float32)
    rows = []
    for new_ids in (decoder.start_ids, *([token] for token in ids[:-1])):
        inputs = {"input_ids": np.array([new_ids]), PAST_KEYS: keys, PAST_VALUES: values} | visual
        outputs = runtime.run_graph("caption_step", inputs)
        keys, values = outputs[PRESENT_KEYS], outputs[PRESENT_VALUES]
        rows.append(outputs[LOGITS])
    return np.concatenate(rows)


def _check_embeddings(
    runtime: Model,
    reference: Embedder,
    precision: Precision,
    tolerance: Bounds,
    images: Sequence[Image.Image],
    embedded: Sequence[VideoEmbedding],
) -> list[OutputCheck]:
    image_embeddings = np.concatenate([image.vectors for image in embedded])
    text_embeddings = runtime.embed_text(TEXTS)
    if "matching" not in runtime.tasks:  # otherwise match logits decide the order
        _check_best(text_embeddings @ image_embeddings.T, reference.logits(TEXTS, images), tolerance)
    return [
        _compare("video", "vector", reference.image_embeddings(images), image_embeddings, precision, tolerance),
        _compare("text", "vector", reference.text_embeddings(TEXTS), text_embeddings, precision, tolerance),
    ]


def _compare(
    graph: str, output: str, expected: np.ndarray, actual: np.ndarray, precision: Precision, tolerance: Bounds
) -> OutputCheck:
    return compare_output(graph, output, "real", [expected], [actual], precision, tolerance)  # type: ignore[arg-type]


def _check_token_ids(runtime: Model, reference: ReferenceModel) -> None:
    """Raise ParityError unless the bundle's tokenizer outputs the original's ids."""
    tokenizer = runtime.bundle.tokenizer()
    for text in TEXTS:
        ids, _ = tokenizer.encode([text])
        actual, expected = ids[0].tolist(), reference.token_ids(text)
        if actual != expected:
            raise ParityError(f"tokens of {text[:40]!r}: {actual[:12]}; {expected[:12]} were expected (first 12 each)")


def _embed_as_file(runtime: Model, image: Image.Image) -> VideoEmbedding:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        image.save(path)
        return runtime.embed_video_file(path)


def _check_best(actual: np.ndarray, expected: np.ndarray, tolerance: Bounds) -> None:
    """Check that the best candidate of each row (rows, candidates) is the same, except for near ties."""
    if tolerance.recall:
        return
    for row, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        best, expected_best = int(ours.argmax()), int(theirs.argmax())
        if ours[best] - ours[expected_best] > NEAR_TIE:
            raise ParityError(f"row {row}: candidate {best} is best; {expected_best} was expected, as in the original")


def _draw_scene(seed: int, width: int, height: int) -> Image.Image:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    low, high = random.integers(0, 256, (2, 3))
    weight = ((rows / height + columns / width) / 2)[..., None]
    image = Image.fromarray((low * (1 - weight) + high * weight).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = (int(random.integers(0, side)) for side in (width, height))
        box = (left, top, left + int(random.integers(8, width // 2)), top + int(random.integers(8, height // 2)))
        color = (int(random.integers(256)), int(random.integers(256)), int(random.integers(256)))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=color)
    for x in range(0, width // 3, 3):
        draw.line((x, 0, x, height // 4), fill=(255, 255, 255))
    grain = random.integers(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))
