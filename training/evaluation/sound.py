"""Measurements of models with sound: recordings by their names, and clips by what is seen, heard, or both.

Shape letters: N examples, D embedding dim, V visual tokens, K their width, T audio tokens, A their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from training.data.audio import SAMPLE_RATE
from training.data.batches import read_audio
from training.data.example import Needs
from training.data.packed import Packed
from training.evaluation.answers import answer_questions, exact_answers
from training.evaluation.captions import negative_caption_metrics
from training.evaluation.encoder import Encoder, TorchEncoder, embed_texts
from training.evaluation.metrics import retrieval
from training.evaluation.retrieval import Gallery
from vitascope.bundle.manifest import AUDIO_TOKENS, LENGTHS, SAMPLES, AudioStream, Calibration
from vitascope.model import Model
from vitascope.scoring import similarity_probability

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
    """Return whether the corpus has sound, at the rate that the stream has."""
    return packed.audio is not None and stream.sample_rate == SAMPLE_RATE


def packed_sounds(packed: Packed, rows: np.ndarray, stream: AudioStream) -> dict[str, np.ndarray]:
    """Return the inputs of the audio graph for some rows; of a sound longer than a window, its middle."""
    audio = read_audio(packed, rows, stream.seconds)
    return {SAMPLES: audio.samples.numpy(), LENGTHS: audio.lengths.numpy()}


def embed_sounds(encoder: Encoder, packed: Packed) -> EmbeddedSounds:
    """Embed the sound of every example; of one longer than a window, its middle. The model must have sound."""
    stream = audio_stream(encoder)
    assert stream is not None
    vectors, tokens = [], []
    for start in range(0, len(packed), BATCH_SIZE):
        inputs = packed_sounds(packed, np.arange(start, min(start + BATCH_SIZE, len(packed))), stream)
        outputs = encoder.embed_windows(inputs) if isinstance(encoder, TorchEncoder) else _run(encoder, inputs)
        vectors.append(outputs["vector"] * (inputs[LENGTHS] > 0)[:, None])
        tokens.append(outputs[AUDIO_TOKENS].astype(np.float16) if stream.fused else None)
    joined = [part for part in tokens if part is not None]
    return EmbeddedSounds(np.concatenate(vectors), np.concatenate(joined) if joined else None)


def _run(encoder: Encoder, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert isinstance(encoder, Model)
    return encoder.run_graph("audio", inputs)


def no_pictures(encoder: Encoder, packed: Packed) -> np.ndarray:
    """Return the visual tokens (N, V, K) float16 of sounds alone: 0."""
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
    """Return the accuracy of answers by sight and sound; nothing for a model that does not answer by sound.

    visual: Visual tokens (N, V, K); None: the corpus has no pictures.
    """
    if "answering" not in encoder.tasks or sounds.tokens is None or not any(e.questions for e in packed.examples):
        return {}
    return exact_answers(
        encoder, packed, no_pictures(encoder, packed) if visual is None else visual, audio=sounds.tokens
    )


def joint_gallery(videos: np.ndarray, sounds: np.ndarray) -> Gallery:
    """Return the normalised sums of embeddings (N, D) of videos and of their sounds, 0 where there is none."""
    total = videos + sounds
    return Gallery(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


def search_scores(calibration: Calibration, texts: np.ndarray, videos: np.ndarray, sounds: np.ndarray) -> np.ndarray:
    """Return the scores (T, N) by which a search ranks clips for texts (T, D): what is seen and what is heard.

    Each is independent evidence that a clip fits, as in index/search/fusion.py. Without a calibration of both kinds of
    similarity, as of a checkpoint, the scores are similarities with the sums of the embeddings.
    """
    seen = similarity_probability(calibration, texts @ videos.T)
    heard = similarity_probability(calibration, texts @ sounds.T, "audio")
    if seen is None or heard is None:
        return joint_gallery(videos, sounds).scores(texts)
    scores: np.ndarray = 1.0 - (1.0 - seen) * (1.0 - heard * sounds.any(axis=1))
    return scores


def scene_metrics(
    encoder: Encoder, packed: Packed, videos: np.ndarray, visual: np.ndarray, sounds: EmbeddedSounds
) -> dict[str, float]:
    """Return how well clips are found, and asked about, by texts that need sight, sound or both.

    Each once with all that a clip has, and once with its sound and once with its pictures blanked. The first caption of
    each clip and need is a query; every clip with that caption is a right result.

    Args:
        videos: Embeddings (N, D).
        visual: Visual tokens (N, V, K).
        sounds: Of the same clips.
    """
    joint = joint_gallery(videos, sounds.vectors)
    blanked = {" [sound blanked]": Gallery(videos), " [sight blanked]": Gallery(sounds.vectors)}
    out: dict[str, float] = {}
    for need in get_args(Needs):
        queries = _first_captions(packed, need)
        if not queries:
            continue
        relevant = [np.flatnonzero([query in e.captions for e in packed.examples]) for query in queries]
        vectors = embed_texts(encoder, queries)
        by_search = search_scores(encoder.calibration, vectors, videos, sounds.vectors)
        scores = {"": by_search} | {name: gallery.scores(vectors) for name, gallery in blanked.items()}
        for name, of_clips in scores.items():
            metrics = retrieval(of_clips, relevant)
            out |= {f"t2v {k} ({need}){name}": v for k, v in metrics.items() if k.startswith("R@")}
    if any(e.negatives for e in packed.examples):
        out |= negative_caption_metrics(encoder, packed, joint, visual, audio=sounds.tokens)
    if "answering" in encoder.tasks and sounds.tokens is not None:
        nothing = no_pictures(encoder, packed)
        inputs = {"": (visual, sounds.tokens), " [sound blanked]": (visual, None)}
        inputs[" [sight blanked]"] = (nothing, sounds.tokens)
        for name, (pictures, audio) in inputs.items():
            results = answer_questions(encoder, packed, pictures, audio=audio)
            needs = np.array([question.needs for question in results.questions])
            for need in get_args(Needs):
                if (needs == need).any():
                    out[f"exact ({need}){name}"] = float(100 * results.right[needs == need].mean())
    return out


def _first_captions(packed: Packed, need: Needs) -> list[str]:
    """Return the first caption with a need of each example that has one."""
    captions = (
        next((c for c, n in zip(e.captions, e.caption_needs, strict=False) if n == need), None) for e in packed.examples
    )
    return [caption for caption in captions if caption is not None]
