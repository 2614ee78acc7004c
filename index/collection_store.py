"""All collections below one folder."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from index.collection import MODEL_DIM_KEY, Collection
from index.legacy_media import upgrade_media
from index.storage.catalogue import CATALOGUE_NAME, Catalogue, create_catalogue
from index.storage.fulltext import STEMMING_KEY, check_stemming
from index.storage.removals import MEDIA
from index.vectors.faiss_kinds import AUTO, INDEX_KIND_KEY, check_index_kind
from index.vectors.interface import BACKEND_KEY, FAISS, SIGNALS_KEY, backend_of, check_backend, index_kinds_of
from vitascope.bundle.manifest import Manifest
from vitascope.durable_files import make_folders, sync
from vitascope.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    StorageError,
    TaskMissing,
    VitascopeError,
)
from vitascope.visual_token_codec import TokenEncoding

if TYPE_CHECKING:
    from vitascope.model import Model

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# Collections are created and dropped by renaming a folder, so that a name never leads to a partial collection.
_NEW, _DROPPED = ".new-", ".gone-"
# Prefix of a collection that is being replaced, followed by both names and a unique id, with dots between. Once a
# folder has such a name, the next opening of the store completes the replacement.
_REPLACED = ".replaced-"
_LEFTOVER_SECONDS = 3600.0
TOKEN_ENCODING: TokenEncoding = "int8"
"""Default token encoding of new collections; docs/collections.md compares the encodings."""


class CollectionStore:
    """The collections below one folder; each is opened once per process and shared by its threads."""

    def __init__(self, root: Path, *, vectors: str = FAISS, holds_lock: bool = False) -> None:
        """Open the folder, and complete or remove what killed processes left unfinished.

        Args:
            root: the folder, one subfolder per collection; created if missing.
            vectors: vector backend of new collections: faiss, or the URL of a Milvus server (docs/milvus.md).
            holds_lock: whether this process holds the service's lock of the data folder.

        Raises:
            InvalidInput, StorageError.
        """
        self.root = root
        self.vectors = check_backend(vectors)
        self._lock = threading.RLock()
        self._open: dict[str, Collection] = {}
        try:
            make_folders(root)
            leftovers = [entry for entry in root.iterdir() if _is_leftover(entry)]
        except OSError as error:
            raise StorageError(f"{root}: cannot be used for collections: {error}") from error
        for folder in leftovers:
            _discard(folder)
        self._complete_replacements()
        upgrade_media(root, self.names(), holds_lock=holds_lock)

    def __enter__(self) -> CollectionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every collection opened here."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def names(self) -> list[str]:
        """Return the names of all collections, sorted. Raises StorageError."""
        try:
            entries = list(self.root.iterdir())
        except OSError as error:
            raise StorageError(f"{self.root}: {error}") from error
        return sorted(e.name for e in entries if NAME_PATTERN.fullmatch(e.name) and (e / CATALOGUE_NAME).is_file())

    def create(
        self,
        name: str,
        source: Manifest | Model,
        *,
        token_encoding: TokenEncoding = TOKEN_ENCODING,
        index_kind: str = AUTO,
        vectors: str | None = None,
        dimensions: int | None = None,
        stemming: str = "english",
    ) -> Collection:
        """Create an empty collection for embeddings of a bundle.

        Args:
            name: a name that matches ``NAME_PATTERN``.
            source: manifest of the bundle, or its opened model.
            token_encoding: encoding of stored tokens.
            index_kind: requested kind of index (docs/nearest.md).
            vectors: vector backend; None: the backend of the store.
            dimensions: embeddings are truncated to this number of dimensions and normalised; None: not truncated.
            stemming: stemming of words in searches, english or none.

        Raises:
            InvalidInput, CollectionExists.
            TaskMissing: the bundle cannot embed videos or sounds.
            StorageError: also if Milvus does not respond.
        """
        manifest = source if isinstance(source, Manifest) else source.bundle.manifest
        vectors = self.vectors if vectors is None else vectors
        meta = initial_metadata(manifest, token_encoding, vectors, index_kind, dimensions)
        meta[STEMMING_KEY] = check_stemming(stemming)
        if backend_of(meta) != FAISS:
            from index.integrations.milvus.server import check_reachable

            check_reachable(backend_of(meta))
        with self.create_folder(name) as folder:
            create_catalogue(folder / CATALOGUE_NAME, meta)
        return self.open(name)

    @contextmanager
    def create_folder(self, name: str) -> Iterator[Path]:
        """Yield a new folder to write a catalogue into; it becomes collection ``name`` when the block ends normally.

        A caller that takes long must touch the folder now and then: a folder without a change for an hour is treated as
        the leftover of a killed process. Raises InvalidInput for a name outside ``NAME_PATTERN``, CollectionExists and
        StorageError.
        """
        folder = self._folder(name)
        temp_folder = self.root / f"{_NEW}{uuid.uuid4().hex}"
        try:
            if folder.exists():
                raise CollectionExists(f"collection {name}: exists already")
            temp_folder.mkdir()
            (temp_folder / MEDIA).mkdir()
            yield temp_folder
            sync(temp_folder)
            try:
                os.rename(temp_folder, folder)
            except OSError as error:
                if folder.exists():  # another process was faster
                    raise CollectionExists(f"collection {name}: exists already") from error
                raise
            sync(self.root)
        except OSError as error:
            raise StorageError(f"{folder}: cannot create the collection: {error}") from error
        finally:
            shutil.rmtree(temp_folder, ignore_errors=True)

    def get_if_open(self, name: str) -> Collection | None:
        """Return the collection if it is open, without disk access; ``open`` may return a newer one of this name."""
        return self._open.get(name)

    def open(self, name: str) -> Collection:
        """Return the collection of this name; the same object for every caller in this process.

        Raises InvalidInput, CollectionNotFound and StorageError.
        """
        folder = self._folder(name)
        with self._lock:
            known = self._open.get(name)
            if known is not None:
                if known.is_current():
                    return known
                # Another process dropped it, and perhaps created it again.
                self._open.pop(name).close()
            if not folder.exists():
                self._complete_replacements()  # a process may have been killed while it replaced this collection
            collection = Collection(folder)
            self._open[name] = collection
            return collection

    def drop(self, name: str) -> list[str]:
        """Delete a collection with the media files that it owns.

        Returns the names of its Milvus collections that remain because Milvus did not respond; usually none.

        Raises CollectionNotFound and StorageError.
        """
        folder = self._folder(name)
        dropped = self.root / f"{_DROPPED}{uuid.uuid4().hex}"
        with self._lock:
            if not (folder / CATALOGUE_NAME).is_file():
                raise CollectionNotFound(f"collection {name}: there is no collection of this name")
            known = self._open.pop(name, None)
            try:
                with _write_transaction(folder, known):
                    os.rename(folder, dropped)
                sync(self.root)
            except FileNotFoundError as error:
                raise CollectionNotFound(f"collection {name}: there is no collection of this name") from error
            except OSError as error:
                raise StorageError(f"{folder}: cannot be dropped: {error}") from error
            finally:
                if known is not None:
                    known.catalogue.close()
        return _discard(dropped)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a collection. Raises InvalidInput, CollectionNotFound, CollectionExists, StorageError."""
        folder = self._folder(new_name)
        with self._lock:
            self.open(name).close()
            self._open.pop(name)
            if folder.exists():
                raise CollectionExists(f"collection {new_name}: exists already")
            with _write_transaction(self._folder(name), None):
                self._rename_folder(self._folder(name), folder)

    def replace(self, name: str, replacement: str, condition: Callable[[sqlite3.Connection], bool]) -> bool:
        """Drop collection ``name`` and rename ``replacement`` to ``name``, within one write transaction of the former.

        If the process is killed, the next opening of the store finds either the state before or the state after.

        Args:
            name: name of the collection to drop.
            replacement: name of the collection that replaces it.
            condition: called with the transaction; if it returns False, nothing changes.

        Returns:
            The result of ``condition``.

        Raises:
            CollectionNotFound, StorageError.
        """
        replaced = self.root / f"{_REPLACED}{name}.{replacement}.{uuid.uuid4().hex}"
        with self._lock:
            old, new = self.open(name), self.open(replacement)
            with old.catalogue.write() as connection:
                if not condition(connection):
                    return False
                new.close()  # writes its index snapshot, which has to be renamed with the folder
                self._rename_folder(old.folder, replaced)
                discarded = self._complete_replacement(replaced)
            self._open.pop(replacement)
            self._open.pop(name).catalogue.close()
        _discard(discarded)
        return True

    def _complete_replacements(self) -> None:
        """Complete every ``replace`` that a killed process left unfinished, or that another process is executing."""
        try:
            begun = [entry for entry in self.root.iterdir() if entry.name.startswith(_REPLACED)]
        except OSError as error:
            raise StorageError(f"{self.root}: {error}") from error
        for replaced in begun:
            _discard(self._complete_replacement(replaced))

    def _complete_replacement(self, replaced: Path) -> Path:
        """Execute the second half of ``replace``, in any process; return the new path of the folder ``replaced``."""
        name, replacement, _ = replaced.name.removeprefix(_REPLACED).split(".")
        discarded = self.root / f"{_DROPPED}{uuid.uuid4().hex}"
        try:
            if not (self.root / name).exists():
                with suppress(FileNotFoundError):
                    os.rename(self.root / replacement, self.root / name)
                sync(self.root)
            with suppress(FileNotFoundError):
                os.rename(replaced, discarded)
        except OSError as error:
            raise StorageError(f"{self.root / replacement}: cannot be renamed to {name}: {error}") from error
        return discarded

    def _rename_folder(self, folder: Path, target: Path) -> None:
        try:
            os.rename(folder, target)
            sync(self.root)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be renamed: {error}") from error

    def _folder(self, name: str) -> Path:
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise InvalidInput(
                f"collection name: {name!r}; 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit, "
                "were expected"
            )
        return self.root / name


