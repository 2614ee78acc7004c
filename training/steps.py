"""One training step of HD-VILA: a batch and its source's objectives to one loss per objective."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch
from torch import Tensor

from training import masking, objectives
from training.batches import Batch, Tokens
from training.models.hdvila.model import HdVila
from training.models.text import Seen
from training.names import most_likely

NAMES_PER_STEP = 96
NAMES_INTERVAL = 3
"""The names objective runs at every third step of its source: embedding the names is as dear as the captions."""


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


def losses(model: HdVila, batch: Batch, step: int, words: WordMasking, names: NameTargets | None) -> dict[str, Tensor]:
    """Unweighted loss per objective of the batch's source (scalars, float32)."""
    wanted = batch.source.objectives
    temperature = model.cfg.temperature
    vector, visual = _video(model, batch)
    out: dict[str, Tensor] = {}
    seen = model.see(visual) if {"match", "masked_words", "answer"} & set(wanted) else None
    if batch.captions is not None and {"contrastive", "match"} & set(wanted):
        text, states = model.encode_text(batch.captions.ids, batch.captions.mask)
        wrong = None
        if batch.wrong is not None:
            wrong, wrong_states = model.encode_text(batch.wrong.ids, batch.wrong.mask)
        if "contrastive" in wanted:
            out["contrastive"] = objectives.contrastive(vector, text, temperature, batch.groups, wrong)
        if "match" in wanted and seen is not None:
            own = (states, batch.captions.mask)
            other = _negative_texts(batch, vector, text, own, temperature)
            if batch.wrong is not None:
                # Half of the negatives are another video's caption, half differ in a single word.
                other = _interleave(other, (wrong_states, batch.wrong.mask))
            out["match"] = _match(model, visual, seen, own, other)
    if "masked_words" in wanted and batch.captions is not None and seen is not None:
        out["masked_words"] = _masked_words(model, batch, batch.captions, seen, words)
    if "answer" in wanted and batch.questions is not None and batch.answers is not None and seen is not None:
        out["answer"] = _answer(model, batch, batch.questions, batch.answers, seen)
    if "names" in wanted and names is not None and step % NAMES_INTERVAL == 0:
        out["names"] = _names(model, batch, vector, names, temperature)
    return out


def _video(model: HdVila, batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.visual is not None:
        return model.video_vector(batch.visual), batch.visual
    assert batch.high is not None
    assert batch.low is not None
    return model.encode_video(batch.high, batch.low, batch.times)


States = tuple[Tensor, Tensor]
"""Text states (B, L, D) and their mask (B, L)."""


def _negative_texts(batch: Batch, vector: Tensor, text: Tensor, own: States, temperature: float) -> States:
    with torch.no_grad():
        picked = masking.hard_negatives(vector @ text.T, batch.groups, temperature)
    return own[0][picked], own[1][picked]


def _interleave(first: States, second: States) -> States:
    """Even samples of `first`, odd samples of `second`, padded to one length."""
    length = max(first[0].shape[1], second[0].shape[1])
    a, b = (_padded(states, length) for states in (first, second))
    odd = (torch.arange(a[0].shape[0]) % 2 == 1).to(a[0].device)
    return torch.where(odd[:, None, None], b[0], a[0]), torch.where(odd[:, None], b[1], a[1])


def _padded(states: States, length: int) -> States:
    extra = length - states[0].shape[1]
    return (
        torch.nn.functional.pad(states[0], (0, 0, 0, extra)),
        torch.nn.functional.pad(states[1], (0, extra)),
    )


def _match(model: HdVila, visual: Tensor, seen: Seen, own: States, other: States) -> Tensor:
    length = max(own[0].shape[1], other[0].shape[1])
    both = zip(_padded(own, length), _padded(other, length), strict=True)
    # A video's right and wrong text in a row, so that its tokens are read once.
    states, mask = (torch.stack(pair, dim=1).flatten(0, 1) for pair in both)
    positive, negative = model.match_logits(states, mask, visual, seen).reshape(-1, 2).unbind(dim=1)
    return objectives.match(positive, negative)


def _masked_words(model: HdVila, batch: Batch, captions: Tokens, seen: Seen, words: WordMasking) -> Tensor:
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
    return objectives.masked_words(model.word_logits(fused[chosen]), targets[chosen])


def _answer(model: HdVila, batch: Batch, questions: Tokens, answers: Tensor, seen: Seen) -> Tensor:
    states = _states(model, questions, batch.source.text_gradient)
    return objectives.answer(model.answer_logits(states, questions.mask, seen), answers)


def _states(model: HdVila, texts: Tokens, gradient: bool) -> Tensor:
    if gradient:
        return model.text.encode(texts.ids, texts.mask)
    with torch.no_grad():
        states = model.text.encode(texts.ids, texts.mask)
    # Autocast keeps the weights that it has cast here, without their gradient, for the rest of the step.
    torch.clear_autocast_cache()
    return states


def _names(model: HdVila, batch: Batch, vector: Tensor, names: NameTargets, temperature: float) -> Tensor:
    teacher = torch.from_numpy(names.teacher[batch.source.corpus][batch.rows].astype(np.float32)).to(vector.device)
    chosen, targets = most_likely(teacher, NAMES_PER_STEP)
    mask = names.tokens.mask[chosen]
    longest = int(mask.sum(dim=1).max())
    embedded, _ = model.encode_text(names.tokens.ids[chosen, :longest], mask[:, :longest])
    return objectives.names(vector, embedded, targets, temperature)
