"""`vitascope collection`: what is done in this process, on a data folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from index.cli.deleting import check_meant, held
from index.cli.places import allowed_paths, opened_collection, opened_library
from index.cli.views import collection_here
from vitascope.cli.options import collections_folder
from vitascope.cli.output import ProgressBar
from vitascope.errors import VitascopeError

if TYPE_CHECKING:
    from index.collection_store import CollectionStore


def _list(args: argparse.Namespace) -> dict[str, Any]:
    if not collections_folder(args.data).is_dir():
        return {"collections": []}
    with opened_library(args) as library:
        return {"collections": [_listed(library, name) for name in library.names()]}


def _listed(library: CollectionStore, name: str) -> dict[str, Any]:
    """What a collection holds; of one that cannot be opened, why."""
    try:
        return collection_here(library.open(name))
    except VitascopeError as error:
        return {"name": name, "error": str(error)}


def _show(args: argparse.Namespace) -> dict[str, Any]:
    with opened_collection(args, args.name) as collection:
        return collection_here(collection)


def _create(args: argparse.Namespace) -> dict[str, Any]:
    from index.collection_store import TOKEN_ENCODING
    from index.vectors.faiss_kinds import AUTO, check_setting
    from vitascope.bundle.bundle import Bundle
    from vitascope.visual_token_codec import check_encoding

    encoding = TOKEN_ENCODING if args.token_encoding is None else check_encoding(args.token_encoding)
    kind = AUTO if args.index_kind is None else check_setting(args.index_kind)
    manifest = Bundle.open(args.bundle).manifest
    with opened_library(args, make=True) as library:
        return collection_here(library.create(args.name, manifest, token_encoding=encoding, index_kind=kind))


def _set(args: argparse.Namespace) -> dict[str, Any]:
    with opened_collection(args, args.name) as collection:
        collection.set_index_kind(args.index_kind)
        collection.wait_for_index()  # a build that this process leaves would be begun again by the next
        return collection_here(collection)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.media_links import owned_media
    from index.transfer.parquet_export import export_collection

    with opened_collection(args, args.name) as collection, ProgressBar("exporting", quiet=args.json) as steps:
        written = export_collection(
            collection, args.folder, tokens=args.tokens, thumbnails=args.thumbnails, on_rows=steps.update
        )
        left_out = asdict(owned_media(collection))
    return {
        "name": args.name,
        "folder": str(args.folder),
        "videos": written.videos,
        "clips": written.clips,
        "bytes": written.bytes,
        "media_not_included": left_out,
    }


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.media_links import missing_videos
    from index.transfer.parquet_import import import_collection
    from vitascope.bundle.bundle import Bundle

    manifest = Bundle.open(args.bundle).manifest
    with opened_library(args, make=True) as library, ProgressBar("importing", quiet=args.json) as steps:
        allowed = allowed_paths(args)
        made = import_collection(library, args.folder, args.name, manifest, on_rows=steps.update, allowed=allowed)
        missing = missing_videos(library, [args.name])
        return {"folder": str(args.folder), **collection_here(made), "missing": len(missing), "missing_media": missing}


def _backup(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.backup import back_up
    from index.transfer.media_links import owned_media

    with opened_collection(args, args.name) as collection, ProgressBar("copying", quiet=args.json) as steps:
        size = back_up(collection, args.file, steps.update)
        left_out = asdict(owned_media(collection))
    return {"name": args.name, "file": str(args.file), "bytes": size, "media_not_included": left_out}


def _restore(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.backup import restore
    from index.transfer.media_links import missing_videos

    with opened_library(args, make=True) as library, ProgressBar("restoring", quiet=args.json) as steps:
        made = restore(library, args.file, args.name, steps.update, allowed=allowed_paths(args), vectors=args.vectors)
        missing = missing_videos(library, [args.name])
        return {"file": str(args.file), **collection_here(made), "missing": len(missing), "missing_media": missing}


def _reembed(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.reembed import reembed
    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    with opened_library(args) as library, ProgressBar("embedding", quiet=args.json) as steps:
        done = reembed(library, args.name, model, skip_missing=args.skip_missing, on_video=steps.update)
        return {
            **collection_here(library.open(args.name)),
            "switched": done.switched,
            "embedded": done.embedded,
            "failed": len(done.missing),
            "failures": [{"file": one.video.path, "reason": one.reason} for one in done.missing],
        }


def _drop(args: argparse.Namespace) -> dict[str, Any]:
    with opened_library(args) as library:
        facts = collection_here(library.open(args.name))
        check_meant(args, f"collection {args.name} holds {held(facts)}")
        left = library.drop(args.name)
    return {**{key: facts[key] for key in ("name", "videos", "clips", "vectors")}, "left_in_milvus": left}


ACTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "set": _set,
    "export": _export,
    "import": _import,
    "backup": _backup,
    "restore": _restore,
    "reembed": _reembed,
    "drop": _drop,
}
