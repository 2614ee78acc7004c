"""A bundle on its way to another machine: its files as bytes, checked again where they arrive.

Workers need no shared folder for it, and a folder of the same name with another bundle in it does no harm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.engines.onnx_runtime import Device
from vitascope.errors import BundleCorrupt
from vitascope.model import Model


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """The manifest and every file that it lists, by relative path. Raises BundleCorrupt."""
    try:
        return {name: (bundle.folder / name).read_bytes() for name in (MANIFEST_NAME, *bundle.manifest.files)}
    except OSError as error:
        raise BundleCorrupt(f"{error.filename}: cannot be read: {error.strerror or error}") from error


def model_of(files: Mapping[str, bytes], threads: int, device: Device) -> Model:
    """A model that embeds video, out of files that are not kept. Raises BundleError, TaskMissing, EngineError."""
    with tempfile.TemporaryDirectory(prefix="vitascope-bundle-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        model = Model.open(folder, threads, device)
        # The graph is loaded when it is first run; from then on the folder is not needed.
        model.embed_video({s.name: np.zeros((1, 1, s.frames, s.height, s.width, 3), np.uint8) for s in model.streams})
    return model
