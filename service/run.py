"""Run the service: ``python -m service``, or ``vitascope serve``."""

from __future__ import annotations

import ctypes
import gc
import resource
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress

from service.app import create_app
from service.lifespan import open_service
from service.observability import configure_logging
from service.server import Server, serve_health
from service.settings import Settings, read_settings
from vitascope.errors import InvalidInput, VitascopeError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
LISTEN_BACKLOG = 2048
MAX_ARENAS = 2
M_ARENA_MAX = -8
"""Option of glibc's mallopt."""
NO_KEYS = (
    "keys: no API keys exist; create one with `vitascope keys create NAME`, or set VITASCOPE_ADMIN_KEY. On a machine "
    "that only you use, --no-keys (VITASCOPE_ALLOW_UNAUTHENTICATED=true) serves without keys"
)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests in progress.

    Raises:
        InvalidInput: Authentication is off and other machines can reach the address, no API key exists, or the address
            cannot be used.
        BundleError: The bundle cannot be opened.
        StorageError: The data folder cannot be opened.
    """
    limit_arenas()
    raise_file_limit()
    settings.check_exposure()
    configure_logging(settings)
    with ExitStack() as stack:
        # Listen before the service is opened, so that a second service on the same port fails at once.
        listener = stack.enter_context(listen(settings.host, settings.port))
        health = stack.enter_context(listen(settings.host, settings.health_port)) if settings.health_port else None
        service = open_service(settings)
        if service.auth.requires_keys and service.auth.keys.is_empty:
            service.close()
            raise InvalidInput(NO_KEYS)
        server = Server(create_app(settings, service), service, settings)
        if threading.current_thread() is threading.main_thread():
            # Handles signals before uvicorn does, and after its exit, when uvicorn raises them again.
            signal.signal(signal.SIGTERM, lambda number, frame: setattr(server, "should_exit", True))
        freeze_gc()
        note = "" if service.auth.requires_keys else " without authentication"
        print(f"Vitascope is at {_url_of(listener)}{note}", file=sys.stderr, flush=True)
        if health is not None:
            stack.enter_context(serve_health(service, health))
        server.run(sockets=[listener])


def limit_arenas() -> None:
    """Limit glibc's malloc to ``MAX_ARENAS`` arenas, to save memory. Call this before other threads are started.

    By default glibc creates up to eight arenas per core, and an arena never shrinks, so that memory would grow with the
    number of threads. Other C libraries do not have this option.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_ARENA_MAX, MAX_ARENAS)


def freeze_gc() -> None:
    """Exclude existing objects from garbage collection.

    More than 100,000 objects (routes, schemas, modules) exist until the process ends. Collecting them again and again
    would stop all threads for 70 ms each time.
    """
    gc.collect()
    gc.freeze()


def raise_file_limit() -> None:
    """Raise the limit on open files to the hard limit: the usual 1024 are too few for many connections."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def main() -> int:
    """Serve with settings from the environment.

    Returns:
        Exit status: 0 after SIGTERM, 130 after SIGINT, 2 if the service cannot start.
    """
    try:
        serve(read_settings())
    except VitascopeError as error:
        print(f"vitascope: cannot serve: {error.code}: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 chooses a free port. Raises InvalidInput."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets created with IPPROTO_TCP; without it, responses are delayed by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"host, port: cannot listen on {host} port {port}: {error.strerror or error}; a free port of this machine "
            "was expected"
        ) from error
    return listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
