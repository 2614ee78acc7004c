"""The losses of one training step: one loss per objective of a batch.

Shape letters: B videos, C clips, V visual tokens, A audio tokens, L text tokens, P captions per video, Q questions per
video, W width of visual or audio tokens, D text width, E embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from torch import Tensor

from training.batch_encoding import (
    EncodedAudio,
    EncodedVideo,
    encode_audio,
    encode_text,
    encode_text_states,
    encode_video,
)
from training.data.batch import Batch, Tokens
from training.data.scenes.objects import ATTRIBUTE_WEIGHTS
from training.models.fusion import FusedModel
from training.models.text import VisualCache
from training.objectives import losses
from training.objectives.caption_rewards import CaptionSampler, caption_reward_loss
from training.objectives.captions import caption_loss
from training.objectives.class_names import most_likely
from training.objectives.class_prototypes import ClassPrototypes
from training.objectives.entailment import PooledStates, entailment_inputs, entailment_loss
from training.objectives.grounding import phrase_loss
from training.objectives.pooled_answers import pooled_answer_loss
from training.recipe import AUDIO_OBJECTIVES, TRAINED_PARTS
from training.text_states import MeanTextStates, TextStates, mean_text_state
from vitascope.errors import InvalidInput

NAMES_PER_STEP = 96
"""Number of class names that one step compares videos with: the most probable in the batch. With cached features, all
class names are used."""


class WordMasking(NamedTuple):
    """Constants of the tokenizer for masking words."""

    mask_id: int
    special: Tensor
    vocabulary: int


class NameTargets(NamedTuple):
    """Targets of the objective `class_names`."""

    tokens: Tokens
    """The texts of `class_texts`; the texts about a class are adjacent."""
    first: Tensor
    """(1001,) index of the first text about each class; the last entry is the number of texts."""
    teacher: Mapping[str, np.ndarray]
    """The classifier's probabilities (N, 1000) by corpus."""
    prototypes: ClassPrototypes | None = None
    """Replaces `teacher` in stages that cache the features of the classifier's own CNN."""


class StoredStates(NamedTuple):
    """Caches of the outputs of frozen layers; None: computed at every step."""

    means: MeanTextStates | None = None
    """Mean text states, for stages whose objectives use embeddings only."""
    texts: TextStates | None = None
    """Text states."""
    pooled: PooledStates | None = None
    """Inputs of the entailment head, for stages that train only this head."""


NOTHING_STORED = StoredStates()


