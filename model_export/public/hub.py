"""A public model by name: fetched once, before it is exported, and pinned to what was fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from model_export.public.folder import PICKLES
from vitascope.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]


@dataclass(frozen=True)
class Found:
    """A model's folder and what it is called: a name and, where it was fetched, the revision."""

    folder: Path
    name: str
    revision: str | None = None


def find_model(source: Path, *, allow_pickle: bool) -> Found | None:
    """The folder ``source``, or the model of that name on the Hugging Face hub; None where it can be neither.

    Raises InvalidInput when nothing of that name can be fetched.
    """
    name = source.as_posix()
    if source.is_dir():
        return Found(source, source.resolve().name)
    if not _NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=_WANTED + (list(PICKLES) if allow_pickle else [])))
    except Exception as error:  # of the hub, of its client, or of the network under it
        first = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"model: {name!r} is no folder here, and no model of that name could be fetched from the Hugging Face hub: "
            f"{first}. Without a network, give the folder that holds the model"
        ) from error
    return Found(folder, name, revision=folder.name)
