"""What an adaptation needs to know of the model that it goes on from, without holding the model itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

from model_export.sources import Source, corpus_source
from model_export.weights import Precision
from training import checkpoint
from training.initialization import model_to_begin_with
from training.models import pretrained
from training.models.architectures import read_config
from training.models.config import FusedConfig
from vitascope.bundle.bundle import Bundle, file_sha256
from vitascope.bundle.manifest import MANIFEST_NAME, Calibration, Strict
from vitascope.errors import InvalidInput

SMALLEST: Precision = "int8-weights"


class StartFacts(Strict):
    """The start, as it is kept beside an adaptation."""

    config: dict[str, Any]
    """Of the model's architecture, see `training.models.architectures.read_config`."""
    sources: list[Source]
    """What it was trained on; without its pretrained starts."""
    calibration: Calibration | None
    """None for a checkpoint, which has none."""
    precision: Precision
    """How its weights are stored, and those of what becomes of it."""

    @property
    def architecture(self) -> FusedConfig:
        """The same, checked."""
        return read_config(self.config)


def start_identity(folder: Path) -> str:
    """What changes when the weights or answers of a start change. Raises InvalidInput where there is none."""
    if (folder / MANIFEST_NAME).exists():
        return Bundle.open(folder).fingerprint
    found = checkpoint.find(folder)
    if found is None:
        raise InvalidInput(
            f"start-from: {folder} is neither a bundle nor a checkpoint; a folder with {MANIFEST_NAME} (of `vitascope "
            "export`) or state.json (of `vitascope train`) was expected"
        )
    parts = "".join(file_sha256(found / name) for name in ("model.safetensors", "answers.json", "tokenizer.json"))
    return hashlib.sha256(parts.encode()).hexdigest()


def read_start(folder: Path, data: Path) -> StartFacts:
    """The facts about a bundle or checkpoint; building its model proves that it can be trained on.

    data: folder of packed corpora, which state the terms of those that a checkpoint was trained on and that are not
    known here. Raises InvalidInput.
    """
    start = model_to_begin_with(folder)
    config = start.model.cfg.model_dump(mode="json")
    if (folder / MANIFEST_NAME).exists():
        manifest = Bundle.open(folder).manifest
        stated = [Source.model_validate(source) for source in manifest.extra["provenance"]["sources"]]
        return StartFacts(
            config=config,
            sources=[source for source in stated if source.name not in pretrained.STARTS],
            calibration=manifest.calibration,
            precision=next((p for p in get_args(Precision) if p == manifest.precision), SMALLEST),
        )
    names = [name for name in start.lineage if name not in pretrained.STARTS]
    sources = [corpus_source(name, data) for name in names]
    return StartFacts(config=config, sources=sources, calibration=None, precision=SMALLEST)
