"""Losses that every system here shares. Each is such that the mean over processes is the loss of one process with all
their samples.

Shape letters: B samples, C clips, T texts, E vector width, n masked positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed
import torch.distributed.nn
import torch.nn.functional as F
from torch import Tensor

from training import distributed


def merged_clips(similarity_BCT: Tensor, temperature: float) -> Tensor:
    """Similarities of each clip of B videos with T texts -> those of the videos, (B, T) float32, by log-sum-exp.

    temperature * (log sum over c of exp(s_c / temperature) - log C): a soft maximum, closer to the best clip the lower
    the temperature; equal clips give the similarity of one.
    """
    scaled = similarity_BCT.float() / temperature
    return temperature * (scaled.logsumexp(dim=1) - math.log(scaled.shape[1]))


def _similarity(video: Tensor, text_TE: Tensor, temperature: float) -> Tensor:
    """Return the similarity (B, T) float32 of video embeddings (B, E), or of clip embeddings (B, C, E), with texts.

    In float32 also under autocast: a bfloat16 cosine has three digits, and a low temperature magnifies the error.
    """
    with torch.autocast(video.device.type, enabled=False):
        similarity = video.float() @ text_TE.float().T
        return merged_clips(similarity, temperature) if video.ndim == 3 else similarity


def contrastive(
    video: Tensor, text_BE: Tensor, temperature: float, groups: Tensor, wrong_text: Tensor | None = None
) -> Tensor:
    """Symmetric contrastive loss over the batch of all processes (HD-VILA, section 3.4, equations 3 to 5).

    video: vectors of videos (B, E), or of their clips (B, C, E), whose similarities are merged by log-sum-exp.
    groups (B,) int: samples of one group are no negatives of one another; the target is shared among them.
    wrong_text (M, E): further texts that are wrong for every video of the batch (hard negatives, video to text only);
    every process gives as many, or none.
    """
    video, text, groups = _gathered(video), _gathered(text_BE), _gathered(groups)
    same = (groups[:, None] == groups[None, :]).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = _similarity(video, text, temperature) / temperature  # (B, B)
    to_text = logits
    if wrong_text is not None:
        wrong_text = _gathered(wrong_text)
        to_text = torch.cat([logits, _similarity(video, wrong_text, temperature) / temperature], dim=1)
        none = torch.zeros(target.shape[0], wrong_text.shape[0], device=target.device)
        target_text = torch.cat([target, none], dim=1)
    else:
        target_text = target
    # cross_entropy takes class probabilities as target
    return 0.5 * (F.cross_entropy(to_text.float(), target_text) + F.cross_entropy(logits.T.float(), target))


def _gathered(x: Tensor) -> Tensor:
    """Concatenation over ranks, differentiable; itself when alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    if x.dtype.is_floating_point:
        return torch.cat(torch.distributed.nn.all_gather(x.contiguous()))  # type: ignore[no-untyped-call]
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def match(positive: Tensor, negative: Tensor) -> Tensor:
    """Image-text matching: binary cross-entropy of match logits (SOHO, section 3.3; HD-VILA's unused head).

    Logits of any number of right and of wrong pairs; both kinds weigh the same. 0 when nothing is wrong: right pairs
    alone would teach to say yes.
    """
    if not negative.numel():
        return positive.sum() * 0.0
    return 0.5 * (F.softplus(-positive.float()).mean() + F.softplus(negative.float()).mean())


def ranking(right: Tensor, wrong: Tensor) -> Tensor:
    """Logistic loss of (n,) match logits of a right caption against the wrong one made from it."""
    return F.softplus(wrong.float() - right.float()).mean()


def objects(
    logits_BVC: Tensor,
    places: Tensor,
    classes: Tensor,
    grid: tuple[int, int],
    sizes: Sequence[int],
    weights: Sequence[float],
) -> Tensor:
    """What each object is, read from the one visual token where it is in the middle of the clip.

    logits (B, V, 1 + sum of sizes): "an object is here", then the classes of each attribute. places (B, K, 2): x and y
    as shares of width and height. classes (B, K, A): class numbers, negative where there is no such object; of two
    objects in one token the first counts. Returns the weighted mean over attributes plus the loss of presence.
    """
    token, seen = object_tokens(places, classes, grid)
    present = torch.zeros(logits_BVC.shape[:2], device=logits_BVC.device)
    present.scatter_add_(1, token, (classes[..., 0] >= 0).float())
    logits = logits_BVC.float()
    loss = F.binary_cross_entropy_with_logits(logits[..., 0], present.clamp(max=1.0))
    at_object = logits.gather(1, token[..., None].expand(-1, -1, logits.shape[2]))[seen]
    wanted = classes[seen]
    parts = torch.split(at_object[:, 1:], list(sizes), dim=1)
    by_attribute = [w * F.cross_entropy(p, wanted[:, i]) for i, (p, w) in enumerate(zip(parts, weights, strict=True))]
    return loss + distributed.weighed(torch.stack(by_attribute).sum(), len(wanted)) / sum(weights)


def object_tokens(places: Tensor, classes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The visual token (B, K) int64 where each object is, and whether (B, K) bool it can be read from there.

    Arguments as in `objects`: of two objects in one token only the first can be read.
    """
    rows, columns = grid
    column, row = ((places[..., i] * n).long().clamp(0, n - 1) for i, n in enumerate((columns, rows)))
    token = row * columns + column
    there = classes[..., 0] >= 0
    same = (token[:, :, None] == token[:, None, :]) & there[:, None, :]
    hidden = (same & torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril(-1)).any(dim=2)
    return token, there & ~hidden


def masked_words(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (n, vocabulary) logits at masked positions; 0 when nothing was masked."""
    loss = F.cross_entropy(logits.float(), targets) if len(targets) else logits.sum() * 0.0
    return distributed.weighed(loss, len(targets))


def answer(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the answer vocabulary; targets of -100 (answer unknown to it) do not count."""
    known = int((targets >= 0).sum())
    loss = F.cross_entropy(logits.float(), targets, ignore_index=-100) if known else logits.sum() * 0.0
    return distributed.weighed(loss, known)


def names(video_BE: Tensor, name_NE: Tensor, teacher_BN: Tensor, temperature: float) -> Tensor:
    """Soft-label cross-entropy between a classifier's probabilities (B, N) and the video's over embedded names."""
    log_student = F.log_softmax(_similarity(video_BE, name_NE, temperature) / temperature, dim=-1)
    return -(teacher_BN * log_student).sum(dim=-1).mean()
