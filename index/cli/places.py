"""The collections of a data folder, opened for a command that works here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vitascope.cli.options import collections_folder, default_roots, default_vectors
from vitascope.errors import CollectionNotFound

if TYPE_CHECKING:
    from index.collection import Collection
    from index.collection_store import CollectionStore
    from index.transfer.media_paths import AllowedPaths


def allowed_paths(args: argparse.Namespace) -> AllowedPaths:
    """Return where media files may lie that imported or restored files name. Raises InvalidInput."""
    from index.transfer.media_paths import AllowedPaths

    return AllowedPaths(default_roots() if args.roots is None else args.roots, args.data)


@contextmanager
def opened_library(args: argparse.Namespace, *, make: bool = False) -> Iterator[CollectionStore]:
    """The library in ``args.data``. Raises CollectionNotFound where it is missing and not to be made."""
    from index.collection_store import CollectionStore

    folder = collections_folder(args.data)
    if not make and not folder.is_dir():  # opening a library would make it
        raise CollectionNotFound(f"data: {str(args.data)!r} holds no collections; `vitascope index FOLDER` makes one")
    with CollectionStore(folder, vectors=getattr(args, "vectors", None) or default_vectors()) as library:
        yield library


@contextmanager
def opened_collection(args: argparse.Namespace, name: str) -> Iterator[Collection]:
    """The collection ``name`` in ``args.data``. Raises CollectionNotFound, which names those that are there."""
    with opened_library(args) as library:
        check_there(args, library, name)
        yield library.open(name)


def check_there(args: argparse.Namespace, library: CollectionStore, name: str) -> None:
    """Raise CollectionNotFound unless the library has the collection."""
    names = library.names()
    if name not in names:
        there = f"there are {', '.join(names)}" if names else "there is none"
        raise CollectionNotFound(
            f"collection: {name!r} is not in {args.data}; {there}. `vitascope index FOLDER` makes one"
        )
