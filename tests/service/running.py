"""Real servers on 127.0.0.1, in a thread of the test process or in a process of their own."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import runpy
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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


class ForkedProcess:
    """A process like ``subprocess.Popen``, forked from one that has imported the service, which takes seconds."""

    def __init__(self, module: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process = _FORKS.Process(target=_run_module, args=(module, environment, log), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        status = self.poll()
        assert status is not None, "timeout"
        return status


def _run_module(module: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Do what ``python -m`` does."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = module[1:]
    runpy.run_module(module[0], run_name="__main__", alter_sys=True)


Process = ForkedProcess | subprocess.Popen[bytes]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.service.altered_service", "tests.service.webhooks"])
_logs = itertools.count()


@contextmanager
def process(
    settings: Settings, *module: str, within: Sequence[str] | None = None
) -> Iterator[tuple[httpx.Client, Process]]:
    """``python -m service`` in a process of its own, once it is ready; killed at the end if it still runs."""
    server, log = start(settings, *module, within=within)
    try:
        wait_for(lambda: re.search(r"http://.*\n", log.read_text()) or server.poll() is not None)
        url = re.search(r"http://\S+", log.read_text())
        assert url, log.read_text()
        with httpx.Client(base_url=url[0], timeout=PATIENCE) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client, server
    finally:
        server.kill()
        server.wait(PATIENCE)


def start(settings: Settings, *module: str, within: Sequence[str] | None = None) -> tuple[Process, Path]:
    """Start ``python -m service``, or another module with its arguments, with these settings as environment.

    Args:
        within: A command that runs its last arguments as a command, or nothing. If None, the process is forked.

    Returns:
        The process, and the file that it writes its errors to.
    """
    environment = os.environ | environment_of(settings)
    log = settings.data_dir.parent / f"{settings.data_dir.name}-{next(_logs)}.log"
    log.touch()
    if within is None:
        return ForkedProcess(module or ["service"], environment, log), log
    command = [*within, sys.executable, "-m", *(module or ["service"])]
    with log.open("ab") as errors:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=errors), log


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
