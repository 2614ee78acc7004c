"""`vitascope collection`: what there is, and moving whole collections in and out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from index.cli.collection_shown import show
from vitascope.cli.completers import complete_collections
from vitascope.cli.options import (
    LocalOnlyAction,
    add_bundle,
    add_data,
    add_engine,
    add_model,
    add_roots,
    add_server,
    default_vectors,
    server_url,
)
from vitascope.errors import InvalidInput

EPILOG = """\
A service may go on reading and writing meanwhile: what is exported or backed up is of one moment. With --server the
service does the work, and files come from there to this machine.

examples:
  vitascope collection list
  vitascope collection backup videos /mnt/backups/videos.sqlite3
  vitascope collection restore /mnt/backups/videos.sqlite3 videos-again --root ~/Videos
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

    existing, new = ("name", "a collection"), ("name", "of the new collection")

    def action(name: str, summary: str, *arguments: tuple[str, str]) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for argument, what in arguments:
            kind = Path if argument in ("file", "folder") else str
            added = sub.add_argument(argument, type=kind, metavar=argument.upper(), help=what)
            if (argument, what) == existing:
                complete_collections(added)
        add_data(sub)
        add_server(sub)
        return sub

    action("list", "name the collections, with what is in them")
    action("show", "tell what a collection is and holds", existing)
    create = action("create", "make an empty collection for the bundle in use", new)
    create.add_argument("--token-encoding", metavar="NAME", help="float16 or int8 (default), see docs/collections.md")
    create.add_argument("--index-kind", metavar="NAME", help="auto (default), flat, hnsw or ivfpq, see docs/nearest.md")
    add_vectors(create, f"VITASCOPE_VECTOR_STORE; default: {default_vectors()}")
    add_bundle(create)
    add_model(create)
    change = action("set", "change a collection: build another kind of index", existing)
    change.add_argument("--index-kind", required=True, metavar="NAME", help="auto, flat, hnsw or ivfpq")
    export = action("export", "write a collection as Parquet files", existing, ("folder", "to be made"))
    export.add_argument("--tokens", action="store_true", help="with what reranking needs; many times as large")
    export.add_argument("--thumbnails", action="store_true", help="with the clips' pictures")
    importing = action("import", "make a collection of exported files", ("folder", "of an export"), new)
    add_vectors(importing, f"VITASCOPE_VECTOR_STORE; default: {default_vectors()}")
    add_bundle(importing)
    add_roots(importing)
    action("backup", "write a collection to one file", existing, ("file", "new, or an earlier backup"))
    restoring = action("restore", "make a collection of a backup", ("file", "a backup"), new)
    add_vectors(
        restoring, f"default: as in the backup, if that is faiss or VITASCOPE_VECTOR_STORE: {default_vectors()}"
    )
    add_roots(restoring)
    again = action("reembed", "embed a collection again by another bundle and switch to it", existing)
    again.add_argument("--skip-missing", action="store_true", help="leave out videos whose files are gone or changed")
    add_bundle(again)
    add_engine(again)
    add_model(again)
    drop = action("drop", "delete a collection, with the media files that it owns", existing)
    drop.add_argument("--yes", action="store_true", help="yes, delete it")


def add_vectors(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "--vectors",
        action=LocalOnlyAction,
        metavar="PLACE",
        help=f"faiss, or the URL of a Milvus server, see docs/milvus.md ({otherwise})",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is None:
        from index.cli import collection_here

        return {"action": args.action, **collection_here.ACTIONS[args.action](args)}
    if args.action in ("import", "restore"):
        raise InvalidInput(
            f"{args.action}: {server} makes no collection of files; --local on its machine, with its data folder, was "
            "expected (it has the collection at once)"
        )
    from index.cli import collection_server
    from vitascope.client import Client

    with Client(server) as client:
        return {"action": args.action, **collection_server.ACTIONS[args.action](client, args)}


COMMANDS = {"collection": (add_arguments, run, show)}
