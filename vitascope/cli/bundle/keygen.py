"""`vitascope bundle keygen`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from vitascope.cli.bundle.options import Actions


def add_arguments(actions: Actions) -> None:
    summary = "make a key to sign bundles with"
    action = actions.add_parser(
        "keygen",
        help=summary,
        description="Make a key to sign bundles with, in two files: NAME.key, which stays with you and is readable by "
        "you alone, and NAME.pub, which goes to whoever checks signatures.",
    )
    action.add_argument("name", type=Path, metavar="NAME", help="of the files, without .key and .pub")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.signing.keys import new_key, write_key

    key = new_key()
    secret, public = (args.name.with_name(f"{args.name.name}.{end}") for end in ("key", "pub"))
    write_key(key, secret, public)
    return {
        "key_id": key.public.id,
        "secret_key": str(secret),
        "public_key": str(public),
        "public_key_text": key.public.written,
    }


def show(result: dict[str, Any], console: Console) -> None:
    console.print(f"{escape(result['secret_key'])}: signs, readable by you alone; keep it to yourself")
    console.print(f"{escape(result['public_key'])}: checks what it signed; key {result['key_id']}")
    console.print(result["public_key_text"], markup=False, soft_wrap=True)
