"""Metrics of models with sound: retrieval of recordings by name, and of clips by picture, sound or both.

Shape letters: N examples, D embedding dim, V visual tokens, K their width, T audio tokens, A their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import get_args

import numpy as np

from training.data.audio import FULL_SCALE, SAMPLE_RATE
from training.data.audio_batch import read_audio
from training.data.example import Needs
from training.data.packed import Packed
from training.evaluation.answers import answer_questions, exact_answers
from training.evaluation.captions import negative_caption_metrics
from training.evaluation.encoder import Encoder, embed_texts
from training.evaluation.metrics import retrieval
from training.evaluation.retrieval import RANKS, RERANK_QUERIES, Gallery, NearestVideos, score_nearest, spread
from training.evaluation.torch_encoder import TorchEncoder
from vitascope.bundle.graph_specs import AUDIO_TOKENS, LENGTHS, SAMPLES
from vitascope.bundle.manifest import AudioStream, Calibration
from vitascope.media.limits import SILENCE
from vitascope.model import Model
from vitascope.scoring import (
    combine_evidence,
    joint_evidence,
    normalize_rows,
    reranked_score,
    similarity_probability,
    sound_evidence,
)

BATCH_SIZE = 16


@dataclass(frozen=True)
class EmbeddedSounds:
    """The sounds of a corpus."""

    vectors: np.ndarray
    """(N, D) float32; 0 for examples without sound."""
    tokens: np.ndarray | None
    """(N, T, A) float16; None: the model does not match or answer by sound."""


def audio_stream(encoder: Encoder) -> AudioStream | None:
    """Return the audio stream of a model; None for one without sound."""
    if isinstance(encoder, TorchEncoder):
        return encoder.model.cfg.audio_stream()
    return encoder.bundle.manifest.audio if isinstance(encoder, Model) else None


def is_packed_for(packed: Packed, stream: AudioStream) -> bool:
    """Return whether the corpus has sound at the stream's sample rate."""
    return packed.audio is not None and stream.sample_rate == SAMPLE_RATE


def packed_sounds(packed: Packed, rows: np.ndarray, stream: AudioStream) -> dict[str, np.ndarray]:
    """Return the inputs of the audio graph for some rows: the whole sound, or its middle if it exceeds a window."""
    audio = read_audio(packed, rows, stream.seconds)
    return {SAMPLES: audio.samples.numpy(), LENGTHS: audio.lengths.numpy()}


def embed_sounds(encoder: Encoder, packed: Packed) -> EmbeddedSounds:
    """Embed the sound of every example. The model must have sound.

    If a sound is longer than a window, a checkpoint reads its middle, and a bundle all of it, as in a service. For a
    bundle, sounds are resampled if its sample rate differs from that of the corpus.
    """
    stream = audio_stream(encoder)
    assert stream is not None
    parts = []
    for start in range(0, len(packed), BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, len(packed)))
        if isinstance(encoder, Model):
            parts.append(
                _embed_as_served(encoder, [resampled_sound(packed, int(row), stream.sample_rate) for row in rows])
            )
            continue
        assert isinstance(encoder, TorchEncoder)
        inputs = packed_sounds(packed, rows, stream)
        outputs = encoder.embed_windows(inputs)
        vectors = outputs["vector"] * (inputs[LENGTHS] > 0)[:, None]
        parts.append(EmbeddedSounds(vectors, outputs[AUDIO_TOKENS].astype(np.float16) if stream.fused else None))
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return EmbeddedSounds(np.concatenate([part.vectors for part in parts]), np.concatenate(tokens) if tokens else None)


def embed_fused_sounds(encoder: Encoder, packed: Packed) -> EmbeddedSounds | None:
    """Embed the sound of every example if the fused layers read it; None if they do not, or the corpus has no sound."""
    stream = audio_stream(encoder)
    return embed_sounds(encoder, packed) if stream and stream.fused and is_packed_for(packed, stream) else None


