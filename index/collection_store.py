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
from types import TracebackType
from typing import TYPE_CHECKING

from index.collection import Collection
from index.former_media import upgrade_library
from index.integrations.milvus.cleanup import drop_copies
from index.integrations.milvus.server import check_reachable
from index.storage.catalogue import CATALOGUE_NAME, Catalogue, create_catalogue
from index.storage.removals import MEDIA
from index.vectors.backend import FAISS, PLACE_KEY, check_place, place_of, settings_at
from index.vectors.faiss_index import SETTING_KEY
from index.vectors.faiss_kinds import AUTO, check_setting
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
# A collection comes and goes by renaming a folder, so that there is never half of one under its name.
_NEW, _GONE = ".new-", ".gone-"
# Of a collection that gives its name to another: followed by both names and a number, with dots between. Once a folder
# has such a name, whoever opens the library finishes what was begun.
_REPLACED = ".replaced-"
TOKEN_ENCODING: TokenEncoding = "int8"
"""Of new collections; docs/collections.md has what it costs."""


class CollectionStore:
    """Collections in the folders of ``root``, each opened once per process and shared by its threads."""

    def __init__(self, root: Path, *, vectors: str = FAISS, holds_lock: bool = False) -> None:
        """Use ``root``, made if missing, and finish what killed processes left there.

        ``vectors``: where those of new collections are searched, faiss or the URL of a Milvus server (docs/milvus.md).
        ``holds_lock``: this process is the service of the data folder. Raises InvalidInput and StorageError.
        """
        self.root = root
        self.vectors = check_place(vectors)
        self._lock = threading.RLock()
        self._open: dict[str, Collection] = {}
        try:
            make_folders(root)
            leftovers = [entry for entry in root.iterdir() if _is_leftover(entry)]
        except OSError as error:
            raise StorageError(f"{root}: cannot be used for collections: {error}") from error
        for folder in leftovers:
            _discard(folder)
        self._finish_replacing()
        upgrade_library(root, self.names(), holds_lock=holds_lock)

    def __enter__(self) -> CollectionStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every collection opened here."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def names(self) -> list[str]:
        """The names of all collections, sorted. Raises StorageError."""
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
    ) -> Collection:
        """An empty collection for vectors of this bundle, searched by an index of this kind (docs/nearest.md).

        ``vectors``: where, if not where the library says. Raises InvalidInput for a name outside ``NAME_PATTERN``, an
        unknown kind or place, TaskMissing where the bundle has no vectors, CollectionExists, StorageError, also where
        Milvus does not answer.
        """
        manifest = source if isinstance(source, Manifest) else source.bundle.manifest
        meta = initial_metadata(manifest, token_encoding, self.vectors if vectors is None else vectors, index_kind)
        check_reachable(place_of(meta))
        with self.create_folder(name) as folder:
            create_catalogue(folder / CATALOGUE_NAME, meta)
        return self.open(name)

    @contextmanager
    def create_folder(self, name: str) -> Iterator[Path]:
        """A folder to write a catalogue into; it gets its name when the block is left without an exception.

        Whoever takes long touches the folder now and then: after an hour it counts as left by a process that was
        killed. Raises InvalidInput for a name outside ``NAME_PATTERN``, CollectionExists and StorageError.
        """
        folder = self._folder(name)
        beside = self.root / f"{_NEW}{uuid.uuid4().hex}"
        try:
            if folder.exists():
                raise CollectionExists(f"collection {name}: exists already")
            beside.mkdir()
            (beside / MEDIA).mkdir()
            yield beside
            sync(beside)
            _rename_new(beside, folder)
            sync(self.root)
        except OSError as error:
            raise StorageError(f"{folder}: cannot create the collection: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def get_if_open(self, name: str) -> Collection | None:
        """The collection of this name if it is open, without a look at the disk: ``open`` may come to another."""
        return self._open.get(name)

    def open(self, name: str) -> Collection:
        """The collection of this name; the same object for every caller in this process.

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
                self._finish_replacing()  # a process was killed while it gave the name to another collection
            collection = Collection(folder)
            self._open[name] = collection
            return collection

    def drop(self, name: str) -> list[str]:
        """Delete a collection with the media files that it owns; others stay. Raises CollectionNotFound, StorageError.

        Returns the collections of its vectors that are left in Milvus, as it did not answer: none as a rule.
        """
        folder = self._folder(name)
        gone = self.root / f"{_GONE}{uuid.uuid4().hex}"
        with self._lock:
            if not (folder / CATALOGUE_NAME).is_file():
                raise CollectionNotFound(f"collection {name}: there is no collection of this name")
            known = self._open.pop(name, None)
            try:
                with _without_writers(folder, known):
                    os.rename(folder, gone)
                sync(self.root)
            except FileNotFoundError as error:
                raise CollectionNotFound(f"collection {name}: there is no collection of this name") from error
            except OSError as error:
                raise StorageError(f"{folder}: cannot be dropped: {error}") from error
            finally:
                if known is not None:
                    known.catalogue.close()
        return _discard(gone)

    def rename(self, name: str, new_name: str) -> None:
        """Give a collection another name. Raises InvalidInput, CollectionNotFound, CollectionExists, StorageError."""
        folder = self._folder(new_name)
        with self._lock:
            self.open(name).close()
            self._open.pop(name)
            if folder.exists():
                raise CollectionExists(f"collection {new_name}: exists already")
            with _without_writers(self._folder(name), None):
                self._rename(self._folder(name), folder)

    def replace(self, name: str, by: str, when: Callable[[sqlite3.Connection], bool]) -> bool:
        """Drop collection ``name`` and give its name to ``by``, in one write transaction of the dropped one.

        ``when`` is asked with that transaction whether it is time; False changes nothing. Killed at any moment, the
        library holds, once it is opened again, what it did before or what it should after. Raises CollectionNotFound
        and StorageError.
        """
        gone = self.root / f"{_REPLACED}{name}.{by}.{uuid.uuid4().hex}"
        with self._lock:
            old, new = self.open(name), self.open(by)
            with old.catalogue.write() as connection:
                if not when(connection):
                    return False
                new.close()  # its snapshot is written where it is now, and moves along
                self._rename(old.folder, gone)
                discarded = self._give_name(gone)
            self._open.pop(by)
            self._open.pop(name).catalogue.close()
        _discard(discarded)
        return True

    def _finish_replacing(self) -> None:
        """Finish every ``replace`` that a process was killed in, or that another process is in just now."""
        try:
            begun = [entry for entry in self.root.iterdir() if entry.name.startswith(_REPLACED)]
        except OSError as error:
            raise StorageError(f"{self.root}: {error}") from error
        for gone in begun:
            _discard(self._give_name(gone))

    def _give_name(self, gone: Path) -> Path:
        """Second half of ``replace``, done by whoever comes first; where the folder ``gone`` is then."""
        name, by, _ = gone.name.removeprefix(_REPLACED).split(".")
        discarded = self.root / f"{_GONE}{uuid.uuid4().hex}"
        try:
            if not (self.root / name).exists():
                with suppress(FileNotFoundError):
                    os.rename(self.root / by, self.root / name)
                sync(self.root)
            with suppress(FileNotFoundError):
                os.rename(gone, discarded)
        except OSError as error:
            raise StorageError(f"{self.root / by}: cannot be renamed to {name}: {error}") from error
        return discarded

    def _rename(self, folder: Path, to: Path) -> None:
        try:
            os.rename(folder, to)
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
    manifest: Manifest, token_encoding: TokenEncoding, vectors: str, index_kind: str = AUTO
) -> dict[str, str]:
    """What the catalogue of a new collection for vectors of this bundle says about itself. Raises InvalidInput, and
    TaskMissing where the bundle has no vectors.
    """
    if not manifest.vector_width:
        raise TaskMissing(
            f"{manifest.name}: it has no vectors, so it fills no collection; its tasks are {', '.join(manifest.tasks)}"
        )
    place = check_place(vectors)
    return {
        PLACE_KEY: place,
        "fingerprint": manifest.fingerprint(),
        "bundle": f"{manifest.name} {manifest.version}",
        "vector_width": str(manifest.vector_width),
        "visual_tokens": str(manifest.visual_tokens),
        "visual_width": str(manifest.visual_width),
        "token_encoding": token_encoding,
        SETTING_KEY: check_setting(index_kind, settings_at(place)),
        "created_at": repr(time.time()),
    }


@contextmanager
def _without_writers(folder: Path, collection: Collection | None) -> Iterator[None]:
    """Within a write transaction, so that no file is being moved into the folder; a damaged catalogue has none."""
    with ExitStack() as stack:
        with suppress(StorageError):
            if collection is None:
                catalogue = stack.enter_context(closing(Catalogue(folder / CATALOGUE_NAME)))
            else:
                catalogue = collection.catalogue
            stack.enter_context(catalogue.write())
        yield


def _is_leftover(entry: Path) -> bool:
    """Whether a process that was killed while creating or dropping left this folder."""
    if entry.name.startswith(_NEW):  # or another process is creating it at this moment
        try:
            return entry.stat().st_mtime < time.time() - 3600
        except FileNotFoundError:  # or has just given it its name
            return False
    return entry.name.startswith(_GONE)


def _rename_new(beside: Path, folder: Path) -> None:
    try:
        os.rename(beside, folder)
    except OSError as error:
        if folder.exists():  # another process was faster
            raise CollectionExists(f"collection {folder.name}: exists already") from error
        raise


def _discard(folder: Path) -> list[str]:
    """Tell the processes that still have the collection open, then delete it; returns what is left in Milvus."""
    left: list[str] = []
    with suppress(VitascopeError):
        catalogue = Catalogue(folder / CATALOGUE_NAME)
        try:
            with suppress(VitascopeError):  # marked already
                catalogue.mark_dropped()
            left = drop_copies(folder, catalogue.stated())  # nobody can add to what it states any more
        finally:
            catalogue.close()
    shutil.rmtree(folder, ignore_errors=True)
    return left
