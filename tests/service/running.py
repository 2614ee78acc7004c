"""A real server on 127.0.0.1, in a thread of the test process or in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.app_state import AppState
from service.http_client.client import SafeClient
from service.lifespan import open_service
from service.run import listen
from service.server import Server
from service.settings import Settings
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
JSON = dict[str, Any]


@dataclass
class Running:
    """A service that answers, and what is behind it."""

    client: httpx.Client
    service: AppState
    settings: Settings


@contextmanager
def serving(
    settings: Settings,
    *,
    ready: bool = True,
    url_client: SafeClient | None = None,
    webhook_client: SafeClient | None = None,
) -> Iterator[Running]:
    """A service in a thread, on any free port; stopped, as by SIGTERM, at the end. ``url_client``,
    ``webhook_client``: as for ``open_service``.
    """
    service = open_service(settings, url_client=url_client, webhook_client=webhook_client)
    server = Server(create_app(settings, service), service, settings)
    listener = listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            if ready:
                wait_for(lambda: client.get("/readyz").status_code == 200)
            yield Running(client, service, settings)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def process(
    settings: Settings, *module: str, within: Sequence[str] = ()
) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """``python -m service`` in a process of its own, ready; killed at the end if it is still there."""
    server = start(settings, *module, within=within)
    try:
        assert server.stderr is not None
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
        drain = threading.Thread(target=server.stderr.read, daemon=True)  # a full pipe would stop it
        drain.start()
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client, server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGKILL)
        server.wait(PATIENCE)


def start(settings: Settings, *module: str, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """``python -m service``, or another module with its arguments, with these settings as environment.

    ``within``: a command that takes this one as its last arguments and becomes it.
    """
    environment = os.environ | environment_of(settings)
    command = [*within, sys.executable, "-m", *(module or ["service"])]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that say what was given of these settings."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    return {f"VITASCOPE_{name.upper()}": _written(value) for name, value in given.items()}


def _written(value: object) -> str:
    return str(value) if not isinstance(value, list) else str(value).replace("'", '"')


def problem_of(response: httpx.Response, status: int, code: str) -> JSON:
    """The problem document of an error answer, after checking its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: JSON = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:vitascope:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == httpx.URL(str(response.request.url)).path
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem
