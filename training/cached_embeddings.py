"""Embeddings and mean visual tokens of all cached videos of a stage.

Embeddings are for similar videos in batches and for the hubness correction, means for the pooled answer head.

Shape letters: N videos, E embedding dim, S similar videos, W width of visual tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.audio_batch import read_audio
from training.data.batches import Batches
from training.data.dataset import Dataset
from training.data.packed import Packed
from training.models.fusion import FusedModel
from training.text_states import TEXTS_PER_PASS
from vitascope.errors import InvalidInput

SIMILAR_VIDEOS = 16
"""Number of nearest videos that `similar_videos` draws from."""
HUB_CAPTIONS = 2
"""Captions per video from which `hub_references` are computed; two suffice, and take at most half of the time."""
VIDEOS_PER_PASS = 64


@torch.no_grad()
def similar_videos(model: FusedModel, dataset: Dataset) -> np.ndarray | None:
    """Return the indices (N, S) of the videos that are most similar to each video; None without `similar_videos`.

    Similarity is that of the sums of picture and sound embeddings. Raises InvalidInput if the videos are not cached.
    """
    config, usable = dataset.config, dataset.usable
    if not config.similar_videos:
        return None
    if dataset.visual is None:
        raise InvalidInput(
            f"similar_videos: {config.similar_videos} of {config.corpus!r}, whose videos are encoded at every "
            "step; cached videos were expected"
        )
    training = model.training
    model.eval()
    embeddings_NE = _embeddings(model, dataset.packed, dataset.visual, dataset.inputs.audio_seconds)
    similar = np.zeros((len(embeddings_NE), min(SIMILAR_VIDEOS, len(usable) - 1)), np.int64)
    for rows in np.array_split(usable, -(-len(usable) // 1024)):
        similarity = embeddings_NE[rows] @ embeddings_NE[usable].T
        similarity[torch.from_numpy(rows[:, None] == usable)] = -torch.inf
        similar[rows] = usable[similarity.topk(similar.shape[1], dim=1).indices.cpu().numpy()]
    model.train(training)
    return similar


def _embeddings(
    model: FusedModel, packed: Packed, cached: Mapping[str, np.ndarray], audio_seconds: float | None
) -> Tensor:
    """Return the normalised sums (N, E) of the embeddings of picture and sound of all cached videos."""
    videos = _embed_cached(model, cached)
    if packed.audio is None or audio_seconds is None:
        return videos
    sounds = []
    for start in range(0, len(videos), VIDEOS_PER_PASS):
        rows = np.arange(start, min(start + VIDEOS_PER_PASS, len(videos)))
        audio = read_audio(packed, rows, audio_seconds).to(model.device)
        embedding, _ = model.encode_audio(audio.samples, audio.lengths)
        sounds.append(embedding * audio.present[:, None])
    return F.normalize(videos + torch.cat(sounds), dim=-1)


def _embed_cached(model: FusedModel, cached: Mapping[str, np.ndarray]) -> Tensor:
    """Return the embeddings (N, E) of the first view of all cached videos."""
    return torch.cat([_embedding_of_cached(videos, model) for videos in _in_passes(model, cached, view=0)])


def _in_passes(model: FusedModel, cached: Mapping[str, np.ndarray], view: int) -> Iterator[dict[str, Tensor]]:
    """Yield a view of all cached videos in batches, on the model's device."""
    for start in range(0, next(iter(cached.values())).shape[1], VIDEOS_PER_PASS):
        rows = slice(start, start + VIDEOS_PER_PASS)
        yield {
            name: torch.from_numpy(views[view, rows].astype(np.float32)).to(model.device)
            for name, views in cached.items()
        }


@torch.no_grad()
def mean_visual_tokens(model: FusedModel, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the means of the visual tokens of videos, which are all that the pooled answer head reads of them.

    Args:
        model: In evaluation mode, except this head.
        features: Cached features, arrays (views, N, ...) by name.

    Returns:
        Under the name `visual` an array (views, N, 1, W) float32: the mean as a single visual token.
    """
    views = [
        torch.cat([model.tokens_of_features(x).mean(dim=1, keepdim=True) for x in _in_passes(model, features, view)])
        for view in range(len(next(iter(features.values()))))
    ]
    return {"visual": torch.stack(views).float().cpu().numpy()}


@torch.no_grad()
def correct_hubness(model: FusedModel, batches: Batches, seed: int) -> None:
    """Add a hubness correction to the model, computed from the captions and videos of a stage's datasets.

    Raises InvalidInput if the videos are not cached, or if there are fewer texts or videos than `hub_references`.
    """
    model.remove_hubness_correction()
    training = model.training
    model.eval()
    texts, videos = [], []
    for dataset in batches.datasets:
        examples = dataset.packed.examples[: dataset.config.limit]
        is_chosen = dataset.config.corpus in batches.stage.hub_corpora or not batches.stage.hub_corpora
        if not is_chosen or not any(example.captions for example in examples):
            continue
        if dataset.visual is None:
            raise InvalidInput(
                f"hub_references: {batches.stage.hub_references} in stage {batches.stage.name!r}, whose videos of "
                f"{dataset.config.corpus} are encoded at every step; cached videos were expected"
            )
        unique = {text for example in examples for text in example.captions[:HUB_CAPTIONS]}
        captions = sorted(unique, key=lambda text: (len(text), text))  # similar lengths need little padding
        for start in range(0, len(captions), TEXTS_PER_PASS):
            ids, mask = map(torch.from_numpy, batches.inputs.tokenizer.encode(captions[start : start + TEXTS_PER_PASS]))
            texts.append(model.encode_text(ids.to(model.device), mask.to(model.device))[0])
        videos.append(_embed_cached(model, dataset.visual))
    model.add_hubness_correction(torch.cat(texts), torch.cat(videos), batches.stage.hub_references, seed)
    model.train(training)


def _embedding_of_cached(cached: Mapping[str, Tensor], model: FusedModel) -> Tensor:
    """Return the embeddings (B, E) of cached outputs of `encode_frozen`."""
    if "visual" in cached:
        return model.video_embedding(cached["visual"])
    if next(iter(cached.values())).ndim == 2:  # means over positions
        return model.embedding_of_features(cached)
    return model.video_embedding(model.tokens_of_features(cached))
