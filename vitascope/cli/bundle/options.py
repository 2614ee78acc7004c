"""Options that several actions of `vitascope bundle` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope.cli.options import default_bundle

if TYPE_CHECKING:
    Actions = argparse._SubParsersAction[argparse.ArgumentParser]


def add_folder(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        default=default_bundle(),
        metavar="FOLDER",
        help="default: %(default)s (VITASCOPE_BUNDLE)",
    )


def add_device(action: argparse.ArgumentParser) -> None:
    action.add_argument("--threads", type=int, default=0, metavar="N", help="for the graphs (default: one per core)")
    action.add_argument("--device", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto", help="for the graphs")
