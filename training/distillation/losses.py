"""Distillation losses, and the agreement of a student with its teacher on held-out clips.

A loss is 0 if the student's outputs equal the teacher's.

Shape letters: N clips, B clips of a batch, A anchors, E embedding dim, V visual tokens, K their width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.frame_batch import spread_clips
from training.data.other_streams import stream_adapter
from training.distillation.student import Student
from training.distillation.teacher import TeacherOutputs
from training.evaluation.encoder import streams_of
from training.evaluation.metrics import retrieval


def cosine(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """Return 1 minus the mean cosine of the student's and the teacher's L2-normalised embeddings."""
    return 1.0 - (student_BE.float() * teacher_BE).sum(dim=-1).mean()


def relation(student_BE: Tensor, teacher_BE: Tensor, anchors_AE: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence between the similarities to anchors of the student and those of the teacher.

    The mean of two divergences of softmaxed similarities: of each clip over all anchors, and of the first B anchors
    over the clips. Known as "affinity mimicking" (TinyCLIP, Wu et al., ICCV 2023) and contrastive relational
    distillation (CLIP-KD, Yang et al., CVPR 2024). Here the anchors are embeddings of the teacher, since searches
    compare the student's clip embeddings with the teacher's text embeddings.

    Args:
        student_BE: The student's embeddings.
        teacher_BE: The teacher's embeddings of the same clips.
        anchors_AE: The teacher's embeddings of texts or clips; the first B belong to the clips of the batch.
        temperature: Divisor of the similarities.
    """
    actual = student_BE.float() @ anchors_AE.T / temperature
    expected = teacher_BE @ anchors_AE.T / temperature
    rows = _divergence(actual, expected)
    own = slice(0, len(student_BE))
    return 0.5 * (rows + _divergence(actual[:, own].T, expected[:, own].T))


def _divergence(actual: Tensor, expected: Tensor) -> Tensor:
    log_p, log_q = F.log_softmax(expected, dim=-1), F.log_softmax(actual, dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def tokens(student_BVK: Tensor, teacher_BVK: Tensor) -> Tensor:
    """Return the mean squared error of the student's visual tokens, relative to the variance of the teacher's."""
    spread = (teacher_BVK - teacher_BVK.mean(dim=(0, 1))).square().mean()
    return (student_BVK.float() - teacher_BVK).square().mean() / spread.clamp_min(1e-12)


BATCH = 32

Agreement = dict[str, float]
"""Measures of agreement:

- `cosine`: mean cosine of the two embeddings of a clip.
- `same clip`: percentage of clips for which the nearest of the teacher's embeddings is that of the same clip.
- `t2v R@1`, `teacher t2v R@1`: text-to-video Recall@1 of each clip's first caption, with the embeddings of the student
  and of the teacher. Only if every clip has captions.
"""


def agreement(student: Student, held_out: TeacherOutputs) -> Agreement:
    """Return the student's agreement with its teacher on held-out clips, in float32.

    The student is in evaluation mode meanwhile; its mode is restored.
    """
    return compare_embeddings(np.concatenate(list(_vectors(student, held_out))), held_out)


def compare_embeddings(vectors_NE: np.ndarray, held_out: TeacherOutputs) -> Agreement:
    """Return the agreement of embeddings with those of the teacher.

    Args:
        vectors_NE: L2-normalised embeddings, in the order of the held-out clips.
        held_out: The teacher's outputs on these clips.
    """
    expected = np.asarray(held_out.vectors)
    own = [np.array([i]) for i in range(len(expected))]
    out = {
        "cosine": float((vectors_NE * expected).sum(axis=1).mean()),
        "same clip": retrieval(vectors_NE @ expected.T, own)["R@1"],
    }
    counts = np.bincount(held_out.of, minlength=len(expected))
    if counts.all():
        first = held_out.texts[np.concatenate([[0], np.cumsum(counts)[:-1]])]
        out["t2v R@1"] = retrieval(first @ vectors_NE.T, own)["R@1"]
        out["teacher t2v R@1"] = retrieval(first @ expected.T, own)["R@1"]
    return out


def _vectors(student: Student, held_out: TeacherOutputs) -> Iterator[np.ndarray]:
    packed, training = held_out.packed, student.training
    adapt = stream_adapter(packed, student.cfg.streams())
    clips = spread_clips(packed.clips, packed.clips)
    device = next(student.parameters()).device
    student.eval()
    with torch.no_grad():
        for start in range(0, len(packed), BATCH):
            rows = np.arange(start, min(start + BATCH, len(packed)))
            streams = adapt(streams_of(packed, rows, student.cfg.streams(), clips))
            inputs = [torch.from_numpy(np.ascontiguousarray(streams[name])).to(device) for name in student.names]
            vector, _ = student(*inputs)
            yield vector.cpu().numpy()
    student.train(training)
