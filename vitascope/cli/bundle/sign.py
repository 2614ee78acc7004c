"""`vitascope bundle sign`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.bundle.options import add_folder

if TYPE_CHECKING:
    from vitascope.cli.bundle.options import Actions


def add_arguments(actions: Actions) -> None:
    action = actions.add_parser(
        "sign",
        help="sign a bundle, after every file of it was checked",
        description="Check every file of a bundle and sign its manifest, which names them all with their SHA-256. The "
        "signature is put beside the manifest, after those by other keys; an earlier one by this key is replaced.",
    )
    add_folder(action)
    action.add_argument("--key", type=Path, required=True, metavar="FILE", help="secret key, as keygen writes it")
    action.add_argument("--comment", metavar="TEXT", help="one line, signed with it (default: the time)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle, manifest_bytes
    from vitascope.bundle.manifest import SIGNATURE_NAME
    from vitascope.bundle.signing.keys import read_secret_key
    from vitascope.bundle.signing.signatures import add_signature, read_signatures, sign

    key = read_secret_key(args.key)
    Bundle.open(args.bundle)
    signature = sign(manifest_bytes(args.bundle), key, args.comment)
    add_signature(args.bundle, signature)
    # As whoever requires it will read it: a manifest that was changed meanwhile is not signed unnoticed.
    bundle = Bundle.open(args.bundle, [key.public])
    return {
        "bundle": str(args.bundle),
        "signature": str(args.bundle / SIGNATURE_NAME),
        "key_id": signature.key_id,
        "comment": signature.comment,
        "signed_by": [one.key_id for one in read_signatures(args.bundle)],
        "fingerprint": bundle.fingerprint,
    }


def show(result: dict[str, Any], console: Console) -> None:
    console.print(f"{escape(result['signature'])}: signed by {result['key_id']}, {escape(result['comment'])}")
    others = [one for one in result["signed_by"] if one != result["key_id"]]
    if others:
        console.print(f"signatures by {', '.join(others)} are there, too, as they were")
