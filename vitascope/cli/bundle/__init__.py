"""`vitascope bundle`: look into a bundle, verify it, compare two, make keys and sign."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from vitascope.cli.bundle import diff, inspect, keygen, sign, verify

ACTIONS = {
    "inspect": inspect,
    "info": inspect,  # as it was called
    "verify": verify,
    "diff": diff,
    "keygen": keygen,
    "sign": sign,
}
EPILOG = """\
examples:
  vitascope bundle inspect                          the default bundle: tasks, streams, graphs, operators, accuracy
  vitascope bundle inspect bundles/hd-vila-tiny --json
  vitascope bundle verify /srv/models/mine          every file, every graph; exit status 1 if one is off
  vitascope bundle diff bundles/one bundles/two --speed
  vitascope bundle keygen ~/keys/releases           releases.key, which signs, and releases.pub
  vitascope bundle sign bundles/mine --key ~/keys/releases.key
  vitascope bundle verify bundles/mine --key ~/keys/releases.pub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in dict.fromkeys(ACTIONS.values()):
        module.add_arguments(actions)


def run(args: argparse.Namespace) -> dict[str, Any]:
    return {"action": args.action, **ACTIONS[args.action].run(args)}


def show(result: dict[str, Any], console: Console) -> None:
    ACTIONS[result["action"]].show(result, console)


COMMANDS = {"bundle": (add_arguments, run, show)}
