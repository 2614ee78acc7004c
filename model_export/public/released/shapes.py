"""What the shapes of a released file's tensors tell of the model, since nothing else does.

Letters: D width.
"""

from __future__ import annotations

import re
from pathlib import Path

from model_export.public.folder import check_keys
from model_export.public.released.weights import Weights
from vitascope.errors import InvalidInput

HEAD_WIDTH = 64
"""Of an attention head: that of CLIP's ViT-B and ViT-L and of BERT, and told by no shape."""
HEADS = "The {what} has {heads} heads of {width}: a guess, no shape tells it; all published configurations have that."
_RESNETS: dict[tuple[int, ...], dict[bool, str]] = {
    (2, 2, 2, 2): {False: "resnet18"},
    (3, 4, 6, 3): {False: "resnet34", True: "resnet50"},
    (3, 4, 23, 3): {True: "resnet101"},
    (3, 8, 36, 3): {True: "resnet152"},
}
"""By blocks of the four stages, and whether a block has three convolutions."""


def size_of(folder: Path, weights: Weights, name: str, axis: int) -> int:
    """How long an axis of a tensor is. Raises InvalidInput where the file lacks the tensor or the axis."""
    if name not in weights:
        check_keys(folder, [name], ())
    shape = tuple(weights[name].shape)
    if not -len(shape) <= axis < len(shape):
        raise InvalidInput(f"model: {folder}: {name} has the shape {shape}; one with an axis {axis} was expected")
    return int(shape[axis])


def count_of(weights: Weights, prefix: str) -> int:
    """How many layers ``prefix.0``, ``prefix.1`` and so on the file has; gaps show as missing tensors later."""
    found = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in weights]
    return max((int(one[1]) + 1 for one in found if one), default=0)


def heads_of(folder: Path, what: str, width: int) -> tuple[int, str]:
    """How many heads, by their usual width, and the sentence that states the guess. Raises InvalidInput."""
    if width % HEAD_WIDTH:
        raise InvalidInput(
            f"model: {folder}: the {what} is {width} wide; a multiple of {HEAD_WIDTH}, a head's width, was expected"
        )
    heads = width // HEAD_WIDTH
    return heads, HEADS.format(what=what, heads=heads, width=HEAD_WIDTH)


def resnet_of(folder: Path, weights: Weights, prefix: str) -> str:
    """timm's name of the ResNet under ``prefix``. Raises InvalidInput for one of other blocks."""
    blocks = tuple(count_of(weights, f"{prefix}.layer{stage}") for stage in (1, 2, 3, 4))
    bottleneck = f"{prefix}.layer1.0.conv3.weight" in weights
    name = _RESNETS.get(blocks, {}).get(bottleneck)
    if name is None:
        raise InvalidInput(
            f"model: {folder}: {prefix} has {blocks} blocks in its four stages, {'three' if bottleneck else 'two'} "
            "convolutions each; a ResNet of 18, 34, 50, 101 or 152 layers was expected"
        )
    return name


def resnet_rules(own: str, theirs: str) -> list[tuple[str, str]]:
    """Rules of a layout for ``training.models.convolution.ConvEncoder``: (name here, name in the file)."""
    return [
        (f"{own}.stages.0.0", f"{theirs}.conv1"),
        (f"{own}.stages.0.1", f"{theirs}.bn1"),
        (f"{own}.stages.1.1", f"{theirs}.layer1"),
        (f"{own}.stages.2.0", f"{theirs}.layer2"),
        (f"{own}.stages.3.0", f"{theirs}.layer3"),
        (f"{own}.stages.4.0", f"{theirs}.layer4"),
    ]
