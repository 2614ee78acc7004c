"""Accuracy of entailment: classes of sentences about videos (SNLI-VE) and about pairs of pictures (NLVR2).

Shape letters: N examples, n sentences, V visual tokens, W their width, T audio tokens, A their width.
"""

from __future__ import annotations

from random import Random

import numpy as np

from training.data.hypotheses import CLASSES, class_of, hypotheses_of, sample_hypotheses
from training.data.nlvr2 import consistency
from training.data.packed import Packed
from training.evaluation.encoder import pair_batches, streams_of
from training.evaluation.metrics import calibration_error
from training.evaluation.torch_encoder import TorchEncoder
from vitascope.model import Model

SENTENCES_PER_VIDEO = 6
"""Number of sentences that are made for a scene or photograph, equally many of each class. Of corpora with stored
sentences all are used."""
PAIRS_PER_BATCH = 16


def entailment_metrics(
    encoder: Model | TorchEncoder, packed: Packed, visual: np.ndarray, audio: np.ndarray | None
) -> dict[str, float]:
    """Return the entailment accuracy of sentences about videos in percent, and `entailment ECE` (0..1).

    Accuracy is overall and by right class. visual: Visual tokens (N, V, W). audio: Audio tokens (N, T, A); None: sound
    is not used.
    """
    known = hypotheses_of(packed.examples)
    if not any(example.hypotheses for example in packed.examples):
        known = [
            tuple(sample_hypotheses(of_example, SENTENCES_PER_VIDEO, Random(example.key)))
            for example, of_example in zip(packed.examples, known, strict=True)
        ]
    rows = [row for row, of_example in enumerate(known) for _ in of_example]
    hypotheses = [hypothesis for of_example in known for hypothesis in of_example]
    texts = [hypothesis.text for hypothesis in hypotheses]
    probabilities = np.empty((len(texts), len(CLASSES["video"])))
    for part, visual_rows, audio_rows in pair_batches(texts, rows, visual, audio):
        classified = encoder.classify_entailment([texts[i] for i in part], visual_rows, audio_rows)
        probabilities[part] = classified.probabilities
    labels, predicted = np.array([class_of(h) for h in hypotheses]), probabilities.argmax(axis=1)
    right = predicted == labels
    out = {"entailment sentences": float(len(labels)), "entailment accuracy": float(100 * right.mean())}
    for index, name in enumerate(CLASSES["video"]):
        if (of_class := labels == index).any():
            out[f"entailment accuracy ({name})"] = float(100 * right[of_class].mean())
    return out | {"entailment ECE": calibration_error(probabilities.max(axis=1), right)}


def pair_metrics(encoder: TorchEncoder, packed: Packed) -> dict[str, float]:
    """Return the accuracy of sentences about two pictures, and NLVR2's consistency, both in percent."""
    right: list[bool] = []
    for start in range(0, len(packed), PAIRS_PER_BATCH):
        rows = np.arange(start, min(start + PAIRS_PER_BATCH, len(packed)))
        frames = streams_of(packed, rows, encoder.streams)
        pictures = {name: x.reshape(-1, 1, *x.shape[2:]) for name, x in frames.items()}
        hypotheses = [packed.examples[row].hypotheses[0] for row in rows]
        tokens = encoder.embed_video(pictures).visual_tokens
        logits = encoder.entailment_logits([h.text for h in hypotheses], tokens)
        right += (logits.argmax(axis=1) == np.array([class_of(h) for h in hypotheses])).tolist()
    identifiers = [example.key for example in packed.examples]
    return {
        "entailment sentences": float(len(right)),
        "entailment accuracy": 100.0 * sum(right) / len(right),
        "entailment consistency": consistency(identifiers, right),
    }
