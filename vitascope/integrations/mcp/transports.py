"""How assistants reach the server: over standard input and output, or over HTTP."""

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
STOP_SECONDS = 5
"""For calls that are under way when it is told to stop."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def serve_stdio(server: Server[Any]) -> None:
    """Serve the assistant that started this process until it closes standard input.

    Standard output carries the protocol alone: meanwhile, what else is printed goes to standard error.
    """
    if sys.stdin.isatty():
        print("Waiting for an assistant: they start this command by themselves. Ctrl-C ends it.", file=sys.stderr)
    anyio.run(_stdio, server)


async def _stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def serve_http(server: Server[Any], address: str, names: Sequence[str] = ()) -> None:
    """Serve at ``address`` (HOST:PORT; port 0: any free one) until SIGINT or SIGTERM.

    Requests for other hosts than this machine's, HOST and ``names`` are refused, against DNS rebinding. Where other
    machines reach HOST, requests must bring the key that this process has. Raises InvalidInput for an address that
    cannot be used, and where no key is there that could be asked for.
    """
    host, port = _address(address)
    key = None if is_loopback(host) else os.environ.get("VITASCOPE_API_KEY", "")
    if key == "":
        raise InvalidInput(
            f"http: {address!r} can be reached by other machines, and VITASCOPE_API_KEY is not set; a key was "
            "expected, which assistants must send, too, or a loopback address such as 127.0.0.1:8765"
        )
    hosts = [*LOCAL, f"[{host}]" if ":" in host else host, *names]
    names_and_ports = [each for name in hosts for each in (name, f"{name}:*")]
    security = TransportSecuritySettings(
        allowed_hosts=names_and_ports,
        allowed_origins=[f"{scheme}://{each}" for scheme in ("http", "https") for each in names_and_ports],
    )
    # Without sessions: nothing is told unasked, so that it may be started again, or run many times, at any moment.
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, transport_security=security
    )
    with _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        print(f"Vitascope's tools are at http://{shown}:{listener.getsockname()[1]}{PATH}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app if key is None else _asking_for(key, app),
            log_config=None,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        if threading.current_thread() is threading.main_thread():
            # uvicorn stops cleanly on SIGTERM and then raises it again; by then it must not count as a crash.
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        uvicorn.Server(config).run(sockets=[listener])


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"http: {text!r}; HOST:PORT, such as 127.0.0.1:8765, was expected")
    return host.strip("[]"), int(port)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InvalidInput(
            f"http: cannot listen on {host} port {port}: {error.strerror or error}; a free port of this machine was "
            "expected"
        ) from error


def _asking_for(key: str, app: ASGIApp) -> ASGIApp:
    """``app`` for those alone who send this key."""
    expected = f"Bearer {key}".encode()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = Headers(scope=scope).get("authorization", "").encode()
            if not hmac.compare_digest(sent, expected):
                refusal = "Authorization: Bearer, with the key that `vitascope mcp` was given, was expected\n"
                await PlainTextResponse(refusal, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded
