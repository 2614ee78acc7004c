"""`vitascope collection`: what there is, and moving whole collections in and out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.commands.options import (
    add_bundle,
    add_data,
    add_engine,
    add_model,
    add_server,
    check_model,
    default_vectors,
)
from vitascope.commands.output import Steps, plain_table, show_files
from vitascope.errors import CollectionNotFound, InvalidInput, VitascopeError

if TYPE_CHECKING:
    from index.collection import Collection
    from index.library import Library

EPILOG = """\
A service may go on reading and writing meanwhile: what is exported or backed up is of one moment. With --server the
service does the work, and files come from there to this machine.

examples:
  vitascope collection list
  vitascope collection backup videos /mnt/backups/videos.sqlite3
  vitascope collection restore /mnt/backups/videos.sqlite3 videos-again
  vitascope collection export videos /tmp/videos --tokens        Parquet, for DuckDB, pandas, another machine
  vitascope collection import /tmp/videos elsewhere
  vitascope collection reembed videos --bundle bundles/better
  vitascope collection create small --token-encoding float16 --index-kind flat
  vitascope collection set videos --index-kind hnsw
  vitascope collection backup videos videos.sqlite3 --server http://127.0.0.1:8000
  vitascope collection create large --vectors http://milvus:19530
  vitascope collection drop elsewhere --yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str, *arguments: tuple[str, str]) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for argument, what in arguments:
            kind = Path if argument in ("file", "folder") else str
            sub.add_argument(argument, type=kind, metavar=argument.upper(), help=what)
        add_data(sub)
        return sub

    existing, new = ("name", "a collection"), ("name", "of the new collection")
    add_server(action("list", "name the collections, with what is in them"))
    create = action("create", "make an empty collection for the bundle in use", new)
    create.add_argument("--token-encoding", metavar="NAME", help="float16 or int8 (default), see docs/collections.md")
    create.add_argument("--index-kind", metavar="NAME", help="auto (default), flat, hnsw or ivfpq, see docs/nearest.md")
    add_vectors(create, f"VITASCOPE_VECTORS; default: {default_vectors()}")
    add_bundle(create)
    add_server(create)
    add_model(create)
    change = action("set", "change a collection: build another kind of index", existing)
    change.add_argument("--index-kind", required=True, metavar="NAME", help="auto, flat, hnsw or ivfpq")
    add_server(change)
    export = action("export", "write a collection as Parquet files", existing, ("folder", "to be made"))
    export.add_argument("--tokens", action="store_true", help="with what reranking needs; many times as large")
    export.add_argument("--thumbnails", action="store_true", help="with the clips' pictures")
    add_server(export)
    importing = action("import", "make a collection of exported files", ("folder", "of an export"), new)
    add_vectors(importing, f"VITASCOPE_VECTORS; default: {default_vectors()}")
    add_bundle(importing)
    add_server(action("backup", "write a collection to one file", existing, ("file", "new, or an earlier backup")))
    restoring = action("restore", "make a collection of a backup", ("file", "a backup"), new)
    add_vectors(restoring, "default: as in the backup")
    again = action("reembed", "embed a collection again by another bundle and switch to it", existing)
    again.add_argument("--skip-missing", action="store_true", help="leave out videos whose files are gone or changed")
    add_bundle(again)
    add_engine(again)
    add_server(again)
    add_model(again)
    drop = action("drop", "delete a collection; the media files stay", existing)
    drop.add_argument("--yes", action="store_true", help="yes, delete it")
    add_server(drop)


def add_vectors(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "--vectors", metavar="PLACE", help=f"faiss, or the URL of a Milvus server, see docs/milvus.md ({otherwise})"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    check_model(args)
    if getattr(args, "server", None):
        from index.commands.collection_server import run_remotely

        return run_remotely(args)
    runs: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "list": _list,
        "create": _create,
        "set": _set,
        "export": _export,
        "import": _import,
        "backup": _backup,
        "restore": _restore,
        "reembed": _reembed,
        "drop": _drop,
    }
    return {"action": args.action, **runs[args.action](args)}


