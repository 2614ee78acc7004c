"""A bundle: a model folder whose files are verified by SHA-256 before they are parsed."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from vitascope.bundle.graph_specs import ArraySpecs, graph_spec
from vitascope.bundle.manifest import (
    CHECKSUM_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    checksum_of,
)
from vitascope.bundle.onnx_files import external_files
from vitascope.bundle.signing import PublicKey, Signature, require_trusted
from vitascope.errors import BundleCorrupt, BundleNotFound, BundleUnsupported
from vitascope.text_format import format_validation_error
from vitascope.tokenizer import MAX_CHARACTERS, Tokenizer

_MAX_MANIFEST_BYTES = 4 * 1024**2
_MAX_CHECKSUM_BYTES = 256


@dataclass(frozen=True)
class Bundle:
    """An open, verified bundle. Create with ``Bundle.open``.

    Attributes:
        folder: Folder of the bundle.
        manifest: Its manifest.
        signature: Signature by a trusted key, if one was required.
    """

    folder: Path
    manifest: Manifest
    signature: Signature | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], trusted: Sequence[PublicKey] | None = None) -> Bundle:
        """Open a bundle and verify every file that its manifest lists.

        No file is parsed before its checksum is verified. Files that the manifest does not list are ignored.

        Args:
            path: Folder of the bundle.
            trusted: Keys, one of which must have signed the manifest. None: signatures are not checked.

        Raises:
            BundleNotFound: No bundle at ``path``.
            BundleUntrusted: No valid signature by a trusted key.
            BundleUnsupported: Another schema version, or an unknown feature.
            BundleCorrupt: A file is missing, outside the folder, or differs from its size or SHA-256 in the manifest;
                or the manifest is invalid.
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
        _ = bundle.answers, bundle.caption_matrix
        return bundle

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) of everything that affects embeddings; see ``Manifest.fingerprint``."""
        return self.manifest.fingerprint()

    @cached_property
    def answers(self) -> list[str]:
        """The answer vocabulary, in the order of the answer logits; empty if the bundle has none.

        Raises:
            BundleCorrupt: The file is not a JSON list of strings.
        """
        name = self.manifest.answers
        if name is None:
            return []
        try:
            answers = json.loads((self.folder / name).read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleCorrupt(f"{name}: not readable as JSON: {error}") from error
        if not (isinstance(answers, list) and answers and all(isinstance(a, str) and a for a in answers)):
            raise BundleCorrupt(f"{name}: a JSON list of non-empty strings was expected")
        return answers

    @cached_property
    def caption_matrix(self) -> NDArray[np.float32] | None:
        """Matrix (D, D) by which CLIPScore multiplies text embeddings; None if it uses them unchanged.

        Raises:
            BundleCorrupt: The file is not such a matrix.
        """
        name, width = self.manifest.caption_matrix, self.manifest.vector_width
        if name is None:
            return None
        try:
            matrix = np.load(self.folder / name, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleCorrupt(f"{name}: not readable as a NumPy array: {error}") from error
        is_array = isinstance(matrix, np.ndarray) and matrix.dtype in (np.float16, np.float32)
        if not is_array or matrix.shape != (width, width) or not np.isfinite(matrix).all():
            raise BundleCorrupt(f"{name}: a matrix ({width}, {width}) of finite float16 or float32 was expected")
        widened: NDArray[np.float32] = matrix.astype(np.float32)
        return widened

    def graph_path(self, graph: str) -> Path | None:
        """Return the ONNX file of a graph such as "text"; None if the bundle has no such graph."""
        name = next((path for key, path in self.manifest.graphs.items() if key == graph), None)
        return None if name is None else self.folder / name

    def check_unreplaced(self, graph: str) -> None:
        """Raise BundleCorrupt if the folder now has another fingerprint or other files of ``graph``.

        To be called before and after a graph is loaded, as the folder may be replaced after the bundle was opened.
        """
        listed = parse_manifest(manifest_bytes(self.folder))
        names = [file for name, file in self.manifest.graphs.items() if name == graph]
        names += [file for file, readers in self.manifest.added_weights.items() if graph in readers]
        if listed.fingerprint() != self.fingerprint or any(
            listed.files.get(name) != self.manifest.files[name] for name in names
        ):
            raise BundleCorrupt(f"{self.folder}: was replaced since it was opened; open it again")

    def graph_spec(self, graph: str) -> tuple[ArraySpecs, ArraySpecs]:
        """Return the types and shapes of a graph's (inputs, outputs) by name, derived from the manifest.

        Args:
            graph: Name of the graph, such as "text".
        """
        return graph_spec(self.manifest, graph, None if self.manifest.answer_length else len(self.answers))

    def tokenizer(self, max_characters: int = MAX_CHARACTERS) -> Tokenizer:
        """Return a new tokenizer that truncates to the manifest's text length.

        Args:
            max_characters: Maximum length of a text, without its prompt.

        Raises:
            BundleCorrupt: The tokenizer file cannot be read.
        """
        prompts = self.manifest.prompts
        max_characters += max(len(prompts.query), len(prompts.document))
        return Tokenizer.open(self.folder / self.manifest.tokenizer, self.manifest.text_length, max_characters)


def manifest_bytes(folder: Path) -> bytes:
    """Read the manifest and verify its size and checksum.

    Raises:
        BundleNotFound: The folder or the manifest does not exist.
        BundleCorrupt: The manifest is too large or differs from its checksum.
    """
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
    _check_manifest(folder / CHECKSUM_NAME, content)
    return content


def parse_manifest(content: bytes) -> Manifest:
    """Parse and validate a manifest.

    Raises:
        BundleCorrupt: Not JSON, or invalid.
        BundleUnsupported: Another schema version, or an unknown value of an enumeration.
    """
    try:
        raw_manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{MANIFEST_NAME}: not JSON: {error}") from error
    if not isinstance(raw_manifest, dict):
        raise BundleCorrupt(f"{MANIFEST_NAME}: {type(raw_manifest).__name__}; a JSON object was expected")
    version = raw_manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleUnsupported(f"{MANIFEST_NAME}: schema_version {version!r}; {SCHEMA_VERSION} was expected")
    try:
        return Manifest.model_validate(raw_manifest)
    except ValidationError as error:
        raise _manifest_error(error) from error


def _check_manifest(checksum_file: Path, content: bytes) -> None:
    if not checksum_file.exists():  # a bundle of an early version
        return
    if not checksum_file.is_file():  # opening a pipe would wait for a writer
        raise BundleCorrupt(f"{CHECKSUM_NAME}: not a regular file")
    try:
        with checksum_file.open("rb") as file:
            checksum = file.read(_MAX_CHECKSUM_BYTES)
    except OSError as error:
        raise BundleCorrupt(f"{CHECKSUM_NAME}: cannot be read: {error.strerror or error}") from error
    expected = checksum_of(content)
    if checksum != expected.encode():
        raise BundleCorrupt(f"{MANIFEST_NAME}: its SHA-256 is {expected[:64]}; {CHECKSUM_NAME} lists another one")


def _manifest_error(error: ValidationError) -> BundleCorrupt | BundleUnsupported:
    message = f"{MANIFEST_NAME}: {format_validation_error(error)}"
    # An unknown task or sampling comes from a newer version rather than from damage.
    if all(each["type"] == "literal_error" for each in error.errors()):
        return BundleUnsupported(message)
    return BundleCorrupt(message)


def check_file(folder: Path, name: str, expected: FileEntry) -> None:
    """Verify that a file is inside the bundle and has the expected size and SHA-256.

    Args:
        folder: Folder of the bundle.
        name: Path of the file, relative to the folder.
        expected: Size and SHA-256, from the manifest.

    Raises:
        BundleCorrupt: The file is missing, outside the folder, or differs.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleCorrupt(f"{name}: missing; the manifest lists it with {expected.bytes} bytes") from error
    _check_inside(folder, name, real)
    if not real.is_file():
        raise BundleCorrupt(f"{name}: not a regular file")
    if (size := real.stat().st_size) != expected.bytes:
        raise BundleCorrupt(f"{name}: {size} bytes; the manifest lists {expected.bytes} bytes")
    try:
        digest = file_sha256(real)
    except OSError as error:
        raise BundleCorrupt(f"{name}: cannot be read: {error.strerror or error}") from error
    if digest != expected.sha256:
        raise BundleCorrupt(f"{name}: its SHA-256 is {digest}; the manifest lists {expected.sha256}")


