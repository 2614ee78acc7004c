"""Options and functions that the commands which write bundles share."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitascope.errors import InvalidInput

PRECISIONS = ("float32", "float16-weights", "int8-weights")


def add_bundle_output(parser: argparse.ArgumentParser) -> None:
    """Add the options --out and --name of the output bundle."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="output bundle; an existing bundle is replaced"
    )
    add_name(parser)


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", help="name of the bundle: lower case letters, digits, . _ - (default: name of the output folder)"
    )


def add_precision(parser: argparse.ArgumentParser, weights: str) -> None:
    """Add the option --precision; `weights`: what it applies to, for the help."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="int8-weights", help=f"storage of {weights} (default: %(default)s)"
    )


def add_packed_data(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add the options --data and --corpus; `purpose`: use of the corpora, for the help."""
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder of packed corpora {purpose}")
    parser.add_argument("--corpus", action="append", metavar="NAME", help="corpus to use; repeatable (default: all)")


def add_parity_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the random parity inputs (default: random)")


def add_work(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options --work, --workers and --max-skipped; `command`: name of the command, for the help."""
    add = parser.add_argument
    add("--work", type=Path, metavar="DIR", help=f"folder of intermediate results (default: runs/{command}-NAME)")
    add("--workers", type=int, default=1, metavar="N", help="decoding processes (default: %(default)s)")
    add(
        "--max-skipped",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="maximum fraction of clips that fail to decode (default: %(default)s)",
    )


def check_max_skipped(fraction: float) -> None:
    """Raise InvalidInput unless the number is from 0 to 1."""
    if not 0 <= fraction <= 1:
        raise InvalidInput(f"max-skipped: {fraction:g}; a fraction from 0 to 1 was expected")


def log_progress(message: str) -> None:
    """Print a progress message on standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def cleanup_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit during the context, so that temporary folders are removed."""

    def exit_(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, exit_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
