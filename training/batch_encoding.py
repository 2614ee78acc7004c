"""Encoding of a batch's videos, sounds and texts for the losses of a step.

Shape letters: B videos, C clips, V visual tokens, A audio tokens, L text tokens, P captions per video, W width of
visual or audio tokens, D text width, E embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.data.batch import Batch, Tokens
from training.models.fusion import FusedModel
from training.recipe import DatasetConfig
from training.text_states import TextStates


class EncodedVideo(NamedTuple):
    """The videos of a batch."""

    embedding: Tensor
    """(B, E)"""
    for_itc: Tensor
    """Embeddings for ITC: (B, E), or (B, C, E) if the similarities of clips are pooled."""
    tokens: Tensor
    """(B, V, W), mean over clips."""
    mask_context: Tensor | None = None
    """For MVM: the second result of `FusedModel.encode_for_masking`."""
    exists: bool = True
    """False: the corpus has no pictures, and all values are 0."""
    by_clip: Tensor | None = None
    """(B, C, V, W), the tokens of each clip; None if the batch has cached features."""


class EncodedAudio(NamedTuple):
    """The sounds of a batch."""

    embedding: Tensor
    """(B, E)"""
    tokens: Tensor
    """(B, A, W), 0 where there is no sound."""
    present: Tensor
    """(B,) bool: which videos have sound."""


def encode_audio(model: FusedModel, batch: Batch) -> EncodedAudio | None:
    if batch.audio is None or model.audio is None:
        return None
    samples = model.audio.trim(batch.audio.samples, batch.audio.lengths)
    embedding, tokens = model.encode_audio(samples, batch.audio.lengths, batch.dataset.spec_mask)
    return EncodedAudio(embedding, tokens, batch.audio.present)


def encode_video(model: FusedModel, batch: Batch) -> EncodedVideo:
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
    (by_clip,) = _in_micro_batches(lambda streams: (model.clip_tokens(streams, batch.times),), rows, batch.streams)
    tokens = by_clip.mean(dim=1)
    embedding = model.video_embedding(tokens)
    pooled = model.cfg.clip_merge == "logsumexp" and by_clip.shape[1] > 1
    for_itc = model.video_embedding(by_clip) if pooled else embedding
    return EncodedVideo(embedding, for_itc, tokens, by_clip=by_clip)


def encode_text(
    model: FusedModel, texts: Tokens, dataset: DatasetConfig, stored: TextStates | None = None
) -> tuple[Tensor, Tensor]:
    """Return the embeddings (B * P, E) and states (B * P, L, D) of the captions of a batch.

    stored: Cached text states, for stages that encode every text once.
    """
    if stored is not None:
        states = stored(texts)
        return model.text_embedding(states, texts.mask), states
    rows = dataset.micro_batch_size and dataset.micro_batch_size * dataset.captions_per_video
    inputs = {"ids": texts.ids, "mask": texts.mask}
    embedding, states = _in_micro_batches(lambda part: model.encode_text(part["ids"], part["mask"]), rows, inputs)
    return embedding, states


def _in_micro_batches(
    encode: Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]], rows: int | None, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Encode inputs (n, ...) in micro-batches of `rows` rows; None: all at once.

    As in the gradient cache of Gao et al. (2021), only outputs are kept, for a loss over all rows. The backward pass
    recomputes the activations of one micro-batch at a time, with the same random numbers.
    """
    count = len(next(iter(inputs.values())))
    if rows is None or rows >= count:
        return encode(inputs)
    # `checkpoint` looks for tensors in positional arguments to find the device whose random state it saves.
    parts = [
        checkpoint(encode, {name: x[start : start + rows] for name, x in inputs.items()}, use_reentrant=False)
        for start in range(0, count, rows)
    ]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def encode_text_states(model: FusedModel, texts: Tokens, *, detach: bool, stored: TextStates | None = None) -> Tensor:
    if stored is not None:
        return stored(texts)
    if not detach:
        return model.text.encode(texts.ids, texts.mask)
    with torch.no_grad():
        states = model.text.encode(texts.ids, texts.mask)
    # Autocast would reuse the weights it cast here, which have no gradient, for the rest of the step.
    torch.clear_autocast_cache()
    return states
