"""Real servers on 127.0.0.1, in a thread of the test process or in a process of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
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
ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
_TLS = ssl.create_default_context()  # loading it takes longer than a request


@dataclass
class Running:
    """A running service, and a client of it."""

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
    """A service in a thread, on any free port; stopped, as by SIGTERM, at the end.

    Args:
        ready: Whether to wait until it is ready.
        url_client, webhook_client: As for ``open_service``.
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
    """``python -m service`` in a process of its own, once it is ready; killed at the end if it still runs."""
    server = start(settings, *module, within=within)
    try:
        assert server.stderr is not None
        url = next(match[0] for line in server.stderr if (match := re.search(r"http://\S+", line)))
        drain = threading.Thread(target=server.stderr.read, daemon=True)  # a full pipe would stop it
        drain.start()
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client, server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGKILL)
        server.wait(PATIENCE)


def start(settings: Settings, *module: str, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start ``python -m service``, or another module with its arguments, with these settings as environment.

    Args:
        within: A command that runs its last arguments as a command.
    """
    environment = os.environ | environment_of(settings)
    command = [*within, sys.executable, "-m", *(module or ["service"])]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables of the settings that are not defaults."""
    values = settings.model_dump(mode="json", exclude_unset=True)
    return {
        f"VITASCOPE_{name.upper()}": json.dumps(value) if isinstance(value, list) else str(value)
        for name, value in values.items()
    }


def problem_of(response: httpx.Response, status: int, code: str) -> JSON:
    """Return the problem document of a response, after checking its form."""
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


def make_key(running: Running, *scopes: str, **options: object) -> str:
    """Create a key and return its text."""
    response = running.client.post("/v1/keys", json={"name": "a test", "scopes": scopes, **options})
    assert response.status_code == 201, response.text
    text: str = response.json()["key"]
    return text


def secret_of(key: str) -> str:
    """Return the secret part of a key, which may contain underscores."""
    return key.split("_", 2)[2]


def send(
    running: Running, method: str, path: str, key: str | None, *, idempotency_key: str = "", **request: Any
) -> httpx.Response:
    """Send a request with an API key, or without one."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if idempotency_key:
        headers["Idempotency-Key"] = idempotency_key
    url = f"{running.client.base_url}{path}"
    return httpx.request(method, url, headers=headers, timeout=PATIENCE, verify=_TLS, **request)
