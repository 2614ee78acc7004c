"""`vitascope mcp`: Model Context Protocol server for a running service."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any
from urllib.parse import urlsplit

from vitascope.cli.options import DEFAULT_SERVER
from vitascope.errors import InvalidInput
from vitascope.version import installed_version

EPILOG = """\
Provides read-only tools to assistants. An assistant starts this command and uses its standard input and output; with
--http one process serves several assistants. The tools use a running service (`vitascope serve`), with the API key in
VITASCOPE_API_KEY.

examples:
  vitascope mcp
  vitascope mcp --server http://search.lan:8000
  vitascope mcp --http 127.0.0.1:8765
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--server", metavar="URL", help=f"service to use (VITASCOPE_SERVER; default: {DEFAULT_SERVER})")
    parser.add_argument("--http", metavar="HOST:PORT", help="serve over HTTP at this address, path /mcp")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="with --http: accepted Host header, besides HOST and loopback names; may be repeated",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    # Imported here: --help works without the extra.
    from vitascope.integrations.mcp.server import make_server, serve_http, serve_stdio

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    server = make_server(_service(args), installed_version(""))
    if args.http is None:
        serve_stdio(server)
    else:
        serve_http(server, args.http, args.allowed_host)
    return {"served": True}


def _service(args: argparse.Namespace) -> str:
    """Return the URL of the service. Raises InvalidInput, which does not repeat credentials."""
    url: str = args.server or os.environ.get("VITASCOPE_SERVER") or DEFAULT_SERVER
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if "@" in url:
        raise InvalidInput(
            "server: the URL contains credentials, which assistants would see; an API key in VITASCOPE_API_KEY was "
            "expected"
        )
    if not is_url:
        raise InvalidInput(f"server: {url!r}; a URL such as {DEFAULT_SERVER} was expected")
    return url


COMMANDS = {"mcp": (add_arguments, run, lambda result, console: None)}
