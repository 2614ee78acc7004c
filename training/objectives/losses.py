"""Losses of all architectures, and the random choices of their targets: masked words and negative captions.

The mean of each loss over processes equals the loss of one process with all samples.

Shape letters: B videos, C clips, T texts, V visual tokens, L text tokens, K objects, A attributes, D embedding dim,
n positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training import distributed
from vitascope.errors import TrainingDiverged

IGNORE_INDEX = -100
MISSING, OTHER = -1, -2
"""Special groups of `paired_itc`: no such embedding, and a negative for all."""


def check_finite(values: Mapping[str, float], where: str, name: str = "loss") -> None:
    """Raise TrainingDiverged if a value is infinite or not a number. where: Step and corpus, for the message."""
    if not all(map(math.isfinite, values.values())):
        raise TrainingDiverged(f"{name}: {dict(values)} at {where}; finite values were expected: lower learning_rate")


def mask_words(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    mask_id: int,
    vocabulary: int,
    special: Tensor,
    ratio: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Mask words as in BERT (Devlin et al., 2019, section 3.1).

    Of the chosen words, 80% become [MASK], 10% become a random word and 10% stay.

    Args:
        input_ids: (B, L) int64.
        attention_mask: (B, L), 0 for padding.
        mask_id: Token id of [MASK].
        vocabulary: Number of tokens of the vocabulary, from which random words are drawn.
        special: (k,) ids that are never masked.
        ratio: Probability that a word is chosen.

    Returns:
        The masked ids (B, L) and the targets (B, L), -100 where no word was chosen.
    """
    device = input_ids.device
    eligible = attention_mask.bool() & ~torch.isin(input_ids, special.to(device))
    chosen = eligible & (torch.rand(input_ids.shape, device=device) < ratio)
    targets = torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORE_INDEX))
    draw = torch.rand(input_ids.shape, device=device)
    masked = torch.where(chosen & (draw < 0.8), torch.full_like(input_ids, mask_id), input_ids)
    random_ids = torch.randint(0, vocabulary, input_ids.shape, device=device)
    masked = torch.where(chosen & (draw >= 0.9), random_ids, masked)
    return masked, targets


