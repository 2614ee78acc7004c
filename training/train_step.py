"""The losses of one training step: a batch in, one loss per objective out.

Shape letters: B videos, C clips, V visual tokens, A audio tokens, L text tokens, P captions per video, Q questions per
video, W width of visual or audio tokens, D text width, E embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.data.batches import Batch, Tokens
from training.data.scenes.objects import ATTRIBUTE_WEIGHTS
from training.models.fusion import FusedModel
from training.models.pretrained import PretrainedMaps
from training.models.text import VisualCache
from training.objectives import losses
from training.objectives.captions import caption_loss
from training.objectives.class_names import most_likely
from training.objectives.class_prototypes import ClassPrototypes
from training.objectives.grounding import phrase_loss
from training.recipe import AUDIO_OBJECTIVES, DatasetConfig
from training.text_states import MeanTextStates, mean_text_state

NAMES_PER_STEP = 96
"""Class names that one step compares videos with: those with most mass in the batch. Cached features: all."""


class WordMasking(NamedTuple):
    """Tokenizer constants that masking needs."""

    mask_id: int
    special: Tensor
    vocabulary: int


class NameTargets(NamedTuple):
    """The texts about classes as tokens, and the classifier's probabilities (N, 1000) by corpus."""

    tokens: Tokens
    """The texts of `class_texts`, those about a class adjacent."""
    first: Tensor
    """(1001,) Index of the first text about each class, and the number of texts."""
    teacher: Mapping[str, np.ndarray]
    prototypes: ClassPrototypes | None = None
    """For stages that cache features of the classifier's own CNN, which need no `teacher`."""


def word_masking(tokenizer_file: Path, vocabulary: int) -> WordMasking:
    """Return the special ids of a BERT tokenizer. Raises ValueError when one is missing, such as [MASK]."""
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    special = [i for i in map(tokenizer.token_to_id, words) if i is not None]
    if len(special) < len(words):
        raise ValueError(f"{tokenizer_file}: a special word is missing; [PAD] [UNK] [CLS] [SEP] [MASK] were expected")
    return WordMasking(mask_id=special[-1], special=torch.tensor(special), vocabulary=vocabulary)


