"""`vitascope collection`: manage collections."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from index.cli.backend import Backend, open_backend, require_confirmation
from index.cli.recognition_options import add_recognition, parse_recognition
from vitascope.cli.completion import complete_collections
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
from vitascope.cli.output import ProgressBar, plain_table, print_files
from vitascope.errors import InvalidInput, StorageError

if TYPE_CHECKING:
    from index.cli.local_backend import LocalBackend

EPILOG = """\
A service may read and write the collection meanwhile: backups and exports are consistent snapshots.
With --server the service creates the files and this command downloads them.

examples:
  vitascope collection list
  vitascope collection backup videos /mnt/backups/videos.sqlite3
  vitascope collection restore /mnt/backups/videos.sqlite3 videos-again --root ~/Videos
  vitascope collection export videos /tmp/videos --tokens        Parquet, for DuckDB, pandas, another machine
  vitascope collection import /tmp/videos elsewhere
  vitascope collection reembed videos --bundle bundles/better
  vitascope collection create small --token-encoding float16 --index-kind flat
  vitascope collection set videos --index-kind hnsw
  vitascope collection set vorlesungen --stemming none
  vitascope collection set talks --transcribe --read-text=2
  vitascope collection transcribe talks --model models/whisper-small
  vitascope collection read-text talks
  vitascope collection caption films --bundle bundles/mine
  vitascope collection backup videos videos.sqlite3 --server http://127.0.0.1:8000
  vitascope collection create large --vectors http://milvus:19530
  vitascope collection drop elsewhere --yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    existing, new = ("name", "name of the collection"), ("name", "name of the new collection")

    def add_action(name: str, summary: str, *arguments: tuple[str, str]) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for argument, description in arguments:
            value_type = Path if argument in ("file", "folder") else str
            added = action.add_argument(argument, type=value_type, metavar=argument.upper(), help=description)
            if (argument, description) == existing:
                complete_collections(added)
        add_data(action)
        add_server(action)
        return action

    vectors = f"VITASCOPE_VECTOR_STORE; default: {default_vectors()}"
    add_action("list", "list collections and their sizes")
    add_action("show", "show a collection", existing)
    create = add_action("create", "create an empty collection", new)
    create.add_argument("--token-encoding", metavar="NAME", help="int8 (default) or float16; see docs/collections.md")
    create.add_argument("--index-kind", metavar="NAME", help="auto (default), flat, hnsw or ivfpq; see docs/nearest.md")
    create.add_argument(
        "--dimensions",
        type=int,
        metavar="N",
        help="truncate embeddings to N dimensions, if the bundle allows it; see docs/collections.md",
    )
    _add_stemming(create, "english (default)")
    add_recognition(create, "default: off")
    _add_vectors(create, vectors)
    add_bundle(create)
    add_model(create)
    change = add_action(
        "set", "change the index kind and stemming of a collection, and what its jobs recognise or caption", existing
    )
    change.add_argument("--index-kind", metavar="NAME", help="auto, flat, hnsw or ivfpq")
    _add_stemming(change, "english")
    add_recognition(change, "default: as before")
    transcribe = add_action("transcribe", "recognise the speech of videos that are indexed already", existing)
    transcribe.add_argument(
        "--model", dest="speech_model", metavar="MODEL", help="as VITASCOPE_SPEECH_MODEL, which is the default"
    )
    transcribe.add_argument(
        "--subtitled", action="store_true", help="include videos with subtitles; clips keep the words of the subtitles"
    )
    reading = add_action("read-text", "read the text on screen of videos that are indexed already", existing)
    reading.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between the frames that are examined (default: %(default)g)",
    )
    caption = add_action("caption", "generate captions of the clips of videos that are indexed already", existing)
    add_bundle(caption)
    add_engine(caption)
    add_model(caption)
    export = add_action("export", "export a collection as Parquet files", existing, ("folder", "folder to create"))
    export.add_argument("--tokens", action="store_true", help="include tokens for reranking (much larger)")
    export.add_argument("--thumbnails", action="store_true", help="include the thumbnails of clips")
    importing = add_action("import", "create a collection from an export", ("folder", "folder of an export"), new)
    _add_vectors(importing, vectors)
    add_bundle(importing)
    add_roots(importing)
    add_action("backup", "back up a collection to one file", existing, ("file", "new file, or a backup to replace"))
    restore = add_action("restore", "create a collection from a backup", ("file", "backup"), new)
    _add_vectors(restore, f"default: that of the backup, if it is faiss or VITASCOPE_VECTOR_STORE: {default_vectors()}")
    add_roots(restore)
    reembed = add_action("reembed", "embed a collection again with another bundle and replace it", existing)
    reembed.add_argument("--skip-missing", action="store_true", help="drop videos whose files are missing or changed")
    add_bundle(reembed)
    add_engine(reembed)
    add_model(reembed)
    drop = add_action("drop", "delete a collection and the media files that it owns", existing)
    drop.add_argument("--yes", action="store_true", help="confirm the deletion")


