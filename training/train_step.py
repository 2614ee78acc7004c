"""One training step: a batch and its source's objectives to one loss per objective."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from torch import Tensor

from training.data.batches import Batch, Tokens
from training.data.scenes.objects import WEIGHTS
from training.models.fusion import FusedModel
from training.models.text import Seen
from training.objectives import losses, masking
from training.objectives.class_names import most_likely

NAMES_PER_STEP = 96


@dataclass(frozen=True)
class NameTargets:
    """Tokens of all class names and, per corpus, the teacher's probabilities (N, classes)."""

    tokens: Tokens
    teacher: dict[str, np.ndarray]


@dataclass(frozen=True)
class WordMasking:
    """What masking needs to know of the tokenizer."""

    mask_id: int
    special: Tensor
    vocabulary: int


def word_masking(tokenizer_file: Path, vocabulary: int) -> WordMasking:
    """The special ids of a BERT tokenizer. Raises ValueError when it has no [MASK]."""
    inner = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    special = [i for i in map(inner.token_to_id, words) if i is not None]
    if len(special) < len(words):
        raise ValueError(f"{tokenizer_file}: a special word is missing; [PAD] [UNK] [CLS] [SEP] [MASK] were expected")
    return WordMasking(mask_id=special[-1], special=torch.tensor(special), vocabulary=vocabulary)


def compute_losses(model: FusedModel, batch: Batch, words: WordMasking, names: NameTargets | None) -> dict[str, Tensor]:
    """Unweighted loss per objective of the batch's source (scalars, float32)."""
    wanted = batch.source.objectives
    temperature = model.cfg.temperature
    vector, apart, visual, parts = _video(model, batch)
    out: dict[str, Tensor] = {}
    seen = model.see(visual) if {"match", "masked_words", "answer"} & set(wanted) else None
    if batch.captions is not None and {"contrastive", "match"} & set(wanted):
        text, states = model.encode_text(batch.captions.ids, batch.captions.mask)
        wrong = None
        if batch.wrong is not None:
            wrong, wrong_states = model.encode_text(batch.wrong.ids, batch.wrong.mask)
        if "contrastive" in wanted:
            first = text[:: batch.source.pairs]
            out["contrastive"] = losses.contrastive(apart, first, temperature, batch.groups, wrong)
        if "match" in wanted and seen is not None:
            right = (states, batch.captions.mask)
            foreign = _foreign_texts(batch, vector, text, right, temperature)
            false = None if batch.wrong is None else (wrong_states, batch.wrong.mask)
            out["match"] = _match(model, seen, right, foreign, false, batch.source.pairs)
    if "masked_words" in wanted and batch.captions is not None and seen is not None:
        out["masked_words"] = _masked_words(model, batch, batch.captions, seen, words)
    if "masked_visual" in wanted and batch.captions is not None and parts is not None:
        out["masked_visual"] = _masked_visual(model, batch, batch.captions, visual, parts)
    if "answer" in wanted and batch.questions is not None and batch.answers is not None and seen is not None:
        out["answer"] = _answer(model, batch, batch.questions, batch.answers, seen)
    if "objects" in wanted and batch.places is not None and batch.classes is not None:
        out["objects"] = _objects(model, visual, batch.places, batch.classes)
    if "names" in wanted and names is not None:
        out["names"] = _names(model, batch, vector, names, temperature)
    return out


class Video(NamedTuple):
    """What a batch's videos became."""

    vector: Tensor
    """(B, E)"""
    apart: Tensor
    """What contrast compares with texts: (B, E), or (B, C, E) where the similarities of clips are merged."""
    visual: Tensor
    """(B, V, W), means over clips."""
    parts: Tensor | None = None
    """Where visual tokens are to be masked, what decides which."""


def _video(model: FusedModel, batch: Batch) -> Video:
    if batch.visual is not None:
        vector = model.video_vector(batch.visual)
        return Video(vector, vector, batch.visual)
    assert batch.streams is not None
    if "masked_visual" in batch.source.objectives:
        tokens, parts = model.encode_maskable(batch.streams)
        vector = model.video_vector(tokens)
        return Video(vector, vector, tokens, parts)
    of_clips = model.clip_tokens(batch.streams, batch.times)
    visual = of_clips.mean(dim=1)
    vector = model.video_vector(visual)
    merges = model.cfg.clip_merge == "logsumexp" and of_clips.shape[1] > 1
    return Video(vector, model.video_vector(of_clips) if merges else vector, visual)


