"""`vitascope collection … --server URL`: the same actions at a running service."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from index.commands.collection import check_dropped_on_purpose
from vitascope.client import Client
from vitascope.client.types import Operation
from vitascope.commands.output import Steps


def run_remotely(args: argparse.Namespace) -> dict[str, Any]:
    """What the action gives, with the same keys as on this machine. Raises as the client does."""
    runs: dict[str, Callable[[Client, argparse.Namespace], dict[str, Any]]] = {
        "list": _list,
        "create": _create,
        "set": _set,
        "export": _export,
        "backup": _backup,
        "reembed": _reembed,
        "drop": _drop,
    }
    with Client(args.server) as client:
        return {"action": args.action, **runs[args.action](client, args)}


def _list(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    found = client.collections()
    damaged = [{"name": name, "error": "damaged; the log of the service says more"} for name in found["unreadable"]]
    return {"collections": sorted([*found["collections"], *damaged], key=lambda one: str(one["name"]))}


def _create(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    made = client.create_collection(
        args.name, index_kind=args.index_kind, token_encoding=args.token_encoding, model=args.model
    )
    return {**made}


def _set(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return {**client.change_collection(args.name, index_kind=args.index_kind)}


def _export(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    with Steps("exporting", quiet=args.json) as steps:
        made = client.export(
            args.name, args.folder, tokens=args.tokens, thumbnails=args.thumbnails, on_change=_shown(steps)
        )
    return {**client.collection(args.name), "folder": str(args.folder), "bytes": _bytes(made)}


def _backup(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    with Steps("copying", quiet=args.json) as steps:
        made = client.back_up(args.name, args.file, on_change=_shown(steps))
    return {"name": args.name, "file": str(args.file), "bytes": _bytes(made)}


def _reembed(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    model = {} if args.model is None else {"model": args.model}
    begun = client.create_operation("reembed", args.name, skip_missing=args.skip_missing, **model)
    with Steps("embedding", quiet=args.json) as steps:
        client.wait_for_operation(begun["id"], on_change=_shown(steps))
    client.delete_operation(begun["id"])
    return {**client.collection(args.name), "switched": True, "failures": []}


def _drop(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    facts = client.collection(args.name)
    check_dropped_on_purpose(args, {**facts})
    client.delete_collection(args.name)
    return {"name": args.name, "videos": facts["videos"], "clips": facts["clips"]}


def _bytes(operation: Operation) -> int:
    return sum(file["bytes"] for file in operation["files"])


def _shown(steps: Steps) -> Callable[[Operation], None]:
    return lambda operation: steps.show(round(100 * operation["progress"]), 100, operation["state"])