def word_masking(tokenizer_file: Path, vocabulary: int) -> WordMasking:
    """Return the special ids of a BERT tokenizer. Raises InvalidInput when one is missing, such as [MASK]."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    special = [i for i in map(tokenizer.token_to_id, words) if i is not None]
    if len(special) < len(words):
        raise InvalidInput(f"{tokenizer_file}: a special word is missing; [PAD] [UNK] [CLS] [SEP] [MASK] were expected")
    return WordMasking(mask_id=special[-1], special=torch.tensor(special), vocabulary=vocabulary)


def compute_losses(
    model: FusedModel,
    batch: Batch,
    words: WordMasking,
    names: NameTargets | None,
    stored: StoredStates = NOTHING_STORED,
    sampler: CaptionSampler | None = None,
) -> dict[str, Tensor]:
    """Compute the unweighted loss of each objective of the batch's dataset.

    Args:
        model: In training mode.
        batch: On the model's device.
        words: For MLM.
        names: For the objective `class_names`; None if no dataset has it.
        stored: Cached outputs of frozen layers.
        sampler: For the objective `caption_reward`.

    Returns:
        Scalars in float32 by objective.
    """
    if batch.visual is not None and "visual" not in batch.visual and not batch.dataset.needs_tokens:
        # The batch has cached features or their means; under the key `visual` it would have visual tokens.
        return _embedding_losses(model, batch, names, stored.means or partial(mean_text_state, model))
    objectives = batch.dataset.objectives
    if stored.pooled is not None:
        return {"entailment": entailment_loss(model, batch, stored.pooled(batch))}
    if model.only_trained == TRAINED_PARTS["all_but_pooled_answers"].module:
        return {"vqa": pooled_answer_loss(model, batch, stored.means or partial(mean_text_state, model))}
    video, audio = encode_video(model, batch), encode_audio(model, batch)
    audio_tokens = None if audio is None else audio.tokens
    out: dict[str, Tensor] = {}
    if AUDIO_OBJECTIVES & set(objectives) and audio is not None:
        pictures = video.embedding if video.exists else None
        out |= _audio_losses(model, batch, pictures, audio, stored.means or partial(mean_text_state, model))
    cache = None
    if {"itm", "mlm", "vqa"} & set(objectives):
        cache = model.prepare_visual(video.tokens, audio_tokens)
    if batch.captions is not None and {"itc", "correlation", "itm"} & set(objectives):
        out |= _text_losses(model, batch, batch.captions, video, audio, cache, stored.texts)
    if "mlm" in objectives and batch.captions is not None and cache is not None:
        out["mlm"] = _mlm(model, batch, batch.captions, cache, words)
    if "captions" in objectives and batch.captions is not None:
        out["captions"] = caption_loss(model, batch.captions.ids, batch.captions.mask, video.tokens, audio_tokens)
    if "caption_reward" in objectives and sampler is not None:
        sampled = sampler.sample(batch.dataset.corpus, batch.rows, video.tokens, audio_tokens)
        out["caption_reward"] = caption_reward_loss(model, sampled, video.tokens, audio_tokens)
    if "grounding" in objectives and batch.phrases is not None and batch.boxes is not None:
        out["grounding"] = phrase_loss(model, batch.phrases.ids, batch.phrases.mask, video.tokens, batch.boxes)
    if "mvm" in objectives and batch.captions is not None and video.mask_context is not None:
        out["mvm"] = _mvm(model, batch, batch.captions, video.tokens, video.mask_context)
    if "vqa" in objectives and batch.questions is not None and batch.answers is not None and cache is not None:
        states = encode_text_states(model, batch.questions, detach=batch.dataset.detach_text, stored=stored.texts)
        out["vqa"] = losses.vqa(model.answer_logits(states, batch.questions.mask, cache), batch.answers)
    if "entailment" in objectives:
        out["entailment"] = entailment_loss(model, batch, entailment_inputs(model, batch, video))
    if "objects" in objectives and batch.positions is not None and batch.classes is not None:
        grid, logits = model.cfg.grid_of(video.tokens.shape[1]), model.object_logits(video.tokens)
        sizes = model.cfg.object_classes
        out["objects"] = losses.objects(logits, batch.positions, batch.classes, grid, sizes, ATTRIBUTE_WEIGHTS)
    if "class_names" in objectives and names is not None:
        out["class_names"] = _class_names(model, batch, video.embedding, names, model.cfg.temperature)
    return out


def _text_losses(
    model: FusedModel,
    batch: Batch,
    captions: Tokens,
    video: EncodedVideo,
    audio: EncodedAudio | None,
    cache: VisualCache | None,
    text_states: TextStates | None,
) -> dict[str, Tensor]:
    """Compute ITC, correlation and ITM, which share the encoded captions. cache: For ITM; None without ITM."""
    objectives, temperature = batch.dataset.objectives, model.cfg.temperature
    out: dict[str, Tensor] = {}
    text, states = encode_text(model, captions, batch.dataset, text_states)
    mean = model.mean_text_state(states, captions.mask)
    negatives = None
    if batch.negatives is not None:
        negatives, negative_states = encode_text(model, batch.negatives, batch.dataset, text_states)
    if "itc" in objectives:
        soft = None
        if batch.dataset.soft_targets:
            soft = batch.dataset.soft_targets * losses.caption_similarity(mean, len(batch.groups))
        out["itc"] = losses.itc(video.for_itc, text, temperature, batch.groups, negatives, soft)
    if "correlation" in objectives:
        out["correlation"] = losses.correlation(video.embedding, text, mean)
    if "itm" in objectives and cache is not None:
        positive = (states, captions.mask)
        in_batch = _in_batch_negatives(batch, _joint_embedding(video.embedding, audio), text, positive, temperature)
        minimal = None if batch.negatives is None else (negative_states, batch.negatives.mask)
        out["itm"] = _itm(model, cache, positive, in_batch, minimal, batch.dataset.captions_per_video)
    return out


def _embedding_losses(
    model: FusedModel, batch: Batch, names: NameTargets | None, text_states: Callable[[Tokens], Tensor]
) -> dict[str, Tensor]:
    """Compute the losses of a batch that has cached features, or their means over positions."""
    assert batch.visual is not None
    temperature = model.cfg.temperature
    video = model.embedding_of_features(_drop_tokens(batch.visual, batch.dataset.token_dropout))
    out: dict[str, Tensor] = {}
    objectives = batch.dataset.objectives
    if AUDIO_OBJECTIVES & set(objectives) and (audio := encode_audio(model, batch)) is not None:
        out |= _audio_losses(model, batch, video, audio, text_states)
    if batch.captions is not None and {"itc", "correlation"} & set(objectives):
        states = text_states(batch.captions)
        text = model.embedding_of_text_mean(states)
        if "itc" in objectives:
            negatives = None if batch.negatives is None else model.embedding_of_text_mean(text_states(batch.negatives))
            soft = None
            if batch.dataset.soft_targets:
                soft = batch.dataset.soft_targets * losses.caption_similarity(states.detach(), len(batch.groups))
            out["itc"] = losses.itc(video, text, temperature, batch.groups, negatives, soft)
        if "correlation" in objectives:
            out["correlation"] = losses.correlation(video, text, states)
    if "class_names" in objectives and names is not None:
        texts = names.tokens.take(_one_text_per_class(names.first))
        embedded = model.embedding_of_text_mean(text_states(texts))
        teacher = _teacher(batch, names).to(video.device)
        loss = losses.class_names(video, embedded, teacher, temperature)
        if batch.dataset.prototypes and names.prototypes is not None:
            some = {name: x[: batch.dataset.prototypes] for name, x in batch.visual.items()}
            some["pretrained"] = names.prototypes.move(some["pretrained"])
            some = _drop_tokens(some, 1.0)  # the visual tokens would still show the picture before the move
            teacher = names.prototypes.probabilities(some["pretrained"])
            moved = losses.class_names(model.embedding_of_features(some), embedded, teacher, temperature)
            loss = 0.5 * (loss + moved)
        out["class_names"] = loss
    return out


def _drop_tokens(means: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Replace the mean visual tokens (B, D) of a random share of the videos by the mean of the batch."""
    if not share:
        return dict(means)
    tokens = means["tokens"]
    dropped = torch.rand(len(tokens), 1, device=tokens.device) < share
    return {**means, "tokens": torch.where(dropped, tokens.mean(dim=0), tokens)}


