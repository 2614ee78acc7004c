"""Transports of the MCP server: standard input and output, and HTTP."""

from __future__ import annotations

import hmac
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

import anyio
import uvicorn
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vitascope.errors import InvalidInput
from vitascope.network import is_loopback

PATH = "/mcp"
SHUTDOWN_SECONDS = 5
"""Time for running calls to finish when the server stops."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def serve_stdio(server: Server[Any]) -> None:
    """Serve the assistant that started this process until it closes standard input.

    Standard output carries only the protocol; other output goes to standard error.
    """
    if sys.stdin.isatty():
        print("Waiting for an assistant on standard input (assistants start this command).", file=sys.stderr)
    anyio.run(_serve_stdio, server)


async def _serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def serve_http(server: Server[Any], address: str, allowed_hosts: Sequence[str] = ()) -> None:
    """Serve at ``address`` until SIGINT or SIGTERM.

    If other machines can reach the address, requests must carry this process's API key.

    Args:
        server: the server.
        address: HOST:PORT; port 0 chooses a free one.
        allowed_hosts: accepted Host headers, besides HOST and those of this machine (protects against DNS rebinding).
    Raises:
        InvalidInput: the address cannot be used, or needs an API key and there is none.
    """
    host, port = _parse_address(address)
    key = None if is_loopback(host) else os.environ.get("VITASCOPE_API_KEY", "")
    if key == "":
        raise InvalidInput(
            f"http: {address!r} can be reached by other machines, and VITASCOPE_API_KEY is not set; a key, which "
            "assistants must send, or a loopback address such as 127.0.0.1:8765 was expected"
        )
    hosts = [*LOCAL_HOSTS, f"[{host}]" if ":" in host else host, *allowed_hosts]
    hosts_and_ports = [pattern for name in hosts for pattern in (name, f"{name}:*")]
    security = TransportSecuritySettings(
        allowed_hosts=hosts_and_ports,
        allowed_origins=[f"{scheme}://{name}" for scheme in ("http", "https") for name in hosts_and_ports],
    )
    # Stateless: the server can be restarted and replicated.
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, transport_security=security
    )
    with _bind(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        print(f"Vitascope's tools are at http://{shown}:{listener.getsockname()[1]}{PATH}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app if key is None else _require_bearer_key(key, app),
            log_config=None,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        if threading.current_thread() is threading.main_thread():
            # uvicorn stops cleanly on SIGTERM and then raises the signal again; that must not end the process.
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        uvicorn.Server(config).run(sockets=[listener])


def _parse_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"http: {text!r}; HOST:PORT, such as 127.0.0.1:8765, was expected")
    return host.strip("[]"), int(port)


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InvalidInput(
            f"http: cannot listen on {host} port {port}: {error.strerror or error}; a free port of this machine was "
            "expected"
        ) from error


def _require_bearer_key(key: str, app: ASGIApp) -> ASGIApp:
    """Return ``app`` behind bearer authentication."""
    expected = f"Bearer {key}".encode()

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = Headers(scope=scope).get("authorization", "").encode()
            if not hmac.compare_digest(sent, expected):
                message = "Authorization: Bearer with the API key of `vitascope mcp` was expected\n"
                await PlainTextResponse(message, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await app(scope, receive, send)

    return authenticated