def initial_metadata(
    manifest: Manifest,
    token_encoding: TokenEncoding,
    vectors: str,
    index_kind: str = AUTO,
    dimensions: int | None = None,
) -> dict[str, str]:
    """Return the table meta of a new collection; see ``CollectionStore.create``. Raises InvalidInput, TaskMissing."""
    backend = check_backend(vectors)
    graphs = manifest.graphs if manifest.vector_width else {}
    signals = [signal for signal, graph in (("visual", "video"), ("audio", "audio")) if graph in graphs]
    if not signals:
        raise TaskMissing(
            f"{manifest.name}: it has no embeddings of videos or sounds, so it fills no collection; its tasks are "
            f"{', '.join(manifest.tasks)}"
        )
    if backend != FAISS and signals == ["audio"]:
        raise InvalidInput(f"vectors: {vectors!r}; {FAISS} was expected, as {manifest.name} embeds sounds alone")
    signals = signals if backend == FAISS else ["visual"]
    dimensions = manifest.check_dimensions(dimensions)
    audio = manifest.audio if "audio" in signals else None
    audio_shape = {"audio_tokens": str(audio.tokens), "audio_width": str(audio.width)} if audio and audio.fused else {}
    return {
        **({} if signals == ["visual"] else {SIGNALS_KEY: ",".join(signals)}),
        **({} if dimensions == manifest.vector_width else {MODEL_DIM_KEY: str(manifest.vector_width)}),
        BACKEND_KEY: backend,
        "fingerprint": manifest.fingerprint(),
        "bundle": f"{manifest.name} {manifest.version}",
        "vector_width": str(dimensions),
        "visual_tokens": str(manifest.visual_tokens),
        "visual_width": str(manifest.visual_width),
        **audio_shape,
        "token_encoding": token_encoding,
        INDEX_KIND_KEY: check_index_kind(index_kind, index_kinds_of(backend)),
        "created_at": repr(time.time()),
    }


