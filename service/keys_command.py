"""`vitascope keys`: who may use a service, by its data folder, or by itself. A running service knows at once."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_data, add_server, server_url
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from service.http.api_keys import KeyStore
    from vitascope.client import Client
    from vitascope.client.request_types import Scope

EPILOG = """\
scopes, none of which holds another:
  read    list, look at, search, score, ask
  write   upload, index, delete videos
  admin   collections, models, operations, keys, metrics

examples:
  vitascope keys create "my laptop"                                      may do everything
  vitascope keys create portal --scopes read --collections holidays,work --rate 20
  vitascope keys create camera --scopes write --expires 90d
  vitascope keys list
  vitascope keys revoke 3f9c01d2a4b7
  vitascope keys list --server http://search.lan:8000

The key's text is shown once, when it is made. Send it as `Authorization: Bearer vsk_…`; the command and the Python
client take it from VITASCOPE_API_KEY. With --server the key in use must have the scope admin; the first key of a
service is made on its machine.
"""
_UNITS = {"h": 3600.0, "d": 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key", description="Make a key.")
    create.add_argument("name", metavar="NAME", help="what it is for")
    create.add_argument("--scopes", default="read,write,admin", metavar="LIST", help="default: %(default)s")
    create.add_argument("--collections", metavar="LIST", help="for these alone (default: all)")
    create.add_argument("--rate", type=float, metavar="N", help="requests a second (default: as the settings say)")
    create.add_argument("--concurrency", type=int, metavar="N", help="requests under way (default: likewise)")
    create.add_argument("--expires", metavar="TIME", help="from now, such as 12h or 90d (default: never)")
    listing = actions.add_parser("list", help="list keys", description="List keys, oldest first.")
    revoke = actions.add_parser("revoke", help="make a key useless", description="Make a key useless.")
    revoke.add_argument("id", metavar="ID", help="of the key, which `list` shows")
    for action in (create, listing, revoke):
        add_data(action)
        add_server(action)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        there: dict[str, Callable[[Client, argparse.Namespace], Mapping[str, Any]]] = {
            "create": _create_there,
            "list": lambda client, args: client.list_keys(),
            "revoke": lambda client, args: client.revoke_key(args.id),
        }
        with Client(server) as client:
            return {"action": args.action, **there[args.action](client, args)}
    here: dict[str, Callable[[argparse.Namespace, KeyStore], dict[str, Any]]] = {
        "create": _create,
        "list": _list,
        "revoke": _revoke,
    }
    with _store(args) as store:
        return {"action": args.action, **here[args.action](args, store)}


@contextmanager
def _store(args: argparse.Namespace) -> Iterator[KeyStore]:
    from service.http.api_keys import FILE_NAME, KeyStore

    if args.action != "create" and not (args.data / FILE_NAME).is_file():  # opening it would make it
        raise InvalidInput(f"data: {str(args.data)!r} has no keys; the data folder of a service was expected")
    store = KeyStore(args.data)
    try:
        yield store
    finally:
        store.close()


def _create(args: argparse.Namespace, store: KeyStore) -> dict[str, Any]:
    key, text = store.create(args.name, _parts(args.scopes), **_limits(args))
    return {"key": text, **key.to_dict()}


def _create_there(client: Client, args: argparse.Namespace) -> Mapping[str, Any]:
    scopes = cast("list[Scope]", _parts(args.scopes))  # the service says which there are
    return client.create_key(args.name, scopes, **_limits(args))


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "collections": None if args.collections is None else _parts(args.collections),
        "rate": args.rate,
        "concurrency": args.concurrency,
        "expires_in": None if args.expires is None else _seconds(args.expires),
    }


def _list(args: argparse.Namespace, store: KeyStore) -> dict[str, Any]:
    return {"keys": [key.to_dict() for key in store.all()]}


def _revoke(args: argparse.Namespace, store: KeyStore) -> dict[str, Any]:
    return store.revoke(args.id).to_dict()


def _parts(text: str) -> list[str]:
    return [part for part in (each.strip() for each in text.split(",")) if part]


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([hd])", text)
    if found is None:
        raise InvalidInput(f"expires: {text!r}; hours or days, such as 12h or 90d, were expected")
    return int(found[1]) * _UNITS[found[2]]


def show(result: dict[str, Any], console: Console) -> None:
    """A table of keys; of a new one, its text."""
    if result["action"] == "create":
        console.print(result["key"], markup=False, soft_wrap=True)
        console.print(f"This is the only time that key {result['id']} is shown. It may: {', '.join(result['scopes'])}.")
        return
    table = plain_table("id", "name", "scopes", "collections", "made", "last used", "state")
    for key in result["keys"] if result["action"] == "list" else [result]:
        table.add_row(
            key["id"],
            escape(key["name"]),
            ", ".join(key["scopes"]),
            ", ".join(key["collections"]) if key["collections"] else "all",
            _day(key["created_at"]),
            _day(key["last_used_at"]),
            _state(key),
        )
    console.print(table)


def _day(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))


def _state(key: dict[str, Any]) -> str:
    if key["revoked_at"] is not None:
        return f"revoked {_day(key['revoked_at'])}"
    if key["expires_at"] is None:
        return "valid"
    return f"{'expired' if key['expires_at'] <= time.time() else 'valid until'} {_day(key['expires_at'])}"


COMMANDS = {"keys": (add_arguments, run, show)}