def hard_negatives(similarity: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Sample one column of another group per row, with probability softmax(similarity / temperature).

    Args:
        similarity: (B, B).
        groups: (B,) int64; samples of the same group are not negatives of one another.
        temperature: Divisor of the similarities; lower values prefer more similar columns.

    Returns:
        Column indices (B,). A row for which there is no column of another group gets its own index.

    Raises TrainingDiverged if a similarity is infinite or not a number.
    """
    if not torch.isfinite(similarity).all():
        raise TrainingDiverged("similarity: infinite or not a number; finite values were expected: lower learning_rate")
    return _sample_columns(torch.softmax(similarity.float() / temperature, dim=1) + 1e-9, groups)


def random_negatives(groups: Tensor) -> Tensor:
    """Sample one column of another group per row, uniformly (SOHO, section 3.3). Returns as `hard_negatives`."""
    return _sample_columns(torch.ones(len(groups), len(groups), device=groups.device), groups)


def _sample_columns(weights_BB: Tensor, groups: Tensor) -> Tensor:
    allowed = groups[:, None] != groups[None, :]
    weights = weights_BB * allowed
    alone = ~allowed.any(dim=1)
    weights[alone] = torch.eye(len(weights), device=weights.device)[alone]
    return torch.multinomial(weights, 1).squeeze(1)


def pool_clip_similarity(similarity_BCT: Tensor, temperature: float) -> Tensor:
    """Pool the similarities of C clips with T texts by log-sum-exp, to (B, T) float32.

    The result is temperature * (log sum over c of exp(s_c / temperature) - log C): a soft maximum, which approaches the
    best clip as the temperature decreases. For equal similarities it is their value.
    """
    scaled = similarity_BCT.float() / temperature
    return temperature * (scaled.logsumexp(dim=1) - math.log(scaled.shape[1]))


def _similarity(video: Tensor, text_TD: Tensor, temperature: float) -> Tensor:
    """Return the similarity (B, T) float32 of video embeddings (B, D), or of clip embeddings (B, C, D), with texts.

    Computed in float32 even under autocast: a bfloat16 cosine has three digits, and dividing by a low temperature
    magnifies the error.
    """
    with torch.autocast(video.device.type, enabled=False):
        similarity = video.float() @ text_TD.float().T
        return pool_clip_similarity(similarity, temperature) if video.ndim == 3 else similarity


def itc(
    video: Tensor,
    text_TD: Tensor,
    temperature: float,
    groups: Tensor,
    negatives: Tensor | None = None,
    soft: Tensor | None = None,
) -> Tensor:
    """Compute the symmetric contrastive loss over the batch of all processes (HD-VILA, section 3.4, equations 3 to 5).

    Args:
        video: Embeddings of videos (B, D), or of their clips (B, C, D), whose similarities are pooled.
        text_TD: Text embeddings, the same number per video, the texts of a video adjacent.
        temperature: Divisor of the similarities.
        groups: (B,) int64. Samples of one group are not negatives of one another; they share the target.
        negatives: (M, D) further texts that are wrong for every video; used only in the direction video to text. Every
            process must pass the same number, or None.
        soft: (B, T) soft targets such as `caption_similarity`, of the videos and texts of all processes,
            multiplied by their share s; the other targets are multiplied by 1 - s.
    """
    video, text, groups = distributed.all_gather(video), distributed.all_gather(text_TD), distributed.all_gather(groups)
    same = (groups[:, None] == groups.repeat_interleave(len(text) // len(video))[None, :]).float()
    logits = _similarity(video, text, temperature) / temperature  # (B, T)
    to_text, target_text, target_video = logits, _distribution(same), _distribution(same.T)
    if soft is not None:
        share = soft.sum(dim=1).mean()  # the share of the soft target, by which the caller multiplied it
        target_text = (1.0 - share) * target_text + soft
        target_video = (1.0 - share) * target_video + share * _distribution(soft.T)
    if negatives is not None:
        negatives = distributed.all_gather(negatives)
        to_text = torch.cat([logits, _similarity(video, negatives, temperature) / temperature], dim=1)
        target_text = torch.cat([target_text, torch.zeros(len(video), len(negatives), device=logits.device)], dim=1)
    # cross_entropy takes class probabilities as target.
    return 0.5 * (F.cross_entropy(to_text, target_text) + F.cross_entropy(logits.T, target_video))


def paired_itc(
    first_ND: Tensor, second_MD: Tensor, temperature: float, first_groups: Tensor, second_groups: Tensor
) -> Tensor:
    """Compute the symmetric contrastive loss of two kinds of embeddings, some of which may be missing.

    Args:
        first_ND, second_MD: Embeddings of each kind; gathered from all processes.
        temperature: Divisor of the similarities.
        first_groups: (N,) int64. Embeddings with equal groups are positives of one another. MISSING: the row has no
            embedding. OTHER: the row is a negative for all.
        second_groups: (M,) int64, with the same meaning.

    Returns:
        The mean of both directions, each averaged over the embeddings that have a positive; 0 if there are none.
    """
    first, second = distributed.all_gather(first_ND), distributed.all_gather(second_MD)
    rows, columns = distributed.all_gather(first_groups), distributed.all_gather(second_groups)
    logits = _similarity(first, second, temperature) / temperature
    same = (rows[:, None] == columns[None, :]) & (rows >= 0)[:, None]
    return 0.5 * (
        _cross_entropy_of_existing(logits, same, columns) + _cross_entropy_of_existing(logits.T, same.T, rows)
    )


def _cross_entropy_of_existing(logits: Tensor, same: Tensor, columns: Tensor) -> Tensor:
    has_partner = same.any(dim=1)
    if not bool(has_partner.any()):
        return logits.sum() * 0.0
    existing = logits.masked_fill(columns == MISSING, -1e4)
    return F.cross_entropy(existing[has_partner], _distribution(same[has_partner].float()))


def _distribution(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=1, keepdim=True)


SOFT_TEMPERATURE = 0.05
"""Temperature of the similarity of captions in soft targets."""


@torch.no_grad()
def caption_similarity(states_TD: Tensor, videos: int) -> Tensor:
    """Return soft targets: for each video, a distribution over captions by similarity with its own captions.

    Captions that resemble those of the video get a part of the target, as human graders give partial credit.

    Args:
        states_TD: Mean text states of the captions of this process, the same number per video, the captions of a video
            adjacent.
        videos: Number of videos of this process.

    Returns:
        (B, T), of the videos and captions of all processes.
    """
    states, videos = distributed.all_gather(states_TD), videos * distributed.world_size()
    return torch.softmax(_caption_cosines(states, videos) / SOFT_TEMPERATURE, dim=1)


def _caption_cosines(states_TD: Tensor, videos: int) -> Tensor:
    """Return the cosines (B, T) of each video's mean caption with all captions, after subtracting the overall mean."""
    states = F.normalize(states_TD.float() - states_TD.float().mean(dim=0), dim=-1)
    by_video = F.normalize(states.reshape(videos, -1, states.shape[1]).mean(dim=1), dim=-1)
    return by_video @ states.T


def correlation(video_BD: Tensor, text_TD: Tensor, states_TD: Tensor) -> Tensor:
    """Compute 1 minus the Pearson correlation of video-text similarities with caption-caption similarities.

    The correlation is over all pairs of all processes. ITC only orders the captions of one video, and the videos of one
    caption. This loss puts all pairs on one scale, like human grades of captions. Since correlation ignores offset and
    scale, ITC determines them.

    Args:
        video_BD: Embeddings of videos.
        text_TD: Text embeddings, the same number per video, the texts of a video adjacent.
        states_TD: Mean text states of the same texts; see `caption_similarity`.
    """
    video, text = distributed.all_gather(video_BD), distributed.all_gather(text_TD)
    with torch.no_grad():
        target = _caption_cosines(distributed.all_gather(states_TD), len(video)).flatten()
    similarity = _similarity(video, text, 1.0).flatten()
    return 1.0 - F.cosine_similarity(similarity - similarity.mean(), target - target.mean(), dim=0)


def itm(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute the binary cross-entropy of matching logits (SOHO, section 3.3; HD-VILA publishes no loss for its head).

    positive, negative: Logits of matching and of other pairs, of any shape. Both kinds have the same total weight.
    Without negatives the loss is 0: positive pairs alone would train the head to always predict a match.
    """
    if not negative.numel():
        return positive.sum() * 0.0
    return 0.5 * (F.softplus(-positive.float()).mean() + F.softplus(negative.float()).mean())


def itm_ranking(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute the logistic ranking loss of matching logits: of captions (n,) and of their minimal negatives (n,)."""
    return F.softplus(negative.float() - positive.float()).mean()


def objects(
    logits_BVC: Tensor,
    positions: Tensor,
    classes: Tensor,
    grid: tuple[int, int],
    sizes: Sequence[int],
    weights: Sequence[float],
) -> Tensor:
    """Compute the loss of predicting, for each visual token, the presence of an object and its attributes.

    Args:
        logits_BVC: (B, V, 1 + sum of sizes): presence of an object, then the classes of each attribute.
        positions: (B, K, 2) x and y of the objects in the middle of the clip, as fractions of width and height.
        classes: (B, K, A) int64; `IGNORE_INDEX` for all attributes of an absent object, and for unknown attributes. If
            two objects are in one token, only the first counts.
        grid: Rows and columns of visual tokens.
        sizes: Number of classes of each attribute.
        weights: Weight of each attribute.

    Returns:
        The presence loss plus the weighted mean of the attribute losses.
    """
    token, readable = object_tokens(positions, classes, grid)
    present = torch.zeros(logits_BVC.shape[:2], device=logits_BVC.device)
    present.scatter_add_(1, token, (classes >= 0).any(dim=-1).float())
    logits = logits_BVC.float()
    loss = F.binary_cross_entropy_with_logits(logits[..., 0], present.clamp(max=1.0))
    at_object = logits.gather(1, token[..., None].expand(-1, -1, logits.shape[2]))[readable]
    targets = classes[readable]
    parts = torch.split(at_object[:, 1:], list(sizes), dim=1)
    by_attribute = [
        w
        * F.cross_entropy(p, targets[:, i], ignore_index=IGNORE_INDEX, reduction="sum")
        / (targets[:, i] >= 0).sum().clamp(min=1)
        for i, (p, w) in enumerate(zip(parts, weights, strict=True))
    ]
    return loss + distributed.global_mean(torch.stack(by_attribute).sum(), len(targets)) / sum(weights)


def object_tokens(positions: Tensor, classes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the index (B, K) int64 of each object's visual token, and the mask (B, K) bool of objects that count.

    Arguments as in `objects`. If two objects are in one token, only the first counts.
    """
    rows, columns = grid
    column, row = ((positions[..., i] * n).long().clamp(0, n - 1) for i, n in enumerate((columns, rows)))
    token = row * columns + column
    exists = (classes >= 0).any(dim=-1)
    same = (token[:, :, None] == token[:, None, :]) & exists[:, None, :]
    hidden = (same & torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril(-1)).any(dim=2)
    return token, exists & ~hidden


def mlm(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of logits (n, vocabulary) at masked positions; 0 when nothing was masked."""
    loss = F.cross_entropy(logits.float(), targets) if len(targets) else logits.sum() * 0.0
    return distributed.global_mean(loss, len(targets))


def vqa(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the cross-entropy of logits (n, answers), ignoring targets (n,) of -100 (not in the vocabulary)."""
    known = int((targets >= 0).sum())
    loss = logits.sum() * 0.0
    if known:
        loss = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, label_smoothing=label_smoothing)
    return distributed.global_mean(loss, known)


def class_names(video_BD: Tensor, name_ND: Tensor, teacher_BN: Tensor, temperature: float) -> Tensor:
    """Compute the cross-entropy of the similarities to N class names, with a classifier's probabilities as targets."""
    log_student = F.log_softmax(_similarity(video_BD, name_ND, temperature) / temperature, dim=-1)
    return -(teacher_BN * log_student).sum(dim=-1).mean()
