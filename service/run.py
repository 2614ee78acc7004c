"""Run the service: ``python -m service``, or ``vitascope serve``."""

from __future__ import annotations

import resource
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress

from service.app import create_app
from service.health import answering_health
from service.lifespan import open_service
from service.logs import configure_logging
from service.memory import set_aside, use_few_arenas
from service.server import Server
from service.settings import Settings, read_settings
from vitascope.errors import InvalidInput, VitascopeError

MISTAKE = 2
NO_KEY = (
    "keys: there is none yet, so nobody could come in; make one with `vitascope keys create NAME`, or set "
    "VITASCOPE_ADMIN_KEY. Where nobody but you uses this machine, --no-keys (VITASCOPE_ALLOW_UNAUTHENTICATED=true) "
    "serves without"
)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is in flight.

    Raises InvalidInput where nobody would be asked for a key although other machines reach the address, where there
    is no key to ask for, and for an address that cannot be used; BundleError and StorageError when there is nothing
    to serve.
    """
    use_few_arenas()
    allow_open_files()
    settings.check_exposure()
    configure_logging(settings)
    # Before the service is opened: whoever starts a second one by mistake should hear of the port.
    with ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        health = stack.enter_context(listen(settings.host, settings.health_port)) if settings.health_port else None
        service = open_service(settings)
        if service.auth.requires_keys and service.auth.keys.is_empty:
            service.close()
            raise InvalidInput(NO_KEY)
        server = Server(create_app(settings, service), service, settings)
        set_aside()
        without = "" if service.auth.requires_keys else " and asks nobody for a key"
        print(f"Vitascope is at {_address(listener)}{without}", file=sys.stderr, flush=True)
        if threading.current_thread() is threading.main_thread():
            # uvicorn stops cleanly on SIGTERM and then raises it again; by then it must not count as a crash.
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        if health is not None:
            stack.enter_context(answering_health(service, health))
        server.run(sockets=[listener])


def allow_open_files() -> None:
    """Open as many files as the system lets this process: the usual 1024 are few for connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Settings from the environment; 0 after SIGTERM, 2 with one line on standard error when it cannot start."""
    try:
        serve(read_settings())
    except VitascopeError as error:
        print(f"vitascope: cannot serve: {error.code}: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return 130
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address. Raises InvalidInput."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"host, port: cannot listen on {host} port {port}: "
            f"{error.strerror or error}; a free port "
            "of this machine was expected"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
