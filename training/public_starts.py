"""Public starts of compact checkpoints: weights that equal those of an installed package are restored from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.models.architectures import build
from training.models.config import ConvConfig, FusedConfig
from training.models.fusion import FusedModel
from training.models.pretrained import CNN_PACKAGE, STARTS, TEXT_PACKAGE, cnn_file, load_cnn, load_text, text_folder
from vitascope.bundle.bundle import file_sha256
from vitascope.bundle.manifest import StrictModel
from vitascope.errors import InvalidInput


class PublicStart(StrictModel):
    """A package whose weights some tensors of a checkpoint equal."""

    package: str
    version: str
    sha256: str
    """SHA-256 of the package's file of weights."""
    tensors: list[str]
    """Names in the model of the tensors that the checkpoint leaves out."""


STORED_STARTS = TypeAdapter(list[PublicStart])


class Package(NamedTuple):
    """A package with pretrained weights: its file, and a function that loads them into a model."""

    file: Callable[[], Path]
    load: Callable[[FusedModel], None]


def _load_cnn(model: FusedModel) -> None:
    if isinstance(model.cfg, ConvConfig):
        load_cnn(model.video, model.cfg.backbone)


PACKAGES = {
    CNN_PACKAGE: Package(cnn_file, _load_cnn),
    TEXT_PACKAGE: Package(lambda: text_folder() / "model.safetensors", load_text),
}
SOURCES = {STARTS[0]: CNN_PACKAGE, STARTS[1]: TEXT_PACKAGE}
"""Package by the name of the start in `Checkpoint.sources`."""


def split_starts(model: FusedModel, sources: Collection[str]) -> tuple[dict[str, Tensor], list[PublicStart]]:
    """Return the tensors of a model that equal no public start, and the starts that hold the others.

    Args:
        sources: names of the pretrained models that the weights come from; others are ignored.
    """
    weights, starts = dict(model.state_dict()), []
    for package in (package for name, package in SOURCES.items() if name in sources):
        public = _public_weights(package, model.cfg)
        equal = [name for name, values in public.items() if name in weights and torch.equal(values, weights[name])]
        if equal:
            file = PACKAGES[package].file()
            starts.append(
                PublicStart(package=package, version=version(package), sha256=file_sha256(file), tensors=equal)
            )
        weights = {name: values for name, values in weights.items() if name not in equal}
    return weights, starts


def restore_starts(cfg: FusedConfig, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights of a compact checkpoint together with those that `path` names.

    Raises:
        InvalidInput: A package's file of weights has another SHA-256.
        ModuleNotFoundError: A package is not installed.
    """
    restored = dict(weights)
    for start in STORED_STARTS.validate_json(path.read_text("utf-8")):
        if start.package not in PACKAGES:
            raise InvalidInput(f"{path}: package {start.package!r}; one of {', '.join(PACKAGES)} was expected")
        sha256 = file_sha256(PACKAGES[start.package].file())
        if sha256 != start.sha256:
            raise InvalidInput(
                f"{path.parent}: leaves out weights of {start.package} {start.version} (SHA-256 {start.sha256[:12]}); "
                f"the installed version {version(start.package)} has others (SHA-256 {sha256[:12]})"
            )
        public = _public_weights(start.package, cfg)
        restored |= {name: public[name] for name in start.tensors}
    return restored


def _public_weights(package: str, cfg: FusedConfig) -> dict[str, Tensor]:
    """Return the tensors that loading a package's weights changes in a new model of this configuration."""
    model = build(cfg)
    initial = {name: values.clone() for name, values in model.state_dict().items()}
    PACKAGES[package].load(model)
    return {name: values for name, values in model.state_dict().items() if not torch.equal(values, initial[name])}
