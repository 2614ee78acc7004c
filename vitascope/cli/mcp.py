"""`vitascope mcp`: tools with which assistants search, look at and question the videos of a running service."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any
from urllib.parse import urlsplit

from vitascope.errors import InvalidInput
from vitascope.version import installed_version

SERVER = "http://127.0.0.1:8000"
EPILOG = """\
Speaks the Model Context Protocol. An assistant starts this command by itself and speaks to it over standard
input and output; with --http it is started once, for several. The tools read and never write. They ask a running
service (vitascope serve); where it needs a key, it is taken from VITASCOPE_API_KEY.

examples:
  vitascope mcp
  vitascope mcp --server http://search.lan:8000
  vitascope mcp --http 127.0.0.1:8765
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--server", metavar="URL", help=f"service to ask (VITASCOPE_SERVER; default: {SERVER})")
    parser.add_argument("--http", metavar="HOST:PORT", help="serve at this address, path /mcp, and not over stdio")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="with --http: a name that it is reached by, besides HOST and those of this machine; several times",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    # Here, so that --help needs no package of the extra.
    from vitascope.integrations.mcp.server import make_server
    from vitascope.integrations.mcp.transports import serve_http, serve_stdio

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    server = make_server(_service(args), installed_version(""))
    if args.http is None:
        serve_stdio(server)
    else:
        serve_http(server, args.http, args.allowed_host)
    return {"served": True}


def _service(args: argparse.Namespace) -> str:
    """The URL of the service. Raises InvalidInput, which repeats no credentials."""
    url: str = args.server or os.environ.get("VITASCOPE_SERVER") or SERVER
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if "@" in url:
        raise InvalidInput(
            "server: a URL with credentials, which assistants would see; a key was expected, in the environment, as "
            "VITASCOPE_API_KEY"
        )
    if not is_url:
        raise InvalidInput(f"server: {url!r}; a URL such as {SERVER} was expected")
    return url


COMMANDS = {"mcp": (add_arguments, run, lambda result, console: None)}