class PooledStates:
    """What the classifier of sentences reads, by video and sentence, for stages that train it alone.

    Every pair passes the fused layers once: where the batch has one that did not, all of the batch do.
    """

    def __init__(self, model: FusedModel) -> None:
        self._model = model
        self._stored: dict[tuple[str, int, bytes], Tensor] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch, sentences: Tokens) -> Tensor:
        """Return the inputs (B * K, 3D) of the classifier."""
        ids, lengths = sentences.ids.cpu().numpy(), sentences.mask.sum(dim=1).tolist()
        count = len(ids) // len(batch.rows)
        keys = [
            (f"{batch.dataset.corpus}/{batch.dataset.split}", int(batch.rows[i // count]), row[:length].tobytes())
            for i, (row, length) in enumerate(zip(ids, lengths, strict=True))
        ]
        if not all(key in self._stored for key in keys):
            pooled = entailment_inputs(self._model, batch, sentences, _encode_video(self._model, batch))
            self._stored.update(zip(keys, pooled.float(), strict=True))
        return torch.stack([self._stored[key] for key in keys])


def entailment_inputs(model: FusedModel, batch: Batch, sentences: Tokens, video: EncodedVideo) -> Tensor:
    """Return what the classifier of sentences reads of a batch, (B * K, 3D), or of two pictures (B * K, 6D)."""
    states = _encode_text_states(model, sentences, detach=batch.dataset.detach_text)
    pictures = video.tokens
    if model.get_entailment_head().premises > 1:
        if video.by_clip is None or video.by_clip.shape[1] != model.get_entailment_head().premises:
            raise ValueError(
                f"entailment: 'pair' with {batch.dataset.corpus!r}; two pictures per example were expected"
            )
        pictures = video.by_clip.flatten(0, 1)
    audio = _encode_audio(model, batch)
    cache = model.prepare_visual(pictures, None if audio is None else audio.tokens)
    return model.entailment_inputs(states, sentences.mask, cache)


def compute_losses(
    model: FusedModel,
    batch: Batch,
    words: WordMasking,
    names: NameTargets | None,
    text_states: MeanTextStates | None = None,
    maps: PretrainedMaps | None = None,
    pooled_states: PooledStates | None = None,
) -> dict[str, Tensor]:
    """Compute the unweighted loss of each objective of the batch's dataset.

    Args:
        model: In training mode.
        batch: On the model's device.
        words: For MLM.
        names: For the objective `class_names`; None where no dataset has it.
        text_states: Of stages that encode every text once.
        maps: For the objective `cnn_features`.
        pooled_states: Of stages that train the classifier of entailment alone.

    Returns:
        Scalars in float32 by objective.
    """
    if batch.visual is not None and "visual" not in batch.visual and not batch.dataset.needs_tokens:
        # Features, or their means; `visual` would be tokens.
        return _embedding_losses(model, batch, names, text_states or partial(mean_text_state, model))
    objectives = batch.dataset.objectives
    if pooled_states is not None and batch.hypotheses is not None and batch.labels is not None:
        logits = model.get_entailment_head()(pooled_states(batch, batch.hypotheses))
        return {"entailment": torch.nn.functional.cross_entropy(logits.float(), batch.labels)}
    video, audio = _encode_video(model, batch), _encode_audio(model, batch)
    out: dict[str, Tensor] = {}
    if AUDIO_OBJECTIVES & set(objectives) and audio is not None:
        pictures = video.embedding if video.exists else None
        out |= _audio_losses(model, batch, pictures, audio, text_states or partial(mean_text_state, model))
    cache = None
    if {"itm", "mlm", "vqa"} & set(objectives):
        cache = model.prepare_visual(video.tokens, None if audio is None else audio.tokens)
    if batch.captions is not None and {"itc", "correlation", "itm"} & set(objectives):
        out |= _text_losses(model, batch, batch.captions, video, audio, cache)
    if "mlm" in objectives and batch.captions is not None and cache is not None:
        out["mlm"] = _mlm(model, batch, batch.captions, cache, words)
    if "captions" in objectives and batch.captions is not None:
        heard = None if audio is None else audio.tokens
        out["captions"] = caption_loss(model, batch.captions.ids, batch.captions.mask, video.tokens, heard)
    if "grounding" in objectives and batch.phrases is not None and batch.boxes is not None:
        out["grounding"] = phrase_loss(model, batch.phrases.ids, batch.phrases.mask, video.tokens, batch.boxes)
    if "mvm" in objectives and batch.captions is not None and video.mask_context is not None:
        out["mvm"] = _mvm(model, batch, batch.captions, video.tokens, video.mask_context)
    if "vqa" in objectives and batch.questions is not None and batch.answers is not None and cache is not None:
        states = _encode_text_states(model, batch.questions, detach=batch.dataset.detach_text)
        out["vqa"] = losses.vqa(model.answer_logits(states, batch.questions.mask, cache), batch.answers)
    if "entailment" in objectives and batch.hypotheses is not None and batch.labels is not None:
        logits = model.get_entailment_head()(entailment_inputs(model, batch, batch.hypotheses, video))
        out["entailment"] = torch.nn.functional.cross_entropy(logits.float(), batch.labels)
    if "objects" in objectives and batch.positions is not None and batch.classes is not None:
        grid, logits = model.grid_of(video.tokens.shape[1]), model.object_logits(video.tokens)
        sizes = model.cfg.object_classes
        out["objects"] = losses.objects(logits, batch.positions, batch.classes, grid, sizes, ATTRIBUTE_WEIGHTS)
    if "class_names" in objectives and names is not None:
        out["class_names"] = _class_names(model, batch, video.embedding, names, model.cfg.temperature)
    if "cnn_features" in objectives and batch.streams is not None and maps is not None:
        out["cnn_features"] = losses.map_regression(video.predicted_maps, maps(batch.streams))
    return out


def _text_losses(
    model: FusedModel,
    batch: Batch,
    captions: Tokens,
    video: EncodedVideo,
    audio: EncodedAudio | None,
    cache: VisualCache | None,
) -> dict[str, Tensor]:
    """Compute ITC, correlation and ITM, for which captions are encoded once. cache: For ITM."""
    objectives, temperature = batch.dataset.objectives, model.cfg.temperature
    out: dict[str, Tensor] = {}
    text, states = _encode_text(model, captions, batch.dataset)
    mean = model.mean_text_state(states, captions.mask)
    negatives = None
    if batch.negatives is not None:
        negatives, negative_states = _encode_text(model, batch.negatives, batch.dataset)
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
    """Compute the losses of a batch that holds features, or their means over positions."""
    assert batch.visual is not None
    temperature = model.cfg.temperature
    video = model.embedding_of_features(_drop_tokens(batch.visual, batch.dataset.token_dropout))
    out: dict[str, Tensor] = {}
    objectives = batch.dataset.objectives
    if AUDIO_OBJECTIVES & set(objectives) and (audio := _encode_audio(model, batch)) is not None:
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
            some = _drop_tokens(some, 1.0)  # they show the picture before it was moved
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
    """Return the index (1000,) of a random text about each class; the first one half of the time."""
    counts = first.diff()
    drawn = (torch.rand(len(counts), device=first.device) * counts).long()
    return first[:-1] + drawn * torch.randint(2, (len(counts),), device=first.device)


class EncodedVideo(NamedTuple):
    """The videos of a batch."""

    embedding: Tensor
    """(B, E)"""
    for_itc: Tensor
    """Embeddings compared by ITC: (B, E), or (B, C, E) where the similarities of clips are pooled."""
    tokens: Tensor
    """(B, V, W), mean over clips."""
    mask_context: Tensor | None = None
    """For MVM: what decides which tokens are masked together."""
    exists: bool = True
    """False: the corpus has no pictures, and all values are 0."""
    predicted_maps: Sequence[Tensor] = ()
    """For `cnn_features`."""
    by_clip: Tensor | None = None
    """(B, C, V, W), the tokens of each clip, where the videos are encoded at this step."""


class EncodedAudio(NamedTuple):
    """The sounds of a batch."""

    embedding: Tensor
    """(B, E)"""
    tokens: Tensor
    """(B, A, W), 0 where there is no sound."""
    present: Tensor
    """(B,) bool: which videos have sound."""


def _encode_audio(model: FusedModel, batch: Batch) -> EncodedAudio | None:
    if batch.audio is None or model.audio is None:
        return None
    samples = batch.audio.samples
    step = model.audio.cfg.token_frames * model.audio.cfg.hop
    longest = -(-int(batch.audio.lengths.max()) // step) * step  # of encoders that read any length
    if model.audio.cfg.encoder == "cnn" and 0 < longest < samples.shape[1]:
        samples = samples[:, :longest]
    embedding, tokens = model.encode_audio(samples, batch.audio.lengths, batch.dataset.spec_mask)
    return EncodedAudio(embedding, tokens, batch.audio.present)


def _joint_embedding(video_BE: Tensor, audio: EncodedAudio | None) -> Tensor:
    """Return the normalised sum (B, E) of the embeddings that each video has."""
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
    """Compute the contrastive losses of sounds, each over the examples that have what it compares.

    video_BE: Embeddings of the videos; None: the corpus has no pictures.
    """
    objectives, temperature = batch.dataset.objectives, model.cfg.temperature
    heard = torch.where(audio.present, batch.groups, losses.MISSING)
    out: dict[str, Tensor] = {}
    if "video_audio" in objectives and video_BE is not None:
        out["video_audio"] = losses.paired_itc(video_BE, audio.embedding, temperature, heard, heard)
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
        out["text_audio"] = losses.paired_itc(audio.embedding, text, temperature, heard, of_sound)
    if "text_video_audio" in objectives and video_BE is not None:
        joint = _joint_embedding(video_BE, audio)
        out["text_video_audio"] = losses.paired_itc(joint, text, temperature, heard, groups)
    return out


def _encode_video(model: FusedModel, batch: Batch) -> EncodedVideo:
    rows = batch.dataset.micro_batch_size
    if batch.visual is None and batch.streams is None:
        embedding = torch.zeros(len(batch.groups), model.cfg.vector_width, device=model.device)
        tokens = torch.zeros(len(batch.groups), model.cfg.visual_tokens, model.cfg.visual_width, device=model.device)
        return EncodedVideo(embedding, embedding, tokens, exists=False)
    if batch.visual is not None:
        if "visual" in batch.visual:
            tokens = batch.visual["visual"]
        else:
            (tokens,) = _in_micro_batches(lambda features: (model.tokens_of_features(features),), rows, batch.visual)
        embedding = model.video_embedding(tokens)
        return EncodedVideo(embedding, embedding, tokens)
    assert batch.streams is not None
    if "mvm" in batch.dataset.objectives:
        tokens, mask_context = model.encode_for_masking(batch.streams)
        embedding = model.video_embedding(tokens)
        return EncodedVideo(embedding, embedding, tokens, mask_context)
    if "cnn_features" in batch.dataset.objectives:
        tokens, predicted = model.predict_maps(batch.streams)
        embedding = model.video_embedding(tokens)
        return EncodedVideo(embedding, embedding, tokens, predicted_maps=predicted)
    (by_clip,) = _in_micro_batches(lambda streams: (model.clip_tokens(streams, batch.times),), rows, batch.streams)
    tokens = by_clip.mean(dim=1)
    embedding = model.video_embedding(tokens)
    pooled = model.cfg.clip_merge == "logsumexp" and by_clip.shape[1] > 1
    for_itc = model.video_embedding(by_clip) if pooled else embedding
    return EncodedVideo(embedding, for_itc, tokens, by_clip=by_clip)


def _encode_text(model: FusedModel, texts: Tokens, dataset: DatasetConfig) -> tuple[Tensor, Tensor]:
    """Return the embeddings (B * P, E) and states (B * P, L, D) of the captions of a batch."""
    rows = dataset.micro_batch_size and dataset.micro_batch_size * dataset.captions_per_video
    inputs = {"ids": texts.ids, "mask": texts.mask}
    embedding, states = _in_micro_batches(lambda part: model.encode_text(part["ids"], part["mask"]), rows, inputs)
    return embedding, states


def _in_micro_batches(
    encode: Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]], rows: int | None, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Encode inputs (n, ...) in micro-batches of so many rows; None: all at once.

    This is the gradient cache of Gao et al. (2021): only outputs are kept, for a loss over all rows; its backward pass
    computes the activations of one micro-batch at a time again, with the random numbers of the first time.
    """
    count = len(next(iter(inputs.values())))
    if rows is None or rows >= count:
        return encode(inputs)
    # As a positional argument, in which `checkpoint` looks for the device whose random state it saves.
    parts = [
        checkpoint(encode, {name: x[start : start + rows] for name, x in inputs.items()}, use_reentrant=False)
        for start in range(0, count, rows)
    ]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


TextStates = tuple[Tensor, Tensor]
"""Text states (B, L, D) and their mask (B, L)."""


def _in_batch_negatives(
    batch: Batch, video: Tensor, text: Tensor, positive: TextStates, temperature: float
) -> TextStates | None:
    """Sample one caption of another video per caption (B * P), weighted by similarity where negatives are hard.

    None where all videos are of one group: then no caption of the batch is a negative.
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
    positive: TextStates,
    in_batch: TextStates | None,
    minimal: TextStates | None,
    per_video: int,
) -> Tensor:
    """Match captions against in-batch and minimal negatives, where there are any."""
    kinds = [texts for texts in (positive, in_batch, minimal) if texts is not None]
    length = max(states.shape[1] for states, _ in kinds)
    # All texts about a video are adjacent, so that its visual tokens are read once.
    padded = zip(*(_pad(kind, length) for kind in kinds), strict=True)
    by_video = ([x.unflatten(0, (-1, per_video)) for x in parts] for parts in padded)
    states, mask = (torch.cat(parts, dim=1).flatten(0, 1) for parts in by_video)
    logits = model.match_logits(states, mask, cache).reshape(-1, len(kinds), per_video)
    loss = losses.itm(logits[:, 0], logits[:, 1:])
    return loss if minimal is None else loss + losses.itm_ranking(logits[:, 0], logits[:, -1])


def _pad(texts: TextStates, length: int) -> TextStates:
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
    states = _encode_text_states(model, Tokens(ids, captions.mask), detach=batch.dataset.detach_text)
    masked = targets != losses.IGNORE_INDEX
    fused = model.fuse(states, captions.mask, cache)
    return losses.mlm(model.word_logits(fused[masked]), targets[masked])


def _mvm(model: FusedModel, batch: Batch, captions: Tokens, tokens: Tensor, mask_context: Tensor) -> Tensor:
    """Mask visual tokens of each video, read with its first caption."""
    first = slice(None, None, batch.dataset.captions_per_video)
    texts = Tokens(captions.ids[first], captions.mask[first])
    states = _encode_text_states(model, texts, detach=batch.dataset.detach_text)
    return model.masked_visual_loss(tokens, mask_context, states, texts.mask)


def _encode_text_states(model: FusedModel, texts: Tokens, *, detach: bool) -> Tensor:
    if not detach:
        return model.text.encode(texts.ids, texts.mask)
    with torch.no_grad():
        states = model.text.encode(texts.ids, texts.mask)
    # Autocast would reuse the weights it cast here, which have no gradient, for the rest of the step.
    torch.clear_autocast_cache()
    return states


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
