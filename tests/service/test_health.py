"""The health port responds while the event loop of the service is blocked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service import app_state
from service.run import listen
from service.server import serve_health
from tests.ports import reserved_port
from tests.service.conftest import settings_for
from tests.service.running import Running, process
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def health(running: Running) -> Iterator[httpx.Client]:
    """A client of the health port."""
    with (
        listen("127.0.0.1", 0) as listener,
        serve_health(running.service, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=PATIENCE) as client,
    ):
        yield client


@contextmanager
def blocked_loop(running: Running) -> Iterator[Callable[[], None]]:
    """Block the event loop of the service during the context, or until the yielded function is called."""
    released, blocked = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert released.wait(PATIENCE)

    search = f"{running.client.base_url}/v1/collections/none/search"
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(running.service.queue_limiter, "check", block)
        threads.submit(httpx.post, search, json={"text": "a thing"}, timeout=PATIENCE)
        try:
            assert blocked.wait(PATIENCE)
            yield released.set
        finally:
            released.set()


def test_the_health_port_responds_while_the_loop_is_blocked_and_reports_it_in_the_end(
    running: Running, health: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocked_loop(running):
        assert health.get("/livez").json() == {"status": "ok"}
        assert health.get("/readyz").status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            running.client.get("/livez", timeout=0.5)
        monkeypatch.setattr(app_state, "MAX_HEARTBEAT_AGE", 0.01)
        wait_for(lambda: health.get("/livez").status_code == 503)
        assert health.get("/livez").json()["code"] == "not_ready"
    monkeypatch.undo()
    wait_for(lambda: health.get("/livez").status_code == 200)
    assert running.client.get("/livez").status_code == 200


def test_the_health_port_has_no_other_routes(health: httpx.Client) -> None:
    for path in ("/", "/v1/models", "/v1/collections", "/metrics", "/openapi.json", "/static/app.js"):
        assert health.get(path).status_code == 404
    assert health.post("/livez").status_code == 405


def test_a_setting_adds_the_health_port(small_bundle: Path, tmp_path: Path) -> None:
    with reserved_port() as port:
        settings = settings_for(small_bundle, tmp_path / "data", health_port=port, shutdown_delay=PATIENCE)
        with process(settings) as (client, server), httpx.Client(base_url=f"http://127.0.0.1:{port}") as health:
            for path in ("/livez", "/readyz"):
                assert health.get(path).json() == client.get(path).json()
            server.terminate()
            wait_for(lambda: health.get("/readyz").status_code == 503)
            assert health.get("/livez").status_code == 200
