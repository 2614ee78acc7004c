"""Class-name distillation: a classifier's probabilities on unlabelled images as soft labels over its class names.

The ImageNet CNN from which the visual encoders are initialized has 1,000 named classes. Its probabilities are the
target for the similarities of an image with the embedded class names. This aligns text with natural images, and needs
no labels.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from training import distributed
from training.data.packed import Packed
from training.models.pretrained import imagenet_classifier

MAX_SYNONYMS = 3
"""Maximum number of names of a class in `class_texts`."""
_SENTENCE = "a photo of a "
ABSENT_BELOW = 0.02
"""A class is absent where its probability is below this in every frame."""


def class_names() -> list[str]:
    """Return one short sentence per class, with the first synonym of its name."""
    return [texts[0] for texts in class_texts()]


def other_class_names(names: Collection[str]) -> list[str]:
    """Return the class names that neither contain any of `names` nor are contained in any of them, ignoring case."""
    known = [name.lower() for name in names]
    others = [text.removeprefix(_SENTENCE) for text in class_names()]
    return [other for other in others if not any(other.lower() in name or name in other.lower() for name in known)]


def class_texts() -> list[list[str]]:
    """Return texts about each class: sentences with its names, the names alone, and its definition in WordNet."""
    info: Any = ImageNetInfo()  # the package has no type information
    out = []
    for index in range(info.num_classes()):
        names, definition = info.index_to_description(index, detailed=True).split(": ", 1)
        synonyms = [name.strip() for name in names.split(",")][:MAX_SYNONYMS]
        sentences = [f"{_SENTENCE}{name}" for name in synonyms]
        out.append([*sentences, *synonyms, f"a {synonyms[0]}", f"{synonyms[0]}, {definition}", definition])
    return out


def teacher_probabilities(packed: Packed, cache: Path, *, bf16: bool = True) -> np.ndarray:
    """Return the classifier's probabilities (N, 1000) float16 of every high-resolution frame.

    They are computed once and stored in the folder `cache`. The file name has the corpus and its fingerprint.
    """
    precision = "bf16" if bf16 else "float32"
    path = cache / f"{packed.folder.parent.name}-{packed.folder.name}-{packed.fingerprint[:16]}-{precision}.npy"
    if path.exists():
        stored: np.ndarray = np.load(path)
        return stored
    result = classify(packed, bf16=bf16)
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npy")
    np.save(part, result)
    part.replace(path)
    return result


def classify(packed: Packed, *, bf16: bool = True) -> np.ndarray:
    """Compute the pretrained classifier's probabilities (N, 1000) float16 of each high-resolution frame.

    Probabilities are averaged over the clips of a video. bf16: compute with bfloat16 autocast.
    """
    classifier = imagenet_classifier()
    high = packed.frames("high")
    rows = []
    for start in range(0, len(high), 64):
        frames = torch.from_numpy(np.array(high[start : start + 64, :, 0]))  # (n, C, H, W, 3)
        pixels = (frames.flatten(0, 1).permute(0, 3, 1, 2).float() - 127.0) / 128.0
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            probabilities = classifier(pixels).float().softmax(dim=-1)
        rows.append(probabilities.reshape(*frames.shape[:2], -1).mean(dim=1).numpy().astype(np.float16))
    return np.concatenate(rows)


def most_likely(teacher_BN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices (count,) of the most probable classes over the batches of all processes, and the targets.

    The targets (B, count) are the probabilities of these classes, renormalised to sum to 1.
    """
    classes = distributed.all_reduce_sum(teacher_BN.sum(dim=0)).topk(count).indices
    targets = teacher_BN[:, classes] + 1e-6
    return classes, targets / targets.sum(dim=1, keepdim=True)


def absent_class_names(packed: Packed) -> list[str]:
    """Return the sentences of `class_names` whose class is below `ABSENT_BELOW` in every frame of a corpus."""
    likeliest = classify(packed).max(axis=0)
    return [name for name, probability in zip(class_names(), likeliest, strict=True) if probability < ABSENT_BELOW]
