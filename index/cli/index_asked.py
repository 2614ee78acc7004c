"""What the arguments of `vitascope index` name: a source, and metadata."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from index.jobs.sources.source_types import Source
    from index.records import Scalar


def asked_source(args: argparse.Namespace) -> Source:
    """The source on this machine. Raises InvalidInput."""
    from index.jobs.sources.source_types import ListSource, parse_source

    source = parse_source(args.source, recursive=not args.flat)
    if isinstance(source, ListSource):
        return replace(source, path_column=args.path_column, title_column=args.title_column)
    return source


def asked_metadata(args: argparse.Namespace) -> dict[str, Scalar]:
    """Of every video that is added. Raises InvalidInput."""
    from index.records import check_metadata

    return check_metadata(dict(_key_and_value(text) for text in args.metadata))


def _key_and_value(text: str) -> tuple[str, str | float | int | bool]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise InvalidInput(f"metadata: {text!r}; KEY=VALUE was expected")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return key, parsed if isinstance(parsed, str | float | int) else value
