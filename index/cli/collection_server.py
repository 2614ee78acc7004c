"""`vitascope collection … --server URL`: the same at a running service, with the same keys in what it gives."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from index.cli.deleting import check_meant, held
from index.cli.views import collection_there
from vitascope.cli.output import ProgressBar
from vitascope.client import Client
from vitascope.client.response_types import Operation


def _list(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    found = client.list_collections()
    damaged = [{"name": name, "error": "damaged; the log of the service says more"} for name in found["unreadable"]]
    listed = [*map(collection_there, found["collections"]), *damaged]
    return {"collections": sorted(listed, key=lambda one: str(one["name"]))}


def _show(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return collection_there(client.get_collection(args.name))


def _create(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    made = client.create_collection(
        args.name, index_kind=args.index_kind, token_encoding=args.token_encoding, model=args.model
    )
    return collection_there(made)


def _set(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return collection_there(client.update_collection(args.name, index_kind=args.index_kind))


def _export(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("exporting", quiet=args.json) as steps:
        made = client.export(
            args.name, args.folder, tokens=args.tokens, thumbnails=args.thumbnails, on_change=_shown(steps)
        )
    held_now = client.get_collection(args.name)
    return {
        "name": args.name,
        "folder": str(args.folder),
        "videos": held_now["videos"],
        "clips": held_now["clips"],
        "bytes": _bytes(made),
        "media_not_included": made.get("media_not_included"),
    }


def _backup(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar("copying", quiet=args.json) as steps:
        made = client.backup(args.name, args.file, on_change=_shown(steps))
    left_out = made.get("media_not_included")  # which earlier services do not say
    return {"name": args.name, "file": str(args.file), "bytes": _bytes(made), "media_not_included": left_out}


def _reembed(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    model = {} if args.model is None else {"model": args.model}
    begun = client.create_operation("reembed", args.name, skip_missing=args.skip_missing, **model)
    with ProgressBar("embedding", quiet=args.json) as steps:
        client.wait_for_operation(begun["id"], on_change=_shown(steps))
    client.delete_operation(begun["id"])
    now = collection_there(client.get_collection(args.name))
    # What cannot be embedded again fails the whole operation there, unless it is to be left out.
    return {**now, "switched": True, "embedded": None, "failed": 0, "failures": []}


def _drop(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    facts = collection_there(client.get_collection(args.name))
    check_meant(args, f"collection {args.name} holds {held(facts)}")
    client.delete_collection(args.name)
    return {**{key: facts[key] for key in ("name", "videos", "clips", "vectors")}, "left_in_milvus": []}


def _bytes(operation: Operation) -> int:
    return sum(file["bytes"] for file in operation["files"])


def _shown(steps: ProgressBar) -> Callable[[Operation], None]:
    return lambda operation: steps.update(round(100 * operation["progress"]), 100, operation["state"])


ACTIONS: dict[str, Callable[[Client, argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "set": _set,
    "export": _export,
    "backup": _backup,
    "reembed": _reembed,
    "drop": _drop,
}