def _one_text_per_class(first: Tensor) -> Tensor:
    """Return the index (1000,) of one text about each class: with probability 1/2 the first, else a random one."""
    counts = first.diff()
    drawn = (torch.rand(len(counts), device=first.device) * counts).long()
    return first[:-1] + drawn * torch.randint(2, (len(counts),), device=first.device)


def _joint_embedding(video_BE: Tensor, audio: EncodedAudio | None) -> Tensor:
    """Return the normalised sum (B, E) of the embeddings of each video and of its sound, if it has sound."""
    if audio is None:
        return video_BE
    joint = video_BE + audio.embedding * audio.present[:, None]
    return torch.nn.functional.normalize(joint, dim=-1)


def _audio_losses(
    model: FusedModel,
    batch: Batch,
    video_BE: Tensor | None,
    audio: EncodedAudio,
    text_states: Callable[[Tokens], Tensor],
) -> dict[str, Tensor]:
    """Compute the contrastive losses of sounds. Each loss uses only the examples that have both of its modalities.

    video_BE: Embeddings of the videos; None: the corpus has no pictures.
    """
    objectives, temperature = batch.dataset.objectives, model.cfg.temperature
    audio_groups = torch.where(audio.present, batch.groups, losses.MISSING)
    out: dict[str, Tensor] = {}
    if "video_audio" in objectives and video_BE is not None:
        out["video_audio"] = losses.paired_itc(video_BE, audio.embedding, temperature, audio_groups, audio_groups)
    if batch.captions is None or batch.audible is None:
        return out
    text = model.embedding_of_text_mean(text_states(batch.captions))
    groups = batch.groups.repeat_interleave(batch.dataset.captions_per_video)
    audible = batch.audible
    if batch.negatives is not None and batch.audible_negatives is not None:
        text = torch.cat([text, model.embedding_of_text_mean(text_states(batch.negatives))])
        groups = torch.cat([groups, torch.full_like(groups, losses.OTHER)])
        audible = torch.cat([audible, batch.audible_negatives])
    if "text_audio" in objectives:
        of_sound = torch.where(audible, groups, losses.MISSING)
        out["text_audio"] = losses.paired_itc(audio.embedding, text, temperature, audio_groups, of_sound)
    if "text_video_audio" in objectives and video_BE is not None:
        joint = _joint_embedding(video_BE, audio)
        out["text_video_audio"] = losses.paired_itc(joint, text, temperature, audio_groups, groups)
    return out


