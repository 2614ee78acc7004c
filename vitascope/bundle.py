"""A bundle: a folder whose every file is checked before it is parsed, the manifest by a checksum beside it, the others
against the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitascope.errors import BundleCorrupt, BundleNotFound, BundleUnsupported
from vitascope.external_data import external_files
from vitascope.manifest import CHECKSUM_NAME, MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest, checksum_of
from vitascope.tokenise import MAX_CHARACTERS, Tokenizer

_MAX_MANIFEST_BYTES = 4 * 1024**2
_MAX_CHECKSUM_BYTES = 256
_CHUNK_BYTES = 1024**2


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; ``Bundle.open`` is the way to get one."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open the bundle in the folder ``path``, checking every file that its manifest lists.

        Files that the manifest does not list are ignored. Raises BundleNotFound, BundleUnsupported (another
        schema version or an unknown feature) and BundleCorrupt (a file is missing, leaves the folder or
        has another size or SHA-256 than stated, or the manifest is not valid).
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleNotFound(f"{folder}: no such folder; a bundle was expected")
        manifest = _read_manifest(folder)
        for name, entry in sorted(manifest.files.items()):
            _verify(folder, name, entry)
        for graph, name in sorted(manifest.graphs.items()):
            _check_external(folder, graph, name, manifest)
        bundle = cls(folder, manifest)
        _ = bundle.answers
        return bundle

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over all that decides a vector; see ``Manifest.fingerprint``."""
        return self.manifest.fingerprint()

    @cached_property
    def answers(self) -> list[str]:
        """The answer vocabulary in the order of the answer logits; empty without the task "answering"."""
        name = self.manifest.answers
        if name is None:
            return []
        try:
            answers = json.loads((self.folder / name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BundleCorrupt(f"{name}: not readable as JSON: {error}") from error
        if not (isinstance(answers, list) and answers and all(isinstance(a, str) and a for a in answers)):
            raise BundleCorrupt(f"{name}: a JSON list of non-empty strings was expected")
        return answers

    def graph_path(self, graph: str) -> Path | None:
        """Where the ONNX file of "text", "video", "match" or "answer" is; None when the bundle has none."""
        name = next((path for key, path in self.manifest.graphs.items() if key == graph), None)
        return None if name is None else self.folder / name

    def tokenizer(self, max_characters: int = MAX_CHARACTERS) -> Tokenizer:
        """A new tokenizer that cuts texts at the manifest's text length. Raises BundleCorrupt."""
        stated = self.manifest
        return Tokenizer.open(self.folder / stated.tokenizer, stated.text_length, max_characters)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleNotFound(f"{folder}: has no {MANIFEST_NAME}; a bundle was expected")
    if (size := path.stat().st_size) > _MAX_MANIFEST_BYTES:
        raise BundleCorrupt(f"{MANIFEST_NAME}: {size} bytes; at most {_MAX_MANIFEST_BYTES} were expected")
    content = path.read_bytes()
    _verify_manifest(folder / CHECKSUM_NAME, content)
    try:
        stated = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{MANIFEST_NAME}: not JSON: {error}") from error
    if not isinstance(stated, dict):
        raise BundleCorrupt(f"{MANIFEST_NAME}: {type(stated).__name__}; a JSON object was expected")
    version = stated.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleUnsupported(f"{MANIFEST_NAME}: schema_version {version!r}; {SCHEMA_VERSION} was expected")
    try:
        return Manifest.model_validate(stated)
    except ValidationError as error:
        raise _manifest_error(error) from error


def _verify_manifest(checksum: Path, content: bytes) -> None:
    try:
        with checksum.open("rb") as file:
            stated = file.read(_MAX_CHECKSUM_BYTES)
    except FileNotFoundError:  # of an earlier version
        return
    expected = checksum_of(content)
    if stated != expected.encode():
        raise BundleCorrupt(f"{MANIFEST_NAME}: its SHA-256 is {expected[:64]}; {CHECKSUM_NAME} states another")


def _manifest_error(error: ValidationError) -> BundleCorrupt | BundleUnsupported:
    """One line that names the keys, instead of pydantic's many."""
    found: list[Any] = error.errors(include_url=False, include_context=False)
    parts = [f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in found[:3]]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    message = f"{MANIFEST_NAME}: {'; '.join(parts)}{more}"
    # A value outside a closed list, such as a task or a placement, belongs to a runtime that knows it.
    if all(e["type"] == "literal_error" for e in found):
        return BundleUnsupported(message)
    return BundleCorrupt(message)


def _verify(folder: Path, name: str, expected: FileEntry) -> None:
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleCorrupt(f"{name}: missing; the manifest lists it with {expected.bytes} bytes") from error
    if not real.is_relative_to(folder.resolve()):
        raise BundleCorrupt(f"{name}: a link that leaves the bundle; a file inside it was expected")
    if not real.is_file():
        raise BundleCorrupt(f"{name}: not a regular file")
    if (size := real.stat().st_size) != expected.bytes:
        raise BundleCorrupt(f"{name}: {size} bytes; the manifest states {expected.bytes} bytes")
    if (digest := file_sha256(real)) != expected.sha256:
        raise BundleCorrupt(f"{name}: its SHA-256 is {digest}; the manifest states {expected.sha256}")


def file_sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_external(folder: Path, graph: str, name: str, manifest: Manifest) -> None:
    """Weights outside the graph's own file must be files of the bundle, so that their hashes were checked."""
    for location in sorted(external_files(folder / name)):
        listed = posixpath.normpath(posixpath.join(posixpath.dirname(name), location))
        if listed not in manifest.files or "\\" in location:
            raise BundleCorrupt(f"{name}: graph {graph!r} reads weights from {location!r}; a listed file was expected")