def _check_inside(folder: Path, name: str, real: Path) -> None:
    if not real.is_relative_to(folder.resolve()):
        raise BundleCorrupt(f"{name}: a link that leaves the bundle; a file inside it was expected")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_external(folder: Path, graph: str, manifest: Manifest) -> None:
    """Verify that a graph reads external weights only from files that the manifest lists, as their hashes are checked.

    Args:
        folder: Folder of the bundle.
        graph: Name of the graph.
        manifest: Manifest of the bundle.

    Raises:
        BundleCorrupt: The graph reads another file, or is not an ONNX graph.
    """
    name = next(path for key, path in manifest.graphs.items() if key == graph)
    for location in sorted(external_files(folder / name)):
        listed = posixpath.normpath(posixpath.join(posixpath.dirname(name), location))
        try:  # `..` after a link leads elsewhere
            is_same = (folder / posixpath.dirname(name) / location).resolve() == (folder / listed).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
            is_same = False
        if listed not in manifest.files or "\\" in location or not is_same:
            raise BundleCorrupt(f"{name}: graph {graph!r} reads weights from {location!r}; a listed file was expected")
        # The fingerprint does not cover weights of added graphs, so no other graph may read them.
        readers = manifest.added_weights.get(listed, (graph,))
        if graph not in readers:
            allowed = f"only {' and '.join(readers)}" if readers else "no graph"
            raise BundleCorrupt(f"{name}: graph {graph!r} reads weights from {location!r}; {allowed} may read them")