MaskedStates = tuple[Tensor, Tensor]
"""Text states (B, L, D) and their mask (B, L)."""


def _in_batch_negatives(
    batch: Batch, video: Tensor, text: Tensor, positive: MaskedStates, temperature: float
) -> MaskedStates | None:
    """Sample one caption of another video for each of the B * P captions; hard negatives are weighted by similarity.

    Return None if all videos are of one group, because then the batch has no negatives.
    """
    if bool((batch.groups == batch.groups[0]).all()):
        return None
    per_video = batch.dataset.captions_per_video
    if batch.dataset.negatives == "random":
        videos = losses.random_negatives(batch.groups)
    else:
        with torch.no_grad():
            videos = losses.hard_negatives(video @ text[::per_video].T, batch.groups, temperature)
    captions = (videos[:, None] * per_video + torch.arange(per_video, device=videos.device)).flatten()
    return positive[0][captions], positive[1][captions]


def _itm(
    model: FusedModel,
    cache: VisualCache,
    positive: MaskedStates,
    in_batch: MaskedStates | None,
    minimal: MaskedStates | None,
    per_video: int,
) -> Tensor:
    """Compute the ITM loss of captions against in-batch negatives and minimal negatives; None: there are none."""
    kinds = [texts for texts in (positive, in_batch, minimal) if texts is not None]
    length = max(states.shape[1] for states, _ in kinds)
    # Texts about a video must be adjacent, as `match_logits` expects.
    padded = zip(*(_pad(kind, length) for kind in kinds), strict=True)
    by_video = ([x.unflatten(0, (-1, per_video)) for x in parts] for parts in padded)
    states, mask = (torch.cat(parts, dim=1).flatten(0, 1) for parts in by_video)
    logits = model.match_logits(states, mask, cache).reshape(-1, len(kinds), per_video)
    loss = losses.itm(logits[:, 0], logits[:, 1:])
    return loss if minimal is None else loss + losses.itm_ranking(logits[:, 0], logits[:, -1])


def _pad(texts: MaskedStates, length: int) -> MaskedStates:
    extra = length - texts[0].shape[1]
    return torch.nn.functional.pad(texts[0], (0, 0, 0, extra)), torch.nn.functional.pad(texts[1], (0, extra))


def _mlm(model: FusedModel, batch: Batch, captions: Tokens, cache: VisualCache, words: WordMasking) -> Tensor:
    ids, targets = losses.mask_words(
        captions.ids,
        captions.mask,
        mask_id=words.mask_id,
        vocabulary=words.vocabulary,
        special=words.special,
        ratio=batch.dataset.mask_ratio,
    )
    states = encode_text_states(model, Tokens(ids, captions.mask), detach=batch.dataset.detach_text)
    masked = targets != losses.IGNORE_INDEX
    fused = model.fuse(states, captions.mask, cache)
    return losses.mlm(model.word_logits(fused[masked]), targets[masked])


def _mvm(model: FusedModel, batch: Batch, captions: Tokens, tokens: Tensor, mask_context: Tensor) -> Tensor:
    """Compute MVM: mask visual tokens of each video, and predict them with the video's first caption."""
    first = slice(None, None, batch.dataset.captions_per_video)
    texts = Tokens(captions.ids[first], captions.mask[first])
    states = encode_text_states(model, texts, detach=batch.dataset.detach_text)
    return model.masked_visual_loss(tokens, mask_context, states, texts.mask)


def _class_names(model: FusedModel, batch: Batch, video: Tensor, names: NameTargets, temperature: float) -> Tensor:
    classes, targets = most_likely(_teacher(batch, names).to(video.device), NAMES_PER_STEP)
    texts = names.tokens.take(names.first[classes])
    embedded, _ = model.encode_text(texts.ids, texts.mask)
    return losses.class_names(video, embedded, targets, temperature)


def _teacher(batch: Batch, names: NameTargets) -> Tensor:
    """Return the classifier's probabilities (B, 1000) of a batch."""
    if names.prototypes is not None and batch.visual is not None:
        return names.prototypes.probabilities(batch.visual["pretrained"])
    return torch.from_numpy(names.teacher[batch.dataset.corpus][batch.rows].astype(np.float32))
