"""The agreement of a student with its teacher on held-out clips.

Shape letters: N clips, E embedding dim.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from training.data.clip_choice import spread_clips
from training.data.other_streams import sight
from training.distillation.student import Student
from training.distillation.teacher import Taught
from training.evaluation.embedding import streams_of
from training.evaluation.metrics import retrieval

BATCH = 32

Agreement = dict[str, float]
"""`cosine`: mean over clips. `same clip`: percent of clips whose student's vector is nearest to the teacher's vector of
the same clip. `t2v R@1` and `teacher t2v R@1`, where there are captions: percent of first captions that find their clip
among all of them, by either's vectors."""


def agreement(student: Student, held_out: Taught) -> Agreement:
    """Return the student's agreement with its teacher on held-out clips, in float32. The student's mode is restored."""
    return compared(np.concatenate(list(_vectors(student, held_out))), held_out)


def compared(vectors_NE: np.ndarray, held_out: Taught) -> Agreement:
    """Return the agreement of given embeddings with the teacher."""
    theirs = np.asarray(held_out.vectors)
    own = [np.array([i]) for i in range(len(theirs))]
    out = {
        "cosine": float((vectors_NE * theirs).sum(axis=1).mean()),
        "same clip": retrieval(vectors_NE @ theirs.T, own)["R@1"],
    }
    counts = np.bincount(held_out.of, minlength=len(theirs))
    if counts.all():
        first = held_out.texts[np.concatenate([[0], np.cumsum(counts)[:-1]])]
        out["t2v R@1"] = retrieval(first @ vectors_NE.T, own)["R@1"]
        out["teacher t2v R@1"] = retrieval(first @ theirs.T, own)["R@1"]
    return out


def _vectors(student: Student, held_out: Taught) -> Iterator[np.ndarray]:
    packed, training = held_out.packed, student.training
    adapt = sight(packed, student.eyes.streams())
    clips = spread_clips(packed.clips, packed.clips)
    device = next(student.parameters()).device
    student.eval()
    with torch.no_grad():
        for start in range(0, len(packed), BATCH):
            rows = np.arange(start, min(start + BATCH, len(packed)))
            streams = adapt(streams_of(packed, rows, student.eyes.streams(), clips))
            inputs = [torch.from_numpy(np.ascontiguousarray(streams[name])).to(device) for name in student.names]
            vector, _ = student(*inputs)
            yield vector.cpu().numpy()
    student.train(training)
