"""Health is answered at a port of its own while the loop that answers everything else stands still."""

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
    """A client of the health port of a service."""
    with (
        listen("127.0.0.1", 0) as listener,
        serve_health(running.service, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=PATIENCE) as client,
    ):
        yield client


@contextmanager
def held_loop(running: Running) -> Iterator[Callable[[], None]]:
    """The event loop of the service stands still in the block, or until what this gives is called."""
    going, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert going.wait(PATIENCE)

    search = f"{running.client.base_url}/v1/collections/none/search"
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(running.service.queue_limiter, "check", hold)
        threads.submit(httpx.post, search, json={"text": "a thing"}, timeout=PATIENCE)
        try:
            assert held.wait(PATIENCE)
            yield going.set
        finally:
            going.set()


def test_health_is_answered_while_the_loop_stands_still_and_not_for_ever(
    running: Running, health: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_loop(running):
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


def test_nothing_else_is_answered_at_the_health_port(health: httpx.Client) -> None:
    for path in ("/", "/v1/models", "/v1/collections", "/metrics", "/openapi.json", "/static/app.js"):
        assert health.get(path).status_code == 404
    assert health.post("/livez").status_code == 405


def test_a_service_has_a_health_port_where_the_settings_say_so(small_bundle: Path, tmp_path: Path) -> None:
    with reserved_port() as port:
        settings = settings_for(small_bundle, tmp_path / "data", health_port=port, shutdown_delay=PATIENCE)
        with process(settings) as (client, server), httpx.Client(base_url=f"http://127.0.0.1:{port}") as health:
            for path in ("/livez", "/readyz"):
                assert health.get(path).json() == client.get(path).json()
            server.terminate()
            wait_for(lambda: health.get("/readyz").status_code == 503)
            assert health.get("/livez").status_code == 200
