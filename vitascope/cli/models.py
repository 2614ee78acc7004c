"""`vitascope models`: the models of a running service."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_server, server_url
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from vitascope.client import Client
    from vitascope.client.response_types import ModelInfo

SERVER = "http://127.0.0.1:8000"
SHOWN = 12
"""Characters of a fingerprint."""
EPILOG = """\
MODEL is a fingerprint or its beginning, a name, or name@version; it must mean one model.

examples:
  vitascope models list
  vitascope models add talks-2                 the bundle in this folder below VITASCOPE_BUNDLES_ROOT of the service
  vitascope models default talks@2
  vitascope models remove 9f0c12ab34cd         what is asked of it now is answered, then its memory is free
  vitascope models list --server http://search.lan:8000

All but `list` need a key with the scope admin, in VITASCOPE_API_KEY.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list models", description="List models, the default first.")
    add = actions.add_parser("add", help="load a bundle beside the others", description="Load a bundle.")
    add.add_argument("folder", metavar="FOLDER", help="of the bundle, on the machine of the service")
    add.add_argument("--default", action="store_true", help="make it the default once it is ready")
    default = actions.add_parser("default", help="choose the default", description="Choose the default.")
    remove = actions.add_parser("remove", help="remove a model", description="Remove a model.")
    remove.add_argument("--force", action="store_true", help="also where collections need it")
    for action in (default, remove):
        action.add_argument("model", metavar="MODEL")
    for action in (listing, add, default, remove):
        add_server(action, SERVER)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is None:
        raise InvalidInput(
            f"models {args.action}: of a service; --server URL was expected. What works here is "
            "chosen by --bundle, and `vitascope bundle inspect` tells of it"
        )
    from vitascope.client import Client

    runs: dict[str, Callable[[Client, argparse.Namespace], dict[str, Any]]] = {
        "list": lambda client, args: {**client.list_models()},
        "add": _add,
        "default": lambda client, args: {"model": client.set_default_model(_fingerprint(client, args.model))},
        "remove": _remove,
    }
    with Client(server) as client:
        return {"action": args.action, **runs[args.action](client, args)}


def _add(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    fingerprint = client.add_model(args.folder)["fingerprint"]
    assert fingerprint is not None  # one that was opened has one
    ready = client.wait_for_model(fingerprint)
    return {"model": client.set_default_model(fingerprint) if args.default else ready}


def _remove(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    fingerprint = _fingerprint(client, args.model)
    removed = client.get_model(fingerprint)
    client.remove_model(fingerprint, force=args.force)
    return {"model": removed}


def _fingerprint(client: Client, wanted: str) -> str:
    """Of the one model that ``wanted`` means. Raises NotFound and InvalidInput."""
    models = {one["fingerprint"]: one for one in client.list_models()["models"] if one["fingerprint"] is not None}
    exact = {key: one for key, one in models.items() if wanted in (key, one["name"], _described(one))}
    found = exact or {key: one for key, one in models.items() if key.startswith(wanted)}
    if not found:
        raise NotFound(f"model: {wanted!r}; one of {_all(models)} was expected")
    if len(found) > 1:
        raise InvalidInput(f"model: {wanted!r} means {_all(found)}; a fingerprint, or its beginning, was expected")
    return next(iter(found))


def _all(models: Mapping[str, ModelInfo]) -> str:
    return ", ".join(f"{_described(one)} ({fingerprint[:SHOWN]})" for fingerprint, one in models.items())


def _described(model: Mapping[str, Any]) -> str:
    return f"{model['name']}@{model['version']}"


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("fingerprint", "name", "version", "state", "tasks", "folder", "")
    shown = result["models"] if result["action"] == "list" else [result["model"]]
    for model in shown:
        state = model["state"] if result["action"] != "remove" else "removed"
        remark = "default" if model["default"] else ""
        if model["error"] is not None:
            state, remark = f"[red]{state}[/red]", f"{remark} [red]{escape(model['error'])}[/red]"
        table.add_row(
            (model["fingerprint"] or "-")[:SHOWN],
            escape(model["name"] or "-"),
            escape(model["version"] or "-"),
            state,
            ", ".join(model["tasks"]),
            escape(model["folder"]),
            remark.strip(),
        )
    console.print(table)
    for model in shown:
        engines = model.get("engines", {}).values()  # services of earlier versions do not tell
        for device, why in sorted({(one["device"], one["fallback"]) for one in engines if one["fallback"]}):
            console.print(f"{escape(_described(model))} runs on {device}: {escape(why)}", soft_wrap=True)


COMMANDS = {"models": (add_arguments, run, show)}
