"""`vitascope keys`: manage API keys in a data folder or through a service. Changes take effect at once."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_data, add_server, server_url
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from vitascope.client import Client
    from vitascope.client.api import Scope

EPILOG = """\
Scopes (none includes another):
  read    list and show collections, videos and jobs; search, score, ask
  write   upload, index and delete videos
  admin   create, change and drop collections; models, operations, webhooks, keys, metrics

The secret of a key is shown once, when it is created. Send it as `Authorization: Bearer vsk_…`; the
command and the Python client read it from VITASCOPE_API_KEY. With --server, that key needs the scope
admin; create the first key of a service on its machine.

examples:
  vitascope keys create "my laptop"                                      all scopes
  vitascope keys create portal --scopes read --collections holidays,work --rate 20
  vitascope keys create camera --scopes write --expires 90d
  vitascope keys list
  vitascope keys revoke 3f9c01d2a4b7
  vitascope keys list --server http://search.lan:8000
"""
_SECONDS = {"h": 3600.0, "d": 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="create a key", description="Create a key.")
    create.add_argument("name", metavar="NAME", help="description of the key")
    create.add_argument("--scopes", default="read,write,admin", metavar="LIST", help="scopes (default: %(default)s)")
    create.add_argument("--collections", metavar="LIST", help="restrict the key to collections (default: all)")
    create.add_argument("--rate", type=float, metavar="N", help="requests per second (default: a setting)")
    create.add_argument("--concurrency", type=int, metavar="N", help="concurrent requests (default: a setting)")
    create.add_argument("--expires", metavar="TIME", help="lifetime, such as 12h or 90d (default: unlimited)")
    list_action = actions.add_parser("list", help="list keys", description="List keys, oldest first.")
    revoke = actions.add_parser("revoke", help="revoke a key", description="Revoke a key.")
    revoke.add_argument("id", metavar="ID", help="id of the key")
    for action in (create, list_action, revoke):
        add_data(action)
        add_server(action)


class LocalKeys:
    """API keys in a data folder, with the same methods as the client of a service."""

    def __init__(self, data: Path) -> None:
        from service.http.api_keys import KeyStore

        self._store = KeyStore(data)

    def __enter__(self) -> LocalKeys:
        return self

    def __exit__(self, *error: object) -> None:
        self._store.close()

    def list_keys(self) -> dict[str, Any]:
        return {"keys": [key.to_dict() for key in self._store.all()]}

    def create_key(self, name: str, scopes: Sequence[str], **options: Any) -> dict[str, Any]:
        key, secret = self._store.create(name, scopes, **options)
        return {"key": secret, **key.to_dict()}

    def revoke_key(self, key_id: str) -> dict[str, Any]:
        return self._store.revoke(key_id).to_dict()


def run(args: argparse.Namespace) -> dict[str, Any]:
    with _open_keys(args) as keys:
        if args.action == "list":
            return {"action": "list", **keys.list_keys()}
        if args.action == "revoke":
            return {"action": "revoke", **keys.revoke_key(args.id)}
        scopes = cast("list[Scope]", _split(args.scopes))  # checked by the key store
        key = keys.create_key(
            args.name,
            scopes,
            collections=None if args.collections is None else _split(args.collections),
            rate=args.rate,
            concurrency=args.concurrency,
            expires_in=None if args.expires is None else _parse_lifetime(args.expires),
        )
        return {"action": "create", **key}


def _open_keys(args: argparse.Namespace) -> AbstractContextManager[LocalKeys | Client]:
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        return Client(server)
    from service.http.api_keys import FILE_NAME

    if args.action != "create" and not (args.data / FILE_NAME).is_file():  # KeyStore would create it
        raise InvalidInput(f"data: {str(args.data)!r}: No API keys exist; the data folder of a service was expected")
    return LocalKeys(args.data)


def _split(text: str) -> list[str]:
    return [part for part in (each.strip() for each in text.split(",")) if part]


def _parse_lifetime(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([hd])", text)
    if match is None:
        raise InvalidInput(f"expires: {text!r}; hours or days, such as 12h or 90d, were expected")
    return int(match[1]) * _SECONDS[match[2]]


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of keys, or the secret of a new key."""
    if result["action"] == "create":
        console.print(result["key"], markup=False, soft_wrap=True)
        console.print(f"Key {result['id']}, scopes: {', '.join(result['scopes'])}. The secret is not shown again.")
        return
    keys = result["keys"] if result["action"] == "list" else [result]
    if not keys:
        console.print("No API keys")
        return
    table = plain_table("id", "name", "scopes", "collections", "created", "last used", "state")
    for key in keys:
        table.add_row(
            key["id"],
            escape(key["name"]),
            ", ".join(key["scopes"]),
            ", ".join(key["collections"]) if key["collections"] else "all",
            _format_date(key["created_at"]),
            _format_date(key["last_used_at"]),
            _format_state(key),
        )
    console.print(table)


def _format_date(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))


def _format_state(key: dict[str, Any]) -> str:
    if key["revoked_at"] is not None:
        return f"revoked {_format_date(key['revoked_at'])}"
    if key["expires_at"] is None:
        return "valid"
    return f"{'expired' if key['expires_at'] <= time.time() else 'valid until'} {_format_date(key['expires_at'])}"


COMMANDS = {"keys": (add_arguments, run, show)}
