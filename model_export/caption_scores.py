"""The matrix of a bundle for CLIPScore, fitted so that scores agree better with people's grades of captions.

Embeddings are trained to find the caption of a clip, and any other caption counts as wrong. People also give credit to
a caption that is partly right. The matrix changes the embeddings of captions so that their cosine with a picture
follows the similarity between the caption and the captions that people wrote about that picture. Searches do not use
it, and the fingerprint does not change.

Shape letters: N videos, T captions, D embedding dim, S sentence embedding dim.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_export.assemble import Log, copy_files, finish, no_log, replace_bundle
from model_export.card import CAPTION_SCORES_KEY, METRICS_KEY, model_card, stored_metrics
from model_export.parity.checks import ParityReport
from model_export.sources import add_sources, corpus_source, listed_sources
from training.data.packed import Packed, open_packed
from training.evaluation.encoder import check_streams, embed_corpus, embed_texts
from training.models.pretrained import embed_sentences
from vitascope.bundle.bundle import Bundle
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.scoring import normalize_rows

MATRIX_NAME = "caption_matrix.npy"
"""File of the matrix, (D, D) float16: an embedding times the matrix, normalized, is used for CLIPScore."""
RIDGE = 1e-4
"""Weight of the squared difference from the identity. Chosen on the validation split of Flickr8k, by the agreement of
scores with CIDEr, and on synthetic scenes, whose wrong captions should not score higher than before."""

Floats = NDArray[np.float64]


def add_caption_scores(bundle: Path, data: Path, corpus: str, *, version: str | None = None, log: Log = no_log) -> Path:
    """Fit the matrix for CLIPScore to a corpus, and add it to a bundle; an existing one is replaced.

    Args:
        bundle: The bundle, which is changed in place.
        data: Folder of packed corpora.
        corpus: Corpus of pictures or videos with captions by people. The matrix is fitted to its training split; the
            correlation of scores and targets is measured on its validation split.
        version: New version of the bundle; None: unchanged.
        log: Called with progress messages.

    Returns:
        `bundle`. If it did not list the corpus as training data, it does now, with its terms of use.

    Raises:
        InvalidInput: The corpus is not packed, lacks captions or terms of use, or has other streams than the bundle; or
            the bundle has no text embeddings.
        ModuleNotFoundError: The pretrained sentence encoder is not installed.
    """
    opened = Bundle.open(bundle)
    model, manifest = Model(opened), opened.manifest
    if "retrieval" not in manifest.tasks:
        raise InvalidInput(f"caption_scores: {bundle} has tasks {manifest.tasks}; 'retrieval' was expected")
    train = _embed(model, open_packed(data / corpus / "train"), log)
    val = _embed(model, open_packed(data / corpus / "val"), log)
    matrix = fit_caption_matrix(train, RIDGE).astype(np.float16)
    before, after = correlation(val, np.eye(len(matrix))), correlation(val, matrix.astype(np.float64))
    log(f"correlation with the similarity of captions on {corpus}/val: {before:.3f} before, {after:.3f} after")
    facts = {"fitted_on": f"{corpus}/train", "videos": len(train.videos_ND), "captions": len(train.texts_TD)}
    facts |= {"measured_on": f"{corpus}/val", "before": round(before, 4), "after": round(after, 4)}
    parity, card = ((bundle / name).read_text("utf-8") for name in (manifest.parity_report, manifest.model_card))
    with replace_bundle(bundle) as folder:
        copy_files(opened, manifest.files, folder)
        np.save(folder / MATRIX_NAME, matrix)
        sources = [] if corpus in listed_sources(manifest) else [corpus_source(corpus, data)]
        fields: dict[str, Any] = manifest.model_dump() | add_sources(folder, manifest, sources)
        fields |= {
            "caption_matrix": MATRIX_NAME,
            "version": version or manifest.version,
            "extra": manifest.extra | {CAPTION_SCORES_KEY: facts},
        }
        if "provenance" in manifest.extra:  # else a public model, whose card is not written again
            fields["extra"] |= {METRICS_KEY: stored_metrics(opened)}
            report = ParityReport.model_validate_json(parity)
            finish(folder, fields, parity, lambda draft: model_card(draft, report))
        else:
            finish(folder, fields, parity, lambda _: card)
    return bundle


class CaptionedVideos(NamedTuple):
    """Embeddings of videos and of their captions.

    Attributes:
        videos_ND, texts_TD: Normalized embeddings by the model.
        sentences_TS: Sentence embeddings of the same captions.
        video_of_T: Index of the video that each caption belongs to; every video has at least one.
    """

    videos_ND: NDArray[np.floating]
    texts_TD: NDArray[np.floating]
    sentences_TS: NDArray[np.floating]
    video_of_T: NDArray[np.integer]


def fit_caption_matrix(data: CaptionedVideos, ridge: float) -> Floats:
    """Fit a matrix so that text embeddings times the matrix predict the similarity of captions, by ridge regression.

    The target of a video and a caption is the cosine between the mean sentence embedding of the video's captions and
    that of the caption, on the scale of the cosines of the given embeddings. All pairs of videos and captions count.

    Args:
        data: Embeddings to fit to.
        ridge: Weight of the squared difference from the identity.

    Returns:
        (D, D). With the identity, scores are the cosines of the given embeddings.
    """
    videos, texts = data.videos_ND.astype(np.float64), data.texts_TD.astype(np.float64)
    by_video, sentences = _similarity_factors(data)
    # Means over all N * T pairs, from products of means, as a table of all pairs would be too large.
    video_moment, text_moment = videos.T @ videos / len(videos), texts.T @ texts / len(texts)
    target_moment = np.sum((by_video.T @ by_video / len(videos)) * (sentences.T @ sentences / len(texts)))
    products = (videos.T @ by_video / len(videos)) @ (sentences.T @ texts / len(texts))
    mean_pair = np.outer(videos.mean(axis=0), texts.mean(axis=0))
    mean_cosine, mean_target = np.trace(mean_pair), by_video.mean(axis=0) @ sentences.mean(axis=0)
    slope = (np.trace(products) - mean_cosine * mean_target) / (target_moment - mean_target**2)
    targets = slope * products + (mean_cosine - slope * mean_target) * mean_pair
    # The normal equations, video_moment B text_moment + ridge B = targets + ridge I, are diagonal in these bases.
    video_values, video_basis = np.linalg.eigh(video_moment)
    text_values, text_basis = np.linalg.eigh(text_moment)
    rotated = video_basis.T @ (targets + ridge * np.eye(len(targets))) @ text_basis
    solution = video_basis @ (rotated / (np.outer(video_values, text_values) + ridge)) @ text_basis.T
    fitted: Floats = solution.T
    return fitted


def correlation(data: CaptionedVideos, matrix: Floats) -> float:
    """Return Pearson's correlation, over all pairs of videos and captions, of scores with the targets of the fit."""
    by_video, sentences = _similarity_factors(data)
    scores = data.videos_ND.astype(np.float64) @ normalize_rows(data.texts_TD.astype(np.float64) @ matrix).T
    return float(np.corrcoef(scores.ravel(), (by_video @ sentences.T).ravel())[0, 1])


def _similarity_factors(data: CaptionedVideos) -> tuple[Floats, Floats]:
    """Return normalized mean sentence embeddings of videos (N, S), and of captions (T, S), less their common mean."""
    sentences = data.sentences_TS.astype(np.float64)
    sentences = normalize_rows(sentences - sentences.mean(axis=0))
    sums = np.zeros((len(data.videos_ND), sentences.shape[1]))
    np.add.at(sums, data.video_of_T, sentences)
    return normalize_rows(sums), sentences


def _embed(model: Model, packed: Packed, log: Log) -> CaptionedVideos:
    check_streams(model, packed)
    if not all(example.captions for example in packed.examples):
        raise InvalidInput(f"caption_scores: {packed.folder} has examples without captions; none was expected")
    captions = [caption for example in packed.examples for caption in example.captions]
    video_of = np.repeat(np.arange(len(packed)), [len(example.captions) for example in packed.examples])
    log(f"embedding {len(packed)} videos and {len(captions)} captions of {packed.folder}")
    videos, _ = embed_corpus(model, packed)
    return CaptionedVideos(videos, embed_texts(model, captions), embed_sentences(captions), video_of)
