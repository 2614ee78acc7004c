"""`vitascope completion SHELL`: the script by which a shell completes what is typed."""

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
Completed are commands, options, what they may be set to, files, and the names of collections: of the data folder, or of
the service that --server or VITASCOPE_SERVER names. New options are known without another script.

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
    """Tell the shell that waits what could follow on its line, which the environment says, and end the process.

    ``parser_for`` gives the parser for the words that are complete.
    """
    from argcomplete import autocomplete
    from argcomplete.finders import safe_actions
    from argcomplete.lexers import split_line

    safe_actions.add(LocalOnlyAction)
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
    autocomplete(parser_for(words[1:]), always_complete_options="long")


COMMANDS = {"completion": (add_arguments, run, show)}
