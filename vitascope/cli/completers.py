"""What a shell offers at a place of the command line where neither options nor choices are known beforehand.

A completer is the attribute ``completer`` of an argument. It is called while somebody waits for the key he pressed: it
imports little, and what it cannot find out in a second it leaves.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

COLLECTIONS = "collections"
"""Where in a data folder the command and the service keep their collections."""
SECONDS = 1.0
"""Until a service that does not answer is left alone."""


def complete_collections(argument: argparse.Action) -> argparse.Action:
    """Offer the names of collections for this argument."""
    argument.completer = collection_names  # type: ignore[attr-defined]
    return argument


def no_completion(argument: argparse.Action) -> argparse.Action:
    """Offer nothing for this argument, such as a sentence."""
    argument.completer = lambda **_: ()  # type: ignore[attr-defined]
    return argument


def collection_names(*, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """The names of the collections, each with a word on it, of the service or the data folder that the line names."""
    server: str | None = getattr(parsed_args, "server", None)
    try:
        return _names_there(server) if server else _names_here(parsed_args.data)
    except (OSError, ValueError, KeyError, TypeError):  # nothing to offer, and nobody who could read why
        return {}


def _names_here(data: Path) -> dict[str, str]:
    return {one.name: "collection" for one in (data / COLLECTIONS).iterdir() if one.name[0].isalnum()}


def _names_there(server: str) -> dict[str, str]:
    """By the plain library: importing the client takes longer than all the rest."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    address = urlsplit(server)
    connect = {"http": HTTPConnection, "https": HTTPSConnection}[address.scheme]
    connection = connect(address.netloc.rpartition("@")[2], timeout=SECONDS)
    key = os.environ.get("VITASCOPE_API_KEY")
    try:
        connection.request("GET", "/v1/collections", headers={"Authorization": f"Bearer {key}"} if key else {})
        found = json.loads(connection.getresponse().read())["collections"]
    except HTTPException:
        return {}
    finally:
        connection.close()
    return {one["name"]: f"{one['videos']} videos, {one['clips']} clips" for one in found}
