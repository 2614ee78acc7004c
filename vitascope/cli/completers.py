"""Completers of arguments, for argcomplete: attributes ``completer``.

They run on every Tab press: they import little and give up after a second.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

COLLECTIONS = "collections"
"""Folder of collections in a data folder."""
TIMEOUT_SECONDS = 1.0
"""For the response of a service."""


def complete_collections(argument: argparse.Action) -> argparse.Action:
    """Complete an argument with names of collections."""
    argument.completer = collection_names  # type: ignore[attr-defined]
    return argument


def no_completion(argument: argparse.Action) -> argparse.Action:
    """Disable completion of an argument, such as a sentence."""
    argument.completer = lambda **_: ()  # type: ignore[attr-defined]
    return argument


def collection_names(*, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """Return the names of collections with descriptions, of the service or data folder in the command line."""
    server: str | None = getattr(parsed_args, "server", None)
    try:
        return _names_of_service(server) if server else _names_in_folder(parsed_args.data)
    except (OSError, ValueError, KeyError, TypeError):  # an error message would disturb the prompt
        return {}


def _names_in_folder(data: Path) -> dict[str, str]:
    return {entry.name: "collection" for entry in (data / COLLECTIONS).iterdir() if entry.name[0].isalnum()}


def _names_of_service(server: str) -> dict[str, str]:
    """Request the names with http.client: importing the client would take longer than everything else."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    address = urlsplit(server)
    connect = {"http": HTTPConnection, "https": HTTPSConnection}[address.scheme]
    connection = connect(address.netloc.rpartition("@")[2], timeout=TIMEOUT_SECONDS)
    key = os.environ.get("VITASCOPE_API_KEY")
    try:
        connection.request("GET", "/v1/collections", headers={"Authorization": f"Bearer {key}"} if key else {})
        collections = json.loads(connection.getresponse().read())["collections"]
    except HTTPException:
        return {}
    finally:
        connection.close()
    return {each["name"]: f"{each['videos']} videos, {each['clips']} clips" for each in collections}
