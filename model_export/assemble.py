"""The bundle's folder: documents, manifest, and the swap that makes it appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitascope.bundle.bundle import file_sha256
from vitascope.bundle.manifest import (
    CHECKSUM_NAME,
    MANIFEST_NAME,
    NAME_PATTERN,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    checksum_of,
)
from vitascope.errors import InvalidInput
from vitascope.model import Model

CARD_NAME, PARITY_NAME, NOTICE_NAME = "MODEL_CARD.md", "parity.json", "NOTICE.md"
TOKENIZER_NAME, ANSWERS_NAME = "tokenizer.json", "answers.json"


@contextmanager
def folder_replaced_whole(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place at the end; after an error nothing of it is left.

    A bundle that is there already serves until then. Raises InvalidInput when `out` is something else.
    """
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield part
        part.chmod(0o755)
        _sync(part)
        _swap(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Raises InvalidInput when `out` is something else than a bundle or nothing."""
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise InvalidInput(f"out: {out} exists and is not a bundle; a new folder or a bundle was expected")


def check_name(name: str) -> None:
    """Raises InvalidInput when no bundle may be named so."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(
            f"name: {name!r} (default: the name of the folder that --out names); lower case letters, digits and . _ - "
            "were expected, a letter or digit first"
        )


def write_documents(folder: Path, documents: Mapping[str, str]) -> None:
    """Text files by name, UTF-8."""
    for name, text in documents.items():
        (folder / name).write_text(text, "utf-8")


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> Manifest:
    """manifest.json of `folder`, and its checksum: `fields`, and the size and SHA-256 of every file that is there.

    Raises pydantic.ValidationError when fields are missing or a file they name is.
    """
    files = {
        path.name: FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name not in (MANIFEST_NAME, CHECKSUM_NAME, SIGNATURE_NAME)
    }
    manifest = Manifest.model_validate({**fields, "files": files})
    content = f"{manifest.model_dump_json(indent=1)}\n".encode()
    (folder / MANIFEST_NAME).write_bytes(content)
    (folder / CHECKSUM_NAME).write_text(checksum_of(content), "ascii")
    return manifest


def write_draft(
    folder: Path, fields: Mapping[str, Any], tokenizer: bytes, answers: Sequence[str], documents: Mapping[str, str]
) -> None:
    """Make a bundle that opens of a folder with graphs: all but its card and its report, which are empty.

    documents: further ones, such as a notice.
    """
    (folder / TOKENIZER_NAME).write_bytes(tokenizer)
    named = {ANSWERS_NAME: answers_document(answers)} if answers else {}
    write_documents(folder, {CARD_NAME: "", PARITY_NAME: "", **named, **documents})
    write_manifest(folder, fields)


def finish(folder: Path, fields: Mapping[str, Any], report: str, card: Callable[[Manifest], str]) -> Manifest:
    """Put the report and the card into a draft, and run every graph of what is a bundle then.

    card: its Markdown, of a manifest that knows all but the card itself. Raises BundleError and EngineError.
    """
    write_documents(folder, {PARITY_NAME: report})
    write_documents(folder, {CARD_NAME: card(write_manifest(folder, fields))})
    manifest = write_manifest(folder, fields)
    Model.open(folder, device="cpu").warm()
    return manifest


def answers_document(answers: Sequence[str]) -> str:
    """answers.json: a list in the order of the logits, one a line."""
    return json.dumps(list(answers), ensure_ascii=False, indent=0) + "\n"


def _swap(part: Path, out: Path) -> None:
    if not out.exists():
        part.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / out.name)
    part.rename(out)
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
