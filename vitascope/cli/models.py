"""`vitascope models`: manage the models of a running service."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import DEFAULT_SERVER, add_server, server_url
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from vitascope.client import Client
    from vitascope.client.response_types import ModelInfo

SHORT_FINGERPRINT = 12
"""Characters of a fingerprint in tables."""
EPILOG = """\
MODEL is a name, name@version, or a fingerprint or its beginning; it must be unambiguous. All actions but `list` need an
API key with the scope admin, in VITASCOPE_API_KEY.

examples:
  vitascope models list
  vitascope models add talks-2                 a folder below VITASCOPE_BUNDLES_ROOT of the service
  vitascope models default talks@2
  vitascope models remove 9f0c12ab34cd         running requests are finished first
  vitascope models list --server http://search.lan:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list models", description="List models, the default first.")
    add = actions.add_parser("add", help="load a bundle", description="Load a bundle.")
    add.add_argument("folder", metavar="FOLDER", help="folder of the bundle, on the machine of the service")
    add.add_argument("--default", action="store_true", help="make it the default when it is ready")
    default = actions.add_parser("default", help="set the default model", description="Set the default model.")
    remove = actions.add_parser("remove", help="remove a model", description="Remove a model.")
    remove.add_argument("--force", action="store_true", help="remove it even if collections use it")
    for action in (default, remove):
        action.add_argument("model", metavar="MODEL", help="name, name@version or fingerprint")
    for action in (listing, add, default, remove):
        add_server(action, DEFAULT_SERVER)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is None:
        raise InvalidInput(
            f"models {args.action}: needs a service; --server URL was expected. Without one, --bundle selects the "
            "model and `vitascope bundle inspect` describes it"
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
    assert fingerprint is not None  # set for every loaded bundle
    ready = client.wait_for_model(fingerprint)
    return {"model": client.set_default_model(fingerprint) if args.default else ready}


def _remove(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    fingerprint = _fingerprint(client, args.model)
    removed = client.get_model(fingerprint)
    client.remove_model(fingerprint, force=args.force)
    return {"model": removed}


def _fingerprint(client: Client, name: str) -> str:
    """Return the fingerprint of the model that ``name`` identifies. Raises NotFound and InvalidInput."""
    models = {model["fingerprint"]: model for model in client.list_models()["models"] if model["fingerprint"]}
    exact = {key: model for key, model in models.items() if name in (key, model["name"], _name_and_version(model))}
    matches = exact or {key: model for key, model in models.items() if key.startswith(name)}
    if not matches:
        raise NotFound(f"model: {name!r}; one of {_format_models(models)} was expected")
    if len(matches) > 1:
        raise InvalidInput(f"model: {name!r} is ambiguous: {_format_models(matches)}; a fingerprint was expected")
    return next(iter(matches))


def _format_models(models: Mapping[str, ModelInfo]) -> str:
    return ", ".join(f"{_name_and_version(model)} ({key[:SHORT_FINGERPRINT]})" for key, model in models.items())


def _name_and_version(model: Mapping[str, Any]) -> str:
    return f"{model['name']}@{model['version']}"


def _show_recognizers(recognizers: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the recognisers of speech and screen text, if there are any."""
    if not recognizers:
        return
    table = plain_table("recogniser", "name", "state", "")
    for each in recognizers:
        error = "" if each["error"] is None else f"[red]{escape(each['error'])}[/red]"
        table.add_row(each["kind"], escape(each["name"]), each["state"], error)
    console.print(table)


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("fingerprint", "name", "version", "state", "tasks", "folder", "")
    models = result["models"] if result["action"] == "list" else [result["model"]]
    for model in models:
        state = model["state"] if result["action"] != "remove" else "removed"
        remark = "default" if model["default"] else ""
        if model["error"] is not None:
            state, remark = f"[red]{state}[/red]", f"{remark} [red]{escape(model['error'])}[/red]"
        table.add_row(
            (model["fingerprint"] or "-")[:SHORT_FINGERPRINT],
            escape(model["name"] or "-"),
            escape(model["version"] or "-"),
            state,
            ", ".join(model["tasks"]),
            escape(model["folder"]),
            remark.strip(),
        )
    console.print(table)
    for model in models:
        engines = model.get("engines", {}).values()  # missing in older services
        for device, reason in sorted({(graph["device"], graph["fallback"]) for graph in engines if graph["fallback"]}):
            console.print(f"{escape(_name_and_version(model))} runs on {device}: {escape(reason)}", soft_wrap=True)
    _show_recognizers(result.get("recognizers", ()), console)  # only of a list, and missing in older services


COMMANDS = {"models": (add_arguments, run, show)}