@contextmanager
def _write_transaction(folder: Path, collection: Collection | None) -> Iterator[None]:
    """Hold a write transaction, so that no file is moved into the folder; does nothing for a damaged catalogue."""
    with ExitStack() as stack:
        with suppress(StorageError):
            if collection is None:
                catalogue = stack.enter_context(closing(Catalogue(folder / CATALOGUE_NAME)))
            else:
                catalogue = collection.catalogue
            stack.enter_context(catalogue.write())
        yield


def _is_leftover(entry: Path) -> bool:
    """Return whether this folder is the leftover of a process that was killed while creating or dropping."""
    if entry.name.startswith(_NEW):  # which another process may be creating at this moment
        try:
            return entry.stat().st_mtime < time.time() - _LEFTOVER_SECONDS
        except FileNotFoundError:  # or has just renamed
            return False
    return entry.name.startswith(_DROPPED)


def _discard(folder: Path) -> list[str]:
    """Mark a collection as dropped for processes that have it open, and delete it.

    Returns the names of its Milvus collections that could not be deleted.
    """
    left: list[str] = []
    with suppress(VitascopeError):
        catalogue = Catalogue(folder / CATALOGUE_NAME)
        try:
            with suppress(VitascopeError):  # marked already
                catalogue.mark_dropped()
            meta = catalogue.read_meta()  # after the mark no process adds a replica
            if backend_of(meta) != FAISS:
                from index.integrations.milvus.replica_manager import drop_replicas

                left = drop_replicas(folder, meta)
        finally:
            catalogue.close()
    shutil.rmtree(folder, ignore_errors=True)
    return left