@contextmanager
def _library(args: argparse.Namespace, *, make: bool = False) -> Iterator[Library]:
    from index.library import Library
    from vitascope.commands.options import collections_folder

    folder = collections_folder(args.data)
    if not make and not folder.is_dir():  # opening a library would make it
        raise CollectionNotFound(f"data: {str(args.data)!r} holds no collections; `vitascope index FOLDER` makes one")
    with Library(folder, vectors=getattr(args, "vectors", None) or default_vectors()) as library:
        yield library


@contextmanager
def _collection(args: argparse.Namespace) -> Iterator[Collection]:
    with _library(args) as library:
        yield library.open(args.name)


def _list(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.commands.options import collections_folder

    if not collections_folder(args.data).is_dir():
        return {"collections": []}
    with _library(args) as library:
        return {"collections": [_listed(library, name) for name in library.names()]}


def _listed(library: Library, name: str) -> dict[str, Any]:
    """What a collection holds; of one that cannot be opened, why."""
    try:
        return {"name": name, **_facts(library.open(name))}
    except VitascopeError as error:
        return {"name": name, "error": str(error)}


def _facts(collection: Collection) -> dict[str, Any]:
    stats, index = collection.stats(), collection.index_state()
    return {
        "videos": stats.videos,
        "clips": stats.clips,
        "bundle": collection.bundle_name,
        "fingerprint": collection.fingerprint,
        "token_encoding": collection.token_encoding,
        "vectors": collection.vectors_at,
        "index_kind": index.setting,
        "index": {"serving": index.kind, "changed": index.changed},
        "bytes": collection.size(),
    }


def _create(args: argparse.Namespace) -> dict[str, Any]:
    from index.library import TOKEN_ENCODING
    from index.nearest.kinds import AUTO, check_setting
    from vitascope.bundle import Bundle
    from vitascope.token_encoding import check_encoding

    encoding = TOKEN_ENCODING if args.token_encoding is None else check_encoding(args.token_encoding)
    kind = AUTO if args.index_kind is None else check_setting(args.index_kind)
    manifest = Bundle.open(args.bundle).manifest
    with _library(args, make=True) as library:
        made = library.create(args.name, manifest, token_encoding=encoding, index_kind=kind)
        return {"name": args.name, **_facts(made)}


def _set(args: argparse.Namespace) -> dict[str, Any]:
    with _collection(args) as collection:
        collection.set_index_kind(args.index_kind)
        collection.wait_for_index()  # a build that this process leaves would be begun again by the next
        return {"name": args.name, **_facts(collection)}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.parquet_export import export_collection

    with _collection(args) as collection, Steps("exporting", quiet=args.json) as steps:
        written = export_collection(
            collection, args.folder, tokens=args.tokens, thumbnails=args.thumbnails, on_rows=steps.show
        )
    return {
        "name": args.name,
        "folder": str(args.folder),
        "videos": written.videos,
        "clips": written.clips,
        "bytes": written.bytes,
    }


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.parquet_import import import_collection
    from vitascope.bundle import Bundle

    manifest = Bundle.open(args.bundle).manifest
    with _library(args, make=True) as library, Steps("importing", quiet=args.json) as steps:
        made = import_collection(library, args.folder, args.name, manifest, on_rows=steps.show)
        return {"name": args.name, "folder": str(args.folder), **_facts(made)}


def _backup(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.backup import back_up

    with _collection(args) as collection, Steps("copying", quiet=args.json) as steps:
        size = back_up(collection, args.file, steps.show)
    return {"name": args.name, "file": str(args.file), "bytes": size}


def _restore(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.backup import restore

    with _library(args, make=True) as library, Steps("copying", quiet=args.json) as steps:
        made = restore(library, args.file, args.name, steps.show, vectors=args.vectors)
        return {"name": args.name, "file": str(args.file), **_facts(made)}


def _reembed(args: argparse.Namespace) -> dict[str, Any]:
    from index.transfer.reembed import reembed
    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    with _library(args) as library, Steps("embedding", quiet=args.json) as steps:
        done = reembed(library, args.name, model, skip_missing=args.skip_missing, on_video=steps.show)
        return {
            "name": args.name,
            **_facts(library.open(args.name)),
            "switched": done.switched,
            "embedded": done.embedded,
            "failed": len(done.missing),
            "failures": [{"file": one.video.path, "reason": one.reason} for one in done.missing],
        }


def _drop(args: argparse.Namespace) -> dict[str, Any]:
    with _library(args) as library:
        facts = _facts(library.open(args.name))
        check_dropped_on_purpose(args, facts)
        left = library.drop(args.name)
    return {
        "name": args.name,
        "videos": facts["videos"],
        "clips": facts["clips"],
        "vectors": facts["vectors"],
        "left_in_milvus": left,
    }


def check_dropped_on_purpose(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Raise InvalidInput unless ``--yes`` was given."""
    if not args.yes:
        raise InvalidInput(
            f"drop: collection {args.name} holds {facts['videos']} videos, {facts['clips']} clips, which would be "
            "lost; --yes was expected"
        )


def show(result: dict[str, Any], console: Console) -> None:
    if result["action"] == "list":
        _show_list(result["collections"], console)
        return
    name = f"[bold]{escape(result['name'])}[/bold]"
    size = decimal(result.get("bytes", 0))
    held = f"{result.get('videos')} videos, {result.get('clips')} clips"
    place = escape(str(result.get("folder") or result.get("file") or ""))
    serving = result.get("index", {}).get("serving")
    console.print(
        {
            "create": f"collection {name} made, tokens as {result.get('token_encoding')}",
            "set": f"collection {name}: index {result.get('index_kind')}, {serving} serves",
            "export": f"{place}: {held} of collection {name}, {size}",
            "import": f"collection {name}: {held} from {place}",
            "backup": f"{place}: collection {name}, {size}",
            "restore": f"collection {name}: {held} from {place}",
            "reembed": f"collection {name}: {held}, of bundle {result.get('bundle')}",
            "drop": f"collection {name} dropped: {held}",
        }[result["action"]]
    )
    if result["action"] == "reembed":
        _show_missing(result, console)
    for name in result.get("left_in_milvus", ()):
        console.print(f"[red]{escape(result['vectors'])} did not answer: its collection {name} is left there[/red]")


def _show_missing(result: dict[str, Any], console: Console) -> None:
    if not result["failures"]:
        return
    show_files(console, [(failure["file"], failure["reason"]) for failure in result["failures"]], "reason")
    if not result["switched"]:
        console.print(
            f"{result['failed']} videos cannot be embedded again: the collection stays as it was. Bring the files back "
            "and repeat the command, or leave them out with --skip-missing"
        )


def _show_list(collections: list[dict[str, Any]], console: Console) -> None:
    if not collections:
        console.print("no collections")
        return
    table = plain_table("name", ">videos", ">clips", ">size", "tokens", "index", "bundle")
    for found in collections:
        if "error" in found:
            table.add_row(escape(found["name"]), "-", "-", "-", "-", "-", f"[red]{escape(found['error'])}[/red]")
            continue
        numbers = (str(found["videos"]), str(found["clips"]), decimal(found["bytes"]))
        index = found["index"]["serving"]
        if found["index_kind"] != index:
            index = f"{found['index_kind']} ({index})"
        table.add_row(escape(found["name"]), *numbers, found["token_encoding"], index, escape(found["bundle"]))
    console.print(table)


COMMANDS = {"collection": (add_arguments, run, show)}
