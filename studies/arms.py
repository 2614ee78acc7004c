"""The arms of every claim of the study, as recipes for all seeds.

All arms start from the same public parts (an ImageNet CNN and a sentence encoder), unless the claim is about them. The
arms of a claim differ in one thing and have equal compute, which determines their steps (`studies.compute`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.corpora import HIGH, LOW, SHARES
from training.recipe import Recipe

SEEDS = (0, 1, 2)
PRETRAINING, TUNING, ADAPTING, WHOLE, UNSEEN = 80, 60, 50, 80, 120
"""Numbers of steps of reference arms: for pre-training, fine-tuning, adaptation, arms with one stage, and arms whose
encoder of visual tokens starts from random weights."""

CLAIMS: Mapping[str, str] = {
    "labels": "Pre-training, then fine-tuning, against training from scratch",
    "end-to-end": "End-to-end against frozen visual features",
    "dictionary": "Visual dictionary and masked visual modelling against none",
    "resolution": "One high-resolution frame among low-resolution ones, against all low and all high",
    "tokens": "Self-attention against convolution as the maker of visual tokens",
    "domain": "A model adapted on in-domain video with transcripts against the unadapted one",
    "sound": "Sound as a third modality against text and video alone, searched by sight",
    "depth": "Exact depth maps as one more stream against frames alone",
}

PICTURES = ("flickr8k t2v R@1", "flickr8k t2v R@10", "daquar exact", "pictogram_stills t2v R@10")
FILMS = ("scenes t2v R@1", "scenes t2v R@10", "scenes right caption match")
METRICS: Mapping[str, tuple[str, ...]] = {
    "labels": FILMS,
    "end-to-end": PICTURES + FILMS,
    "dictionary": PICTURES,
    "resolution": FILMS,
    "tokens": (
        "scenes objects",
        "scenes objects (colour)",
        "scenes objects (shape)",
        "scenes objects (digit)",
        "scenes exact",
        "scenes exact of another video",
    ),
    "domain": (*FILMS, "flickr8k t2v R@1", "flickr8k t2v R@10"),
    "sound": FILMS,
    "depth": FILMS,
}
"""Metrics of a claim's arms, as corpus and metric."""

Objectives = dict[str, float]
Source = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One line of a claim's table."""

    claim: str
    name: str
    architecture: str
    datasets: tuple[Source, ...]
    reference: str
    """Arm of the same claim to which `steps` refers; this arm gets the number of steps with equal compute."""
    steps: int
    follows: str | None = None
    """Arm of the same claim and seed whose checkpoint this arm continues."""
    geometry: str = "hybrid"
    init: str = "pretrained"
    backbone_lr_mult: float = 0.6
    model: Mapping[str, Any] = field(default_factory=dict)
    flow: str | None = None
    """Corpus on whose test split the inter-modality flow is measured; None: not measured."""
    measured: bool = True
    """Whether the arm is evaluated. False: it is only the start of other arms."""
    exported: bool = False
    """Whether the checkpoint of every run is kept, for `vitascope export`."""

    @property
    def key(self) -> str:
        return f"{self.claim}/{self.name}"


def _flickr8k(weight: float, objectives: Objectives) -> Source:
    return {"corpus": "flickr8k", "weight": weight, "batch_size": 32, "min_crop": 0.7, "flip": True, "jitter": 0.2} | {
        "objectives": objectives
    }


def _scenes(weight: float, objectives: Objectives, corpus: str = "scenes") -> Source:
    return {"corpus": corpus, "weight": weight, "batch_size": 32, "jitter": 0.1, "detach_text": True} | {
        "objectives": objectives
    }


def _daquar(weight: float) -> Source:
    return {
        "corpus": "daquar",
        "weight": weight,
        "batch_size": 32,
        "min_crop": 0.8,
        "jitter": 0.2,
        "questions_per_video": 4,
    } | {
        "detach_text": True,
        "objectives": {"vqa": 1.0},
    }


