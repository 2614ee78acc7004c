"""`vitascope mcp --http`, as in docs/assistants.md: access and options."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.chaos import only_by_chaos
from tests.service.mcp_sessions import call_tool, run_session
from tests.service.running import ROOT, Running
from tests.waiting import PATIENCE
from vitascope.cli.main import main


@contextmanager
def over_http(*arguments: str, key: str = "") -> Iterator[str]:
    """Run `vitascope mcp --http` and yield its URL; it must exit cleanly on SIGTERM."""
    command = [sys.executable, "-m", "vitascope", "mcp", *arguments]
    environment = {**os.environ, "VITASCOPE_API_KEY": key}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            address = re.search(r"http://\S+/mcp", line)
            assert address is not None, line
            yield address[0]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0


def test_http_rejects_other_hosts_and_origins(running: Running, palette: str) -> None:
    # Reached by other machines: with the key alone, and by the names that are allowed.
    arguments = ["--server", str(running.client.base_url), "--http", "0.0.0.0:0", "--allowed-host", "search.lan"]
    with over_http(*arguments, key="vsk_of-this-test") as address:
        address = address.replace("0.0.0.0", "127.0.0.1")
        key = {"Authorization": "Bearer vsk_of-this-test"}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_collections"}}
        kinds = {"Accept": "application/json, text/event-stream"}

        def posted(**headers: str) -> httpx.Response:
            return httpx.post(address, json=message, headers={**kinds, **headers}, timeout=PATIENCE)

        assert posted().status_code == 401
        assert posted(Authorization="Bearer vsk_of-this-tess").status_code == 401
        assert posted(**key, Host="evil.example").status_code == 421
        assert posted(**key, Origin="http://evil.example").status_code == 403
        answer = posted(**key, Host="search.lan", Origin="http://localhost:6274")
        assert answer.status_code == 200
        names = [one["name"] for one in answer.json()["result"]["structuredContent"]["collections"]]
        assert palette in names

        async def session(client: Client) -> None:
            found, _ = await call_tool(client, "search_videos", collection=palette, text="a red thing", limit=1)
            assert found["results"][0]["title"] == "red"

        http = httpx2.AsyncClient(headers=key, timeout=PATIENCE)
        assert run_session(streamable_http_client(address, http_client=http), session) == []


@only_by_chaos
def test_http_on_loopback_needs_no_key(running: Running, palette: str) -> None:
    async def session(client: Client) -> None:
        listed, _ = await call_tool(client, "list_collections")
        assert palette in [one["name"] for one in listed["collections"]]

    with over_http("--server", str(running.client.base_url), "--http", "127.0.0.1:0") as address:
        assert run_session(address, session) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--http", "0.0.0.0:8765"], "VITASCOPE_API_KEY is not set"),
        (["--http", "8765"], "HOST:PORT, such as 127.0.0.1:8765, was expected"),
        (["--server", "search.lan"], "a URL such as http://127.0.0.1:8000 was expected"),
        (["--server", "http://me:secret@search.lan"], "the URL contains credentials"),
    ],
)
def test_invalid_options_are_named(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VITASCOPE_API_KEY", raising=False)
    assert main(["mcp", *arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "secret" not in captured.err
    assert captured.out == ""
