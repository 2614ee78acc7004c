"""What deletes for good asks to be meant."""

from __future__ import annotations

import argparse

from vitascope.errors import InvalidInput


def check_meant(args: argparse.Namespace, what: str) -> None:
    """Raise InvalidInput, naming ``what`` would be lost, unless ``--yes`` was given."""
    if not args.yes:
        raise InvalidInput(f"{args.action}: {what}, which would be lost; --yes was expected")


def held(facts: dict[str, object]) -> str:
    """What a collection holds, in words."""
    return f"{facts['videos']} videos, {facts['clips']} clips"
