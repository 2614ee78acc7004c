"""Servers in processes of their own, for as long as they are measured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 120.0
NGINX_CONFIG = Path(__file__).parents[2] / "deploy" / "nginx" / "nginx.conf"


@contextmanager
def our_server(bundle: Path, data: Path, threads: int) -> Iterator[str]:
    """The URL of ``python -m service``, ready."""
    with our_process(bundle, data, threads) as (url, _):
        yield url


@contextmanager
def our_process(bundle: Path, data: Path, threads: int, **others: object) -> Iterator[tuple[str, int]]:
    """The URL of ``python -m service``, ready, and its process id. ``others``: further settings."""
    port = free_port()
    settings: dict[str, object] = {
        "BUNDLE": bundle,
        "DATA_DIR": data,
        "PORT": port,
        "THREADS": threads,
        "LOG_LEVEL": "warning",
    }
    settings["ALLOW_UNAUTHENTICATED"] = "true"
    settings["CLIENT_CONCURRENCY"] = 100_000  # the load stands for many clients, from one address
    settings["TEXT_CACHE_BYTES"] = 0  # the same sentences are sent again and again, and are meant to be run
    settings |= {name.upper(): value for name, value in others.items()}
    environment = {f"VITASCOPE_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "service"]
    with running(command, environment, f"http://127.0.0.1:{port}", "/readyz") as process:
        yield f"http://127.0.0.1:{port}", process


@contextmanager
def plain_server(bundle: Path, threads: int) -> Iterator[str]:
    """The URL of the plain handler, ready."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.service.plain", str(bundle), str(port), str(threads)]
    with running(command, {}, f"http://127.0.0.1:{port}", "/openapi.json"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def nginx(service_port: int, health_port: int, replace: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run nginx with the shipped configuration in front of a service on 127.0.0.1.

    Args:
        service_port: Port of the service.
        health_port: Health port of the service.
        replace: Further texts of the configuration and what they are replaced by.

    Yields:
        The URL of the proxy.

    Raises:
        FileNotFoundError: nginx is not installed.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        changes = {
            "vitascope:8000": f"127.0.0.1:{service_port}",
            "vitascope:8001": f"127.0.0.1:{health_port}",
            "listen 8080": f"listen 127.0.0.1:{port}",
            "/tmp/": f"{folder}/",
            "/dev/stdout": f"{folder}/access.log",
            **(replace or {}),
        }
        Path(folder).chmod(0o711)  # started by root, its workers are another user's
        text = NGINX_CONFIG.read_text("utf-8")
        for old, new in changes.items():
            if old not in text:
                raise ValueError(f"{NGINX_CONFIG}: {old!r} expected")
            text = text.replace(old, new)
        config = Path(folder) / "nginx.conf"
        config.write_text(text, "utf-8")
        command = ["nginx", "-e", "stderr", "-p", folder, "-c", str(config), "-g", "daemon off;"]
        with running(command, {}, f"http://127.0.0.1:{port}", "/livez"):
            yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str],
    variables: dict[str, str],
    url: str,
    ready: str,
    folder: Path | None = None,
    *,
    quiet: bool = False,
) -> Iterator[int]:
    """The id of the server that ``command`` starts (in ``folder``), while it answers at ``url``; ``ready``: the path
    that tells; ``quiet``: without what it logs. Raises TimeoutError when it does not.
    """
    # A session of its own, so that what it starts itself ends with it.
    server = subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        cwd=folder,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url + ready, timeout=5):
                    break
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end or server.poll() is not None:
                    raise TimeoutError(f"{' '.join(command)}: not ready: {error}") from error
                time.sleep(0.1)
        yield server.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(START_SECONDS)
