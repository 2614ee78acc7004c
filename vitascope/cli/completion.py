"""`vitascope completion`: shell completion scripts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vitascope.cli.options import LocalOnlyAction

if TYPE_CHECKING:
    from rich.console import Console

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
    """Answer a completion request of a shell, which is in the environment, and exit.

    ``parser_for`` returns the parser for the complete words of the line.
    """
    from argcomplete import autocomplete
    from argcomplete.finders import safe_actions
    from argcomplete.lexers import split_line

    safe_actions.add(LocalOnlyAction)
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
    autocomplete(parser_for(words[1:]), always_complete_options="long")


COMMANDS = {"completion": (add_arguments, run, show)}
