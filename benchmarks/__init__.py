"""Benchmarks of the service, index, indexing, training and GPUs; not part of the wheel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from vitascope.errors import VitascopeError


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark and exit with its status; 2, with one line on standard error, for a user error."""
    try:
        sys.exit(main())
    except VitascopeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
