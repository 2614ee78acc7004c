"""A bundle: a folder whose every file is checked before it is parsed, the manifest by a checksum beside it, the others
against the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitascope.bundle.manifest import CHECKSUM_NAME, MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest, checksum_of
from vitascope.bundle.onnx_external_data import external_files
from vitascope.bundle.signing.keys import PublicKey
from vitascope.bundle.signing.signatures import Signature, require_trusted
from vitascope.errors import BundleCorrupt, BundleNotFound, BundleUnsupported
from vitascope.tokenizer import MAX_CHARACTERS, Tokenizer

_MAX_MANIFEST_BYTES = 4 * 1024**2
_MAX_CHECKSUM_BYTES = 256
_CHUNK_BYTES = 1024**2


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; ``Bundle.open`` is the way to get one.

    ``signature``: by a trusted key, where one was required.
    """

    folder: Path
    manifest: Manifest
    signature: Signature | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], trusted: Sequence[PublicKey] | None = None) -> Bundle:
        """Open the bundle in the folder ``path``, checking every file that its manifest lists.

        ``trusted``: keys, one of which must have signed the manifest; None: signatures are not looked at. Files that
        the manifest does not list are ignored. Nothing is parsed before it was checked.

        Raises BundleNotFound, BundleUntrusted (no such signature), BundleUnsupported (another schema version or an
        unknown feature) and BundleCorrupt (a file is missing, leaves the folder or has another size or SHA-256 than
        stated, or the manifest is not valid).
        """
        folder = Path(path)
        content = manifest_bytes(folder)
        signature = None if trusted is None else require_trusted(folder, content, trusted)
        manifest = parse_manifest(content)
        for name, entry in sorted(manifest.files.items()):
            check_file(folder, name, entry)
        for graph in sorted(manifest.graphs):
            check_external(folder, graph, manifest)
        bundle = cls(folder, manifest, signature)
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


def manifest_bytes(folder: Path) -> bytes:
    """The manifest as it is written, its size and checksum verified. Raises BundleNotFound and BundleCorrupt."""
    if not folder.is_dir():
        raise BundleNotFound(f"{folder}: no such folder; a bundle was expected")
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleNotFound(f"{folder}: has no {MANIFEST_NAME}; a bundle was expected")
    _check_inside(folder, MANIFEST_NAME, path.resolve())
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleCorrupt(f"{MANIFEST_NAME}: cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_MANIFEST_BYTES:
        size = path.stat().st_size
        raise BundleCorrupt(f"{MANIFEST_NAME}: {size} bytes; at most {_MAX_MANIFEST_BYTES} were expected")
    _verify_manifest(folder / CHECKSUM_NAME, content)
    return content


def parse_manifest(content: bytes) -> Manifest:
    """Raises BundleCorrupt and BundleUnsupported."""
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


def check_file(folder: Path, name: str, expected: FileEntry) -> None:
    """Raise BundleCorrupt unless the file is inside the bundle and what the manifest states of it."""
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleCorrupt(f"{name}: missing; the manifest lists it with {expected.bytes} bytes") from error
    _check_inside(folder, name, real)
    if not real.is_file():
        raise BundleCorrupt(f"{name}: not a regular file")
    if (size := real.stat().st_size) != expected.bytes:
        raise BundleCorrupt(f"{name}: {size} bytes; the manifest states {expected.bytes} bytes")
    try:
        digest = file_sha256(real)
    except OSError as error:
        raise BundleCorrupt(f"{name}: cannot be read: {error.strerror or error}") from error
    if digest != expected.sha256:
        raise BundleCorrupt(f"{name}: its SHA-256 is {digest}; the manifest states {expected.sha256}")


def _check_inside(folder: Path, name: str, real: Path) -> None:
    if not real.is_relative_to(folder.resolve()):
        raise BundleCorrupt(f"{name}: a link that leaves the bundle; a file inside it was expected")


def file_sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_external(folder: Path, graph: str, manifest: Manifest) -> None:
    """Weights outside the graph's own file must be files of the bundle, so that their hashes were checked.

    Raises BundleCorrupt, also for a file that is no ONNX graph.
    """
    name = next(path for key, path in manifest.graphs.items() if key == graph)
    for location in sorted(external_files(folder / name)):
        listed = posixpath.normpath(posixpath.join(posixpath.dirname(name), location))
        read = (folder / posixpath.dirname(name) / location).resolve()  # `..` after a link leads elsewhere
        if listed not in manifest.files or "\\" in location or read != (folder / listed).resolve():
            raise BundleCorrupt(f"{name}: graph {graph!r} reads weights from {location!r}; a listed file was expected")