def _add_stemming(parser: argparse.ArgumentParser, english: str) -> None:
    parser.add_argument(
        "--stemming",
        metavar="NAME",
        help=f"{english}: words of a search also match words with the same English stem; none: for other languages",
    )


def _add_vectors(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--vectors",
        action=LocalOnlyAction,
        metavar="PLACE",
        help=f"vector store: faiss, or the URL of a Milvus server; see docs/milvus.md ({default})",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.action in ("import", "restore"):
        if (server := server_url(args)) is not None:
            raise InvalidInput(
                f"{args.action}: not supported by {server}; --local was expected, on the machine of the service and "
                "with its data folder"
            )
        from index.cli.local_backend import LocalBackend

        with LocalBackend.from_args(args) as local:
            return {"action": args.action, **(_import if args.action == "import" else _restore)(local, args)}
    with open_backend(args) as backend:
        return {"action": args.action, **ACTIONS[args.action](backend, args)}


def _list(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    response = backend.list_collections()
    errors = response.get("errors", {})
    collections = [{"vectors": None, **collection} for collection in response["collections"]]
    for name in response["unreadable"]:
        collections.append({"name": name, "error": errors.get(name, "damaged; see the log of the service")})
    return {"collections": sorted(collections, key=lambda collection: str(collection["name"]))}


def _show(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    return {"vectors": None, **backend.get_collection(args.name)}


def _create(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    collection = backend.create_collection(
        args.name,
        index_kind=args.index_kind,
        token_encoding=args.token_encoding,
        dimensions=args.dimensions,
        model=args.model,
        stemming=args.stemming,
        **parse_recognition(args),
    )
    return {"vectors": None, **collection}


def _set(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    changes = {
        "index_kind": args.index_kind,
        "stemming": args.stemming,
        **parse_recognition(args),
    }
    if all(value is None for value in changes.values()):
        raise InvalidInput("set: --index-kind, --stemming, --transcribe, --read-text or --caption was expected")
    collection = backend.update_collection(args.name, **changes)
    return {"vectors": None, **collection}


def _transcribe(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("transcribing", quiet=args.json) as bar:
        result = backend.transcribe_collection(
            args.name, bar.update, model=args.speech_model, includes_subtitled=args.subtitled
        )
    return {"name": args.name, **result}


def _read_text(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("reading text", quiet=args.json) as bar:
        return {"name": args.name, **backend.read_collection_text(args.name, bar.update, interval=args.interval)}


def _caption(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("captioning", quiet=args.json) as bar:
        return {"name": args.name, **backend.caption_collection(args.name, bar.update, model=args.model)}


def _export(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("exporting", quiet=args.json) as bar:
        result = backend.export_collection(
            args.name, args.folder, bar.update, tokens=args.tokens, thumbnails=args.thumbnails
        )
    return {"name": args.name, "folder": str(args.folder), **result}


def _backup(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("copying", quiet=args.json) as bar:
        result = backend.backup_collection(args.name, args.file, bar.update)
    return {"name": args.name, "file": str(args.file), **result}


def _reembed(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("embedding", quiet=args.json) as bar:
        result = backend.reembed_collection(args.name, bar.update, model=args.model, skip_missing=args.skip_missing)
    collection = backend.get_collection(args.name)
    return {"vectors": None, **collection, **result, "failed": len(result["failures"])}


def _drop(backend: Backend, args: argparse.Namespace) -> dict[str, Any]:
    try:
        collection = {"vectors": None, **backend.get_collection(args.name)}
        contents = f"holds {collection['videos']} videos, {collection['clips']} clips"
    except StorageError as error:  # a damaged one can be dropped, too
        collection = {"name": args.name, "videos": None, "clips": None, "vectors": None}
        contents = f"cannot be read ({error})"
    require_confirmation(args, f"collection {args.name} {contents}")
    left = backend.delete_collection(args.name)
    return {**{key: collection[key] for key in ("name", "videos", "clips", "vectors")}, "left_in_milvus": left or []}


def _import(backend: LocalBackend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("importing", quiet=args.json) as bar:
        return {"folder": str(args.folder), **backend.import_collection(args.name, args.folder, bar.update)}


def _restore(backend: LocalBackend, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("restoring", quiet=args.json) as bar:
        return {"file": str(args.file), **backend.restore_collection(args.name, args.file, bar.update)}


ACTIONS: dict[str, Callable[[Backend, argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "set": _set,
    "export": _export,
    "backup": _backup,
    "reembed": _reembed,
    "transcribe": _transcribe,
    "read-text": _read_text,
    "caption": _caption,
    "drop": _drop,
}


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of collections, or what was done."""
    if result["action"] in ("list", "show"):
        _print_collections(result["collections"] if result["action"] == "list" else [result], console)
        return
    name = f"[bold]{escape(result['name'])}[/bold]"
    size = decimal(result.get("bytes", 0))
    contents = f"{result.get('videos')} videos, {result.get('clips')} clips"
    path = escape(str(result.get("folder") or result.get("file") or ""))
    serving = result.get("index", {}).get("serving")
    console.print(
        {
            "create": f"collection {name} created: {result.get('dimensions')} dimensions, "
            f"token encoding {result.get('token_encoding')}",
            "set": f"collection {name}: index kind {result.get('index_kind')}, {serving} in use"
            f"{_format_settings(result)}",
            "transcribe": f"collection {name}: {result.get('recognized')} videos transcribed",
            "read-text": f"collection {name}: text of {result.get('recognized')} videos read",
            "caption": f"collection {name}: {result.get('recognized')} videos captioned",
            "export": f"collection {name} exported to {path}: {contents}, {size}",
            "import": f"collection {name} imported from {path}: {contents}",
            "backup": f"collection {name} backed up to {path}: {size}",
            "restore": f"collection {name} restored from {path}: {contents}",
            "reembed": f"collection {name}: {contents}, bundle {result.get('bundle')}",
            "drop": f"collection {name} deleted" + ("" if result.get("videos") is None else f": {contents}"),
        }[result["action"]]
    )
    if result["action"] == "reembed":
        _print_failures(result, console)
    if result["action"] in ("transcribe", "read-text", "caption") and result["failed"]:
        console.print(f"[red]{result['failed']} videos failed[/red]; the command tries them again when it is repeated")
        print_files(console, [(failure["file"], failure["reason"]) for failure in result["failures"]], "reason")
    if (left_out := result.get("media_not_included")) and left_out["files"]:
        console.print(
            f"[yellow]{left_out['files']} media files of the collection ({decimal(left_out['bytes'])}) are not "
            "included;[/yellow] `vitascope backup` includes them"
        )
    print_missing_media(result.get("missing_media", ()), console)
    for milvus_name in result.get("left_in_milvus", ()):
        console.print(f"[red]{escape(result['vectors'])} did not respond; its collection {milvus_name} remains[/red]")


def print_missing_media(missing: Sequence[dict[str, str]], console: Console) -> None:
    """Print the first videos of a restored or imported collection whose media files are missing."""
    if not missing:
        return
    console.print(
        f"[yellow]The media files of {len(missing)} videos are missing.[/yellow] These videos can be searched, but not "
        "played or embedded again. Restore a copy made by `vitascope backup`, restore the files, or upload them again:"
    )
    print_files(console, [(video["file"], video["title"]) for video in missing], "title")


def _format_settings(collection: dict[str, Any]) -> str:
    """Return the settings of a collection that are not the defaults: stemming, and what its jobs recognise."""
    model, seconds = collection.get("transcribe"), collection.get("read_text")
    settings = "; stemming: none" if collection.get("stemming") == "none" else ""
    settings += "" if model is None else f"; speech: {escape(model)}"
    settings += "" if seconds is None else f"; screen text: every {seconds:g} s"
    return f"{settings}; captions" if collection.get("caption") else settings


def _print_failures(result: dict[str, Any], console: Console) -> None:
    if not result["failures"]:
        return
    print_files(console, [(failure["file"], failure["reason"]) for failure in result["failures"]], "reason")
    if not result["switched"]:
        console.print(
            f"{result['failed']} videos cannot be embedded again; the collection is unchanged. Restore the files and "
            "repeat the command, or use --skip-missing"
        )


def _print_collections(collections: list[dict[str, Any]], console: Console) -> None:
    if not collections:
        console.print("No collections")
        return
    table = plain_table("name", ">videos", ">clips", ">size", "tokens", "index", "bundle")
    for collection in collections:
        name = escape(collection["name"])
        if "error" in collection:
            table.add_row(name, "-", "-", "-", "-", "-", f"[red]{escape(collection['error'])}[/red]")
            continue
        sizes = (str(collection["videos"]), str(collection["clips"]), decimal(collection["bytes"]))
        index = collection["index"]["serving"]
        if collection["index_kind"] != index:
            index = f"{collection['index_kind']} ({index})"
        table.add_row(name, *sizes, collection["token_encoding"], index, escape(collection["bundle"]))
    console.print(table)


COMMANDS = {"collection": (add_arguments, run, show)}