def _pictograms(weight: float, objectives: Objectives) -> Source:
    return {
        "corpus": "pictogram_stills",
        "weight": weight,
        "batch_size": 32,
        "min_crop": 0.8,
        "zoom_out": 1.3,
        "jitter": 0.15,
    } | {
        "group_by": "hexcode",
        "objectives": objectives,
    }


PAIRS = {"itc": 1.0, "itm": 0.5}
"""Objectives of vision-language pre-training on captions only."""
WORDS = PAIRS | {"mlm": 0.3}
HEARD = {"text_audio": 1.0, "video_audio": 1.0, "text_video_audio": 1.0}
"""Contrastive objectives of sounds with texts and with videos, and of sound and video together with texts."""


def _mixture() -> tuple[Source, ...]:
    """Return a mixture of all four corpora, for ITC, matching and answers."""
    return _flickr8k(0.45, PAIRS), _scenes(0.25, PAIRS), _daquar(0.1), _pictograms(0.2, {"itc": 1.0})


def _pictures(extra: Objectives | None = None) -> tuple[Source, ...]:
    """Datasets of pictures. extra: Further objectives of captioned pictures."""
    extra = extra or {}
    return (
        _flickr8k(0.55, PAIRS | extra),
        _daquar(0.15),
        _pictograms(0.3, {"itc": 1.0} | extra),
    )


SQUARE = {"high_height": HIGH, "high_width": HIGH, "low_height": LOW, "low_width": LOW}
HD_VILA = SQUARE | {"grid_height": 4, "grid_width": 4, "dropout": 0.0}
IMAGE = {"image_height": HIGH, "image_width": HIGH, "grid_height": 4, "grid_width": 4, "dropout": 0.0}
LEVELS = {"swin_width": 48, "swin_depths": [2] * 4, "swin_heads": [2, 4, 8, 16]}
SWIN = IMAGE | LEVELS | {"backbone": "", "window": 4, "patch": 4}
NO_DICTIONARY = IMAGE | {"entries": 0}
LEARNED_CNN = NO_DICTIONARY | {"frozen_stages": 0, "frozen_norm": False}
WITH_DEPTH = HD_VILA | {"depth": True}
ALL_LOW = HD_VILA | {"high_height": LOW, "high_width": LOW}
ALL_HIGH = HD_VILA | {"low_height": HIGH, "low_width": HIGH, "grid_height": 8, "grid_width": 8}


def _labels() -> list[Arm]:
    weak = (_scenes(0.5, WORDS, "scenes_spoken"), _flickr8k(0.3, WORDS), _pictograms(0.2, {"itc": 1.0}))
    arms = [Arm("labels", "pretraining", "hd-vila", weak, "pretraining", PRETRAINING, model=HD_VILA, measured=False)]
    for percent in SHARES:
        tuned, scratch = f"pre-trained, {percent}% of the labels", f"from scratch, {percent}% of the labels"
        labelled = (_scenes(1.0, PAIRS, f"scenes_{percent}"),)
        arms.append(Arm("labels", tuned, "hd-vila", labelled, tuned, TUNING, follows="pretraining", model=HD_VILA))
        # The compute of pre-training is added, so that both arms have the same total compute.
        arms.append(Arm("labels", scratch, "hd-vila", labelled, tuned, TUNING, model=HD_VILA))
    return arms


