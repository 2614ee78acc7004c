"""Write a bundle's folder: documents, manifest, files taken from another bundle, and the atomic replacement."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitascope.bundle.bundle import Bundle, file_sha256
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

Log = Callable[[str], None]
"""Callback for progress messages."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def no_log(message: str) -> None:
    """Discard a progress message."""


@contextmanager
def replace_bundle(out: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the bundle at `out` at the end of the context; after an error it is removed.

    The old bundle stays in place until then. If `out` is a symbolic link, its target is replaced, since the checkpoint
    is beside the target. Raises InvalidInput if `out` exists and is not a bundle.
    """
    check_replaceable(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        for path in _files(folder):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        swap_folder(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def swap_folder(folder: Path, target: Path) -> None:
    """Rename `folder` to `target` on the same file system, and remove the previous folder at `target`.

    If the file system can exchange two folders atomically, as on Linux, there is always a complete folder at `target`,
    even if the process is killed.
    """
    if not target.exists():
        folder.rename(target)
    elif _exchange(folder, target):
        shutil.rmtree(folder)
    else:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.old.", dir=folder.parent) as old:
            target.rename(Path(old) / target.name)
            folder.rename(target)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders atomically; return False if the system does not support it."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second)
    return renameat2 is not None and renameat2(*names, _RENAME_EXCHANGE) == 0


def check_replaceable(out: Path) -> None:
    """Raise InvalidInput if `out` exists and is not a bundle."""
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise InvalidInput(f"out: {out} exists and is not a bundle; a new folder or a bundle was expected")


def check_name(name: str) -> None:
    """Raise InvalidInput for an invalid bundle name."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(
            f"name: {name!r} (default: the folder name of --out); lower case letters, digits and . _ - were expected, "
            "a letter or digit first"
        )


def check_target(source: Path, out: Path, name: str) -> None:
    """Check name and folder of a bundle made from another model. Raises InvalidInput, also if `out` is `source`."""
    check_name(name)
    if out.resolve() == source.resolve():
        raise InvalidInput(f"out: {out} is the source itself; another folder was expected")
    check_replaceable(out)


def copy_files(bundle: Bundle, names: Iterable[str], folder: Path) -> None:
    """Copy files of a bundle, by their paths inside it."""
    for name in dict.fromkeys(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)


def write_documents(folder: Path, documents: Mapping[str, str]) -> None:
    """Write UTF-8 text files, by name."""
    for name, text in documents.items():
        (folder / name).write_text(text, "utf-8")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> Manifest:
    """Write manifest.json, with size and SHA-256 of every file in `folder`, and its checksum file.

    Raises pydantic.ValidationError for missing fields or files.
    """
    entries = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in _files(folder)
    }
    unlisted = (MANIFEST_NAME, CHECKSUM_NAME, SIGNATURE_NAME)
    files = {name: entry for name, entry in entries.items() if name not in unlisted}
    manifest = Manifest.model_validate({**fields, "files": files})
    content = f"{manifest.model_dump_json(indent=1)}\n".encode()
    (folder / MANIFEST_NAME).write_bytes(content)
    (folder / CHECKSUM_NAME).write_text(checksum_of(content), "ascii")
    return manifest


def write_draft(
    folder: Path, fields: Mapping[str, Any], tokenizer: bytes, answers: Sequence[str], documents: Mapping[str, str]
) -> None:
    """Complete a folder of graphs to a bundle that can be opened, with an empty card and report.

    Args:
        folder: The folder.
        fields: Fields of the manifest.
        tokenizer: Content of tokenizer.json.
        answers: Answer vocabulary; empty: none.
        documents: Further text files by name, such as a notice.
    """
    (folder / TOKENIZER_NAME).write_bytes(tokenizer)
    # One answer per line, in the order of the logits.
    vocabulary = {ANSWERS_NAME: json.dumps(list(answers), ensure_ascii=False, indent=0) + "\n"} if answers else {}
    write_documents(folder, {CARD_NAME: "", PARITY_NAME: "", **vocabulary, **documents})
    write_manifest(folder, fields)


def finish(folder: Path, fields: Mapping[str, Any], report: str, card: Callable[[Manifest], str]) -> Manifest:
    """Write report and card into a draft, then run every graph of the bundle once.

    Args:
        folder: Folder of the draft.
        fields: Fields of the manifest.
        report: Content of the parity report.
        card: Returns the Markdown model card for a manifest that lists all files except the card.

    Raises:
        BundleError, EngineError: The bundle is invalid, or a graph cannot run.
    """
    report_name, card_name = fields["parity_report"], fields["model_card"]
    write_documents(folder, {report_name: report, card_name: ""})
    write_documents(folder, {card_name: card(write_manifest(folder, fields))})
    manifest = write_manifest(folder, fields)
    Model.open(folder, device="cpu").warm_up()
    return manifest


def read_json_object(key: str, path: Path, expected: str = "a JSON object was expected") -> dict[str, Any]:
    """Read a JSON object from a user's file. Raises InvalidInput naming `key` and `expected`."""
    content = read_json(key, path, expected)
    if not isinstance(content, dict):
        raise InvalidInput(f"{key}: {path} holds a {type(content).__name__}; {expected}")
    return content


def read_json(key: str, path: Path, expected: str) -> Any:
    """Read JSON from a user's file. Raises InvalidInput naming `key` and `expected`."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"{key}: {path} cannot be read ({error.strerror}); {expected}") from error
    except ValueError as error:
        raise InvalidInput(f"{key}: {path} is not JSON ({error}); {expected}") from error
