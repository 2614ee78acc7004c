"""Health at a port of its own, answered by a thread and an event loop of its own: whatever keeps the service busy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from service.app_state import Service
from service.http.problems import add_exception_handlers
from service.routes import health

LOG_LEVEL = "warning"
"""Of this server: the main one tells when it starts and stops."""
MOST_CONNECTIONS = 100
"""More are refused: a probe has one."""
IDLE_SECONDS = 5


def health_app(service: Service) -> FastAPI:
    """An application that answers ``/livez`` and ``/readyz`` as the main one does, and nothing else."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(health.router)
    add_exception_handlers(app)
    return app


@contextmanager
def answering_health(service: Service, listener: socket.socket) -> Iterator[None]:
    """Answer requests for the health of ``service`` on ``listener`` in the block."""
    config = uvicorn.Config(
        health_app(service),
        log_config=None,
        log_level=LOG_LEVEL,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(IDLE_SECONDS)