def _arms() -> list[Arm]:
    mixture = _mixture()
    general = (_flickr8k(0.7, WORDS), _pictograms(0.3, {"itc": 1.0}))
    films = (_scenes(1.0, PAIRS),)
    spoken = (_scenes(0.7, WORDS, "scenes_spoken"), _flickr8k(0.3, WORDS))
    heard = (_scenes(0.5, PAIRS), _scenes(0.5, HEARD, "sound_scenes"))
    # Only the sentence encoder is pretrained: there is no public Swin of this size. From random weights
    # in so few steps neither learns from captions or questions only, so dense object supervision is added.
    unseen: dict[str, Any] = {"init": "text", "backbone_lr_mult": 1.0, "flow": "scenes"}
    looked_at = (_scenes(1.0, {"objects": 1.0, "vqa": 1.0}) | {"questions_per_video": 2},)
    return [
        *_labels(),
        Arm("end-to-end", "end to end", "hd-vila", mixture, "end to end", WHOLE, model=HD_VILA),
        Arm("end-to-end", "frozen", "hd-vila", mixture, "end to end", WHOLE, model=HD_VILA | {"frozen_stages": 5}),
        Arm("dictionary", "none", "soho", _pictures(), "none", WHOLE, model=NO_DICTIONARY),
        Arm("dictionary", "dictionary", "soho", _pictures({"mvm": 0.3}), "none", WHOLE, model=IMAGE),
        Arm("resolution", "one high", "hd-vila", films, "one high", WHOLE, model=HD_VILA),
        Arm("resolution", "all low", "hd-vila", films, "one high", WHOLE, geometry="low", model=ALL_LOW),
        Arm("resolution", "all high", "hd-vila", films, "one high", WHOLE, geometry="high", model=ALL_HIGH),
        Arm("depth", "frames", "hd-vila", films, "frames", WHOLE, geometry="depth", model=HD_VILA),
        Arm(
            "depth",
            "frames and depth",
            "hd-vila",
            films,
            "frames",
            WHOLE,
            geometry="depth",
            model=WITH_DEPTH,
            exported=True,
        ),
        Arm("tokens", "convolution", "soho", looked_at, "convolution", UNSEEN, model=LEARNED_CNN, **unseen),
        Arm("tokens", "self-attention", "visual-parsing", looked_at, "convolution", UNSEEN, model=SWIN, **unseen),
        Arm("domain", "general", "hd-vila", general, "general", PRETRAINING, model=HD_VILA, measured=False),
        Arm("domain", "unadapted", "hd-vila", general, "unadapted", ADAPTING, follows="general", model=HD_VILA),
        Arm("domain", "adapted", "hd-vila", spoken, "unadapted", ADAPTING, follows="general", model=HD_VILA),
        Arm("sound", "without sound", "hd-vila", films, "without sound", WHOLE, model=HD_VILA),
        Arm("sound", "with sound", "hd-vila", heard, "without sound", WHOLE, model=HD_VILA | {"audio": "tiny"}),
    ]


ARMS: Mapping[str, Arm] = {arm.key: arm for arm in _arms()}


def corpora_of(claims: Collection[str]) -> set[tuple[str, str]]:
    """Return the geometries and names of the corpora that the arms of some claims are trained on."""
    arms = [arm for arm in ARMS.values() if arm.claim in claims]
    return {(arm.geometry, source["corpus"]) for arm in arms for source in arm.datasets}


def recipe(arm: Arm, seed: int, steps: int) -> Recipe:
    """Return an arm as a training recipe with the given number of steps."""
    stage = {
        "name": "study",
        "steps": steps,
        "learning_rate": 5e-4,
        "min_lr_ratio": 0.05,
        "fused_lr_mult": 1.0,
        "backbone_lr_mult": arm.backbone_lr_mult,
        # With such small pictures, text layers take nine tenths of a step's time, so separate text layers are frozen.
        "text_lr_mult": 0.0 if arm.architecture == "hd-vila" else 0.2,
        "datasets": list(arm.datasets),
    }
    return Recipe.model_validate(
        {
            "name": f"study {arm.key}",
            "architecture": arm.architecture,
            "size": "tiny",
            "seed": seed,
            "init": arm.init,
            "threads": 1,
            "checkpoint_every": 50,
            "answers_from": [source["corpus"] for source in arm.datasets if "vqa" in source["objectives"]],
            "model": dict(arm.model),
            "stages": [stage],
        }
    )
