"""Options of the commands that make a bundle out of another: `distil`, `adapt` and `reduce`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitascope.errors import InvalidInput


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """--out and --name, of the bundle that is written."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="BUNDLE", help="bundle to write (one there is replaced at the end)")
    add("--name", help="the bundle's name: lower case letters, digits, . _ - (default: of the folder)")


def add_precision(parser: argparse.ArgumentParser, whose: str) -> None:
    """--precision. whose: weights, in words."""
    parser.add_argument(
        "--precision",
        choices=("float32", "float16-weights", "int8-weights"),
        default="int8-weights",
        help=f"how {whose} weights are stored (default: %(default)s)",
    )


def add_work(parser: argparse.ArgumentParser, command: str) -> None:
    """--work, and --workers and --max-skipped of the decoding that fills it."""
    add = parser.add_argument
    add("--work", type=Path, metavar="DIR", help=f"what is kept on the way (default: runs/{command}-NAME)")
    add("--workers", type=int, default=1, metavar="N", help="decoding processes (default: %(default)s)")
    add(
        "--max-skipped",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="stop when a larger share of the clips cannot be decoded (default: %(default)s, one in a hundred)",
    )


def check_max_skipped(share: float) -> None:
    """Raise InvalidInput for what is no share of the clips."""
    if not 0 <= share <= 1:
        raise InvalidInput(f"max-skipped: {share:g}; a share from 0 to 1 was expected")