States = tuple[Tensor, Tensor]
"""Text states (B, L, D) and their mask (B, L)."""


def _foreign_texts(batch: Batch, vector: Tensor, text: Tensor, own: States, temperature: float) -> States | None:
    """For each caption (B * P) one of another video: any, or the likelier the more similar its first caption is.

    None where all videos are of one group: then no caption of the batch is wrong.
    """
    if bool((batch.groups == batch.groups[0]).all()):
        return None
    pairs = batch.source.pairs
    if batch.source.negatives == "random":
        picked = masking.random_negatives(batch.groups)
    else:
        with torch.no_grad():
            picked = masking.hard_negatives(vector @ text[::pairs].T, batch.groups, temperature)
    texts = (picked[:, None] * pairs + torch.arange(pairs, device=picked.device)).flatten()
    return own[0][texts], own[1][texts]


def _padded(states: States, length: int) -> States:
    extra = length - states[0].shape[1]
    return (
        torch.nn.functional.pad(states[0], (0, 0, 0, extra)),
        torch.nn.functional.pad(states[1], (0, extra)),
    )


def _match(
    model: FusedModel, seen: Seen, right: States, foreign: States | None, false: States | None, pairs: int
) -> Tensor:
    """Right captions against those of other videos and against minimally wrong ones, where there are any."""
    kinds = [texts for texts in (right, foreign, false) if texts is not None]
    length = max(states.shape[1] for states, _ in kinds)
    # All texts about a video in a row, so that its tokens are read once.
    together = zip(*(_padded(kind, length) for kind in kinds), strict=True)
    states, mask = (torch.cat([x.unflatten(0, (-1, pairs)) for x in parts], dim=1).flatten(0, 1) for parts in together)
    logits = model.match_logits(states, mask, seen).reshape(-1, len(kinds), pairs)
    loss = losses.match(logits[:, 0], logits[:, 1:])
    return loss if false is None else loss + losses.ranking(logits[:, 0], logits[:, -1])


def _objects(model: FusedModel, visual: Tensor, places: Tensor, classes: Tensor) -> Tensor:
    grid = model.grid_of(visual.shape[1])
    return losses.objects(model.object_logits(visual), places, classes, grid, model.cfg.object_classes, WEIGHTS)


def _masked_words(model: FusedModel, batch: Batch, captions: Tokens, seen: Seen, words: WordMasking) -> Tensor:
    ids, targets = masking.mask_words(
        captions.ids,
        captions.mask,
        mask_id=words.mask_id,
        vocabulary=words.vocabulary,
        special=words.special,
        share=batch.source.mask_share,
    )
    states = _states(model, Tokens(ids, captions.mask), batch.source.text_gradient)
    chosen = targets != masking.IGNORED
    fused = model.fuse(states, captions.mask, seen)
    return losses.masked_words(model.word_logits(fused[chosen]), targets[chosen])


def _masked_visual(model: FusedModel, batch: Batch, captions: Tokens, visual: Tensor, parts: Tensor) -> Tensor:
    """Each video with its first caption."""
    first = slice(None, None, batch.source.pairs)
    states = _states(model, Tokens(captions.ids[first], captions.mask[first]), batch.source.text_gradient)
    return model.masked_visual(visual, parts, states, captions.mask[first])


def _answer(model: FusedModel, batch: Batch, questions: Tokens, answers: Tensor, seen: Seen) -> Tensor:
    states = _states(model, questions, batch.source.text_gradient)
    return losses.answer(model.answer_logits(states, questions.mask, seen), answers)


def _states(model: FusedModel, texts: Tokens, gradient: bool) -> Tensor:
    if gradient:
        return model.text.encode(texts.ids, texts.mask)
    with torch.no_grad():
        states = model.text.encode(texts.ids, texts.mask)
    # Autocast keeps the weights that it has cast here, without their gradient, for the rest of the step.
    torch.clear_autocast_cache()
    return states


def _names(model: FusedModel, batch: Batch, vector: Tensor, names: NameTargets, temperature: float) -> Tensor:
    teacher = torch.from_numpy(names.teacher[batch.source.corpus][batch.rows].astype(np.float32)).to(vector.device)
    chosen, targets = most_likely(teacher, NAMES_PER_STEP)
    mask = names.tokens.mask[chosen]
    longest = int(mask.sum(dim=1).max())
    embedded, _ = model.encode_text(names.tokens.ids[chosen, :longest], mask[:, :longest])
    return losses.names(vector, embedded, targets, temperature)