def resampled_sound(packed: Packed, row: int, sample_rate: int) -> np.ndarray:
    """Return the sound (n,) float32 of a row, -1 to 1, at a sample rate in Hz; empty for a row without sound."""
    assert packed.audio is not None
    samples = packed.audio[row] / np.float32(FULL_SCALE)
    if sample_rate == SAMPLE_RATE or not len(samples):
        return samples
    from scipy.signal import resample_poly  # a second to import

    common = gcd(sample_rate, SAMPLE_RATE)
    resampled: np.ndarray = resample_poly(samples, sample_rate // common, SAMPLE_RATE // common)
    return resampled.clip(-1.0, 1.0)


def _embed_as_served(model: Model, sounds: Sequence[np.ndarray]) -> EmbeddedSounds:
    manifest = model.bundle.manifest
    assert manifest.audio is not None
    audible = [i for i, sound in enumerate(sounds) if np.abs(sound).max(initial=0.0) >= SILENCE]
    embedded = model.embed_audio([sounds[i] for i in audible])
    vectors = np.zeros((len(sounds), manifest.vector_width), np.float32)
    vectors[audible] = embedded.vectors
    if not manifest.audio.fused:
        return EmbeddedSounds(vectors, None)
    tokens = np.zeros((len(sounds), manifest.audio.tokens, manifest.audio.width), np.float16)
    tokens[audible] = embedded.tokens
    return EmbeddedSounds(vectors, tokens)


def no_pictures(encoder: Encoder, packed: Packed) -> np.ndarray:
    """Return the visual tokens (N, V, K) float16 of sounds without a picture: zeros."""
    if isinstance(encoder, TorchEncoder):
        cfg = encoder.model.cfg
        shape = (cfg.visual_tokens, cfg.visual_width)
    else:
        assert isinstance(encoder, Model)
        shape = (encoder.bundle.manifest.visual_tokens, encoder.bundle.manifest.visual_width)
    return np.broadcast_to(np.zeros((1, *shape), np.float16), (len(packed), *shape))


def answer_metrics(
    encoder: Encoder, packed: Packed, visual: np.ndarray | None, sounds: EmbeddedSounds
) -> dict[str, float]:
    """Return the accuracy of answers from pictures and sound; empty for a model that does not use sound in answers.

    visual: Visual tokens (N, V, K); None: the corpus has no pictures.
    """
    if "answering" not in encoder.tasks or sounds.tokens is None or not any(e.questions for e in packed.examples):
        return {}
    return exact_answers(
        encoder, packed, no_pictures(encoder, packed) if visual is None else visual, audio=sounds.tokens
    )


def joint_gallery(videos: np.ndarray, sounds: np.ndarray) -> Gallery:
    """Return a gallery of normalised sums of video embeddings (N, D) and sound embeddings (N, D), 0 without sound."""
    return Gallery(normalize_rows(videos + sounds))


def search_scores(calibration: Calibration, texts: np.ndarray, videos: np.ndarray, sounds: np.ndarray) -> np.ndarray:
    """Return the scores (T, N) by which a search ranks clips for texts (T, D).

    They combine the evidence of pictures, of sound and of both together as independent, as in index/search/fusion.py.
    Without a calibration of similarity, as in a checkpoint, scores are similarities with the sum of both embeddings.
    """
    cosines_seen, has_sound = texts @ videos.T, sounds.any(axis=1)
    seen = similarity_probability(calibration, cosines_seen)
    if seen is None or not has_sound.any():
        return joint_gallery(videos, sounds).scores(texts)
    cosines = texts @ sounds.T
    count = int(has_sound.sum())
    audio_z = _z_scores(cosines, cosines[:, has_sound])
    alone = sound_evidence(audio_z, count)
    together = joint_evidence(_z_scores(cosines_seen, cosines_seen), audio_z, count)
    return combine_evidence(seen, has_sound * alone, has_sound * together)


def _z_scores(cosines_TN: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Return each text's cosines (T, N) in standard deviations above the mean of its sample."""
    mean, deviation = (f(sample, axis=1, keepdims=True) for f in (np.mean, np.std))
    standardized: np.ndarray = (cosines_TN - mean) / np.maximum(deviation, 1e-12)
    return standardized


def nearest_scenes(
    encoder: Encoder,
    calibration: Calibration,
    packed: Packed,
    need: Needs,
    videos: np.ndarray,
    visual: np.ndarray,
    sounds: EmbeddedSounds,
    count: int,
) -> NearestVideos:
    """Return the `count` best results of searches for `RERANK_QUERIES` first captions with a need.

    Args:
        encoder: The model.
        calibration: Calibration of similarity.
        packed: The corpus.
        need: What a caption needs: picture, sound or both.
        videos: Embeddings (N, D).
        visual: Visual tokens (N, V, K).
        sounds: Sounds of the same clips.
        count: Number of results.
    """
    queries = spread(first_captions(packed, need), RERANK_QUERIES)
    scores = search_scores(calibration, embed_texts(encoder, queries), videos, sounds.vectors)
    return score_nearest(encoder, packed, queries, scores, visual, count, sounds.tokens)


def scene_metrics(
    encoder: Encoder,
    packed: Packed,
    videos: np.ndarray,
    visual: np.ndarray,
    sounds: EmbeddedSounds,
    rerank: int = 0,
    match_weight: float | None = None,
    rerank_queries: int = RERANK_QUERIES,
) -> dict[str, float]:
    """Return metrics of retrieval and answers for texts that need pictures ("sight"), sound or both.

    Everything is measured three times: with the whole clips, with their sound blanked, and with their pictures blanked.
    The first caption of each clip and need is a query; every clip with that caption is relevant.

    Args:
        encoder: The model.
        packed: The corpus.
        videos: Embeddings (N, D).
        visual: Visual tokens (N, V, K).
        sounds: Sounds of the same clips.
        rerank: Number of best clips that are also reranked; 0: none.
        match_weight: Weight of the match when whole clips are reranked, as in a service (`reranked`). None: they are
            ordered by match only. Clips with blanked sound or pictures are always ordered by match only.
        rerank_queries: Number of queries of each need whose results are reranked, spread evenly over the clips; 0: all.
            With blanked sound or pictures at most `RERANK_QUERIES`.
    """
    inputs: dict[str, tuple[np.ndarray, np.ndarray | None]]
    inputs = {"": (visual, sounds.tokens), " [sound blanked]": (visual, None)}
    if sounds.tokens is not None:
        inputs[" [sight blanked]"] = (no_pictures(encoder, packed), sounds.tokens)
    out: dict[str, float] = {}
    for need in get_args(Needs):
        queries = first_captions(packed, need)
        if not queries:
            continue
        relevant = [np.flatnonzero([query in e.captions for e in packed.examples]) for query in queries]
        vectors = embed_texts(encoder, queries)
        scores = {
            "": search_scores(encoder.calibration, vectors, videos, sounds.vectors),
            " [sound blanked]": Gallery(videos).scores(vectors),
            " [sight blanked]": Gallery(sounds.vectors).scores(vectors),
        }
        for name, of_clips in scores.items():
            metrics = retrieval(of_clips, relevant)
            out |= {f"t2v {k} ({need}){name}": v for k, v in metrics.items() if k.startswith("R@")}
        for name, tokens in inputs.items() if rerank and "matching" in encoder.tasks else ():
            count = min(rerank_queries or len(queries), RERANK_QUERIES if name else len(queries))
            chosen = spread(range(len(queries)), count)
            weight = None if name else match_weight
            texts = [queries[i] for i in chosen]
            reranked = _reranked_recall(encoder, packed, texts, scores[name][chosen], tokens, rerank, weight)
            out |= {f"{metric} ({need}, top {rerank}){name}": value for metric, value in reranked.items()}
    if any(e.negatives for e in packed.examples) and "matching" in encoder.tasks:
        joint = joint_gallery(videos, sounds.vectors)
        out |= negative_caption_metrics(encoder, packed, joint, visual, audio=sounds.tokens)
    if sounds.tokens is None:  # answers do not depend on sound
        del inputs[" [sound blanked]"]
    return out | (_answers_by_need(encoder, packed, inputs) if "answering" in encoder.tasks else {})


def _reranked_recall(
    encoder: Encoder,
    packed: Packed,
    texts: Sequence[str],
    scores: np.ndarray,
    tokens: tuple[np.ndarray, np.ndarray | None],
    rerank: int,
    match_weight: float | None,
) -> dict[str, float]:
    """Return recall at `RANKS` of the best clips of each text, in the order of the search and reranked.

    Args:
        texts: B texts.
        scores: (B, N), scores of the search.
        tokens: Visual and audio tokens of the clips.
        rerank, match_weight: As in `scene_metrics`.
    """
    pictures, audio = tokens
    nearest = score_nearest(encoder, packed, texts, scores, pictures, rerank, audio)
    by_match, ordered = "match", nearest.logits
    if match_weight is not None:
        by_match, ordered = "reranked", reranked_score(nearest.similarity, nearest.logits, match_weight)
    out: dict[str, float] = {}
    for order, by in (("search", None), (by_match, ordered)):
        out |= {f"{order} R@{k}": v for k, v in zip(RANKS, nearest.recall(by, rerank), strict=True)}
    return out


def _answers_by_need(
    encoder: Encoder, packed: Packed, inputs: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
) -> dict[str, float]:
    """Return the accuracy of answers by need and kind of question. inputs: Visual and audio tokens by suffix."""
    out: dict[str, float] = {}
    for name, (pictures, audio) in inputs.items():
        results = answer_questions(encoder, packed, pictures, audio=audio)
        needs = [(question.needs, question.kind) for question in results.questions]
        for need, kind in sorted({pair for pair in needs if pair[0]} | {(need, "") for need, _ in needs if need}):
            of_kind = [n == need and kind in ("", k) for n, k in needs]
            label = f"{need}: {kind}" if kind else need
            out[f"exact ({label}){name}"] = float(100 * results.right[of_kind].mean())
    return out


def pair_metrics(videos: np.ndarray, sounds: np.ndarray) -> dict[str, float]:
    """Return the recall of searches for pictures by their sounds and for sounds by their pictures, and of chance.

    videos, sounds: Embeddings (N, D) of the same examples; examples without sound are left out.
    """
    audible = sounds.any(axis=1)
    similarity = sounds[audible] @ videos[audible].T
    count = len(similarity)
    own = [np.array([i]) for i in range(count)]
    out = {"sounds": float(count)}
    for name, scores in (("sound to picture", similarity), ("picture to sound", similarity.T)):
        out |= {f"{name} {k}": v for k, v in retrieval(scores, own).items() if k.startswith("R@")}
    return out | {f"chance R@{k}": 100.0 * min(1.0, k / count) for k in RANKS}


def first_captions(packed: Packed, need: Needs) -> list[str]:
    """Return the first caption with the given need of each example that has such a caption."""
    captions = (
        next((c for c, n in zip(e.captions, e.caption_needs, strict=False) if n == need), None) for e in packed.examples
    )
    return [caption for caption in captions if caption is not None]
