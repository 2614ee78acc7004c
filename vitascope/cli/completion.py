"""`vitascope completion`: shell completion scripts, and completers of arguments.

argcomplete reads completers from the attribute ``completer`` of arguments. They run on every Tab press, so they import
little and time out after one second.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

COLLECTIONS = "collections"
"""Folder of collections in a data folder."""
TIMEOUT_SECONDS = 1.0
"""Timeout of a request to a service."""
SHELLS = ("bash", "zsh", "fish")
EPILOG = """\
Completes commands, options, their values, files, and names of collections: those of the data folder, or of the service
in --server or VITASCOPE_SERVER. The script need not be updated for new versions.

examples:
  vitascope completion bash > ~/.local/share/bash-completion/completions/vitascope
  vitascope completion zsh > ~/.zfunc/_vitascope          with ~/.zfunc in fpath, before compinit
  vitascope completion fish > ~/.config/fish/completions/vitascope.fish
  eval "$(vitascope completion bash)"                     for this shell alone
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from argcomplete.shell_integration import shellcode

    return {"shell": args.shell, "script": shellcode(["vitascope"], shell=args.shell)}


def show(result: dict[str, Any], console: Console) -> None:
    console.out(result["script"].strip(), highlight=False)


def complete(parser_for: Callable[[list[str]], argparse.ArgumentParser]) -> None:
    """Answer the completion request that a shell has put into the environment, and exit.

    Args:
        parser_for: function that returns the parser for the words of the command line that are complete.
    """
    from argcomplete import autocomplete
    from argcomplete.finders import safe_actions
    from argcomplete.lexers import split_line

    from vitascope.cli.options import LocalOnlyAction

    safe_actions.add(LocalOnlyAction)
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
    autocomplete(parser_for(words[1:]), always_complete_options="long")


def complete_collections(argument: argparse.Action) -> argparse.Action:
    """Complete an argument with names of collections."""
    argument.completer = collection_names  # type: ignore[attr-defined]
    return argument


def no_completion(argument: argparse.Action) -> argparse.Action:
    """Disable completion of an argument, such as a sentence."""
    argument.completer = lambda **_: ()  # type: ignore[attr-defined]
    return argument


def collection_names(*, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """Return collection names with descriptions, from the service or data folder that the command line names."""
    server: str | None = getattr(parsed_args, "server", None)
    try:
        return _names_of_service(server) if server else _names_in_folder(parsed_args.data)
    except (OSError, ValueError, KeyError, TypeError):  # an error message would disturb the prompt
        return {}


def _names_in_folder(data: Path) -> dict[str, str]:
    return {entry.name: "collection" for entry in (data / COLLECTIONS).iterdir() if entry.name[0].isalnum()}


def _names_of_service(server: str) -> dict[str, str]:
    """Request the names with http.client, as importing the Python client would take too long."""
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


COMMANDS = {"completion": (add_arguments, run, show)}
