"""The objective `entailment`: classify sentences about videos, or about pairs of pictures.

Shape letters: B videos or pairs of pictures, K sentences about each, D width of the fused layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.batch_encoding import EncodedVideo, encode_audio, encode_text_states, encode_video
from training.data.batch import Batch, Tokens
from training.models.fusion import FusedModel
from training.text_states import text_keys
from vitascope.errors import InvalidInput


class PooledStates:
    """Cache of the entailment head's inputs, by video and sentence, for stages that train only this head.

    If any pair of a batch is not in the cache, the fused layers run for the whole batch. The stored values depend
    slightly on the padding and on the sound window drawn for that batch, so a resumed run may differ.
    """

    def __init__(self, model: FusedModel) -> None:
        self._model = model
        self._stored: dict[tuple[str, int, bytes], Tensor] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Return the inputs (B * K, 3D) of the entailment head."""
        sentences = text_keys(_sentences(batch))
        count = len(sentences) // len(batch.rows)
        dataset = batch.dataset
        source = f"{dataset.corpus}/{dataset.split}/{dataset.sounds_of}"
        keys = [(source, int(batch.rows[i // count]), sentence) for i, sentence in enumerate(sentences)]
        if not all(key in self._stored for key in keys):
            pooled = entailment_inputs(self._model, batch, encode_video(self._model, batch))
            self._stored.update(zip(keys, pooled.float(), strict=True))
        return torch.stack([self._stored[key] for key in keys])


def entailment_inputs(model: FusedModel, batch: Batch, video: EncodedVideo) -> Tensor:
    """Return the inputs of the entailment head: (B * K, 3D), or (B * K, 6D) for pairs of pictures.

    Raises InvalidInput for the kind `pair` with a corpus whose examples do not have two pictures.
    """
    sentences = _sentences(batch)
    states = encode_text_states(model, sentences, detach=batch.dataset.detach_text)
    pictures = video.tokens
    if model.get_entailment_head().premises > 1:
        if video.by_clip is None or video.by_clip.shape[1] != model.get_entailment_head().premises:
            raise InvalidInput(
                f"entailment: 'pair' with {batch.dataset.corpus!r}; two pictures per example were expected"
            )
        pictures = video.by_clip.flatten(0, 1)
    audio = encode_audio(model, batch)
    cache = model.prepare_visual(pictures, None if audio is None else audio.tokens)
    return model.entailment_inputs(states, sentences.mask, cache)


def entailment_loss(model: FusedModel, batch: Batch, inputs: Tensor) -> Tensor:
    """Compute the cross-entropy of the classes. inputs: Result of `entailment_inputs`."""
    assert batch.labels is not None
    return F.cross_entropy(model.get_entailment_head()(inputs).float(), batch.labels)


def _sentences(batch: Batch) -> Tokens:
    assert batch.hypotheses is not None
    return batch.hypotheses
