"""Distillation losses; each is 0 for a student that equals its teacher.

Shape letters: B clips, A anchors, E embedding dim, V visual tokens, K their width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """Return 1 minus the mean cosine of the student's and the teacher's L2-normalised embeddings."""
    return 1.0 - (student_BE.float() * teacher_BE).sum(dim=-1).mean()


def relation(student_BE: Tensor, teacher_BE: Tensor, anchors_AE: Tensor, temperature: float) -> Tensor:
    """Return the divergence of the student's ranking from the teacher's, in both directions.

    Anchors are vectors of the teacher, of texts or of clips, those of the batch first. Rows: of each clip over all
    anchors. Columns: of each anchor of the batch over the clips. KL divergence of softmaxed similarities ("affinity
    mimicking" of TinyCLIP, Wu et al., ICCV 2023; contrastive relational distillation of CLIP-KD, Yang et al., CVPR
    2024), where what a student is compared with is what serves beside it: the teacher's own vectors.
    """
    ours = student_BE.float() @ anchors_AE.T / temperature
    theirs = teacher_BE @ anchors_AE.T / temperature
    rows = _divergence(ours, theirs)
    own = slice(0, len(student_BE))
    return 0.5 * (rows + _divergence(ours[:, own].T, theirs[:, own].T))


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    log_p, log_q = F.log_softmax(theirs, dim=-1), F.log_softmax(ours, dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def tokens(student_BVK: Tensor, teacher_BVK: Tensor) -> Tensor:
    """Return the fraction of variance of the teacher's visual tokens that the student's do not explain."""
    spread = (teacher_BVK - teacher_BVK.mean(dim=(0, 1))).square().mean()
    return (student_BVK.float() - teacher_BVK).square().mean() / spread.clamp_min(1e-12)
