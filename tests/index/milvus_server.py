"""A Milvus server for tests: the one at the URL in MILVUS, else Milvus Lite in a process of its own.

Milvus Lite speaks the protocol of a real server, so these tests check the adapter; `make milvus-check` runs them with a
real server.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from index.integrations.milvus import index as milvus_index
from index.integrations.milvus import server as milvus_client
from tests.sockets import reserved_port
from tests.tools import find_tool

EXTERNAL_URL = os.environ.get("MILVUS")
PATIENCE = 300.0


def extend_timeouts() -> None:
    """Let this process wait for a server that is slow beside all other tests; a port without a server fails at once."""
    for name in ("CONNECT_SECONDS", "CALL_SECONDS", "SLOW_SECONDS", "PROBE_SECONDS"):
        assert hasattr(milvus_client, name)
        setattr(milvus_client, name, PATIENCE)
    for name in ("SEARCH_CATCH_UP_SECONDS", "WRITE_CATCH_UP_SECONDS"):
        assert hasattr(milvus_index, name)
        setattr(milvus_index, name, PATIENCE)


class MilvusUnderTest:
    """A server at ``url``; ``stop`` and ``start`` leave its data where they are."""

    def __init__(self, folder: Path) -> None:
        extend_timeouts()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        if EXTERNAL_URL:
            self.url = EXTERNAL_URL
            return
        self._reserved = ExitStack()
        self._port = self._reserved.enter_context(reserved_port())  # also while the server is down
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [find_tool("milvus-lite"), "server", "--data-dir", str(self._folder), "--host", "127.0.0.1"]
        log = open(self._folder.with_suffix(".log"), "ab")  # noqa: SIM115
        with log:
            self._process = subprocess.Popen([*command, "--port", str(self._port)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._folder.with_suffix(".log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("Milvus Lite does not listen")

    def stop(self) -> None:
        """Kill it."""
        if EXTERNAL_URL:
            pytest.skip("an external server is not stopped")
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        if not EXTERNAL_URL:
            self.stop()
            self._reserved.close()

    def client(self) -> Any:
        """A client of Milvus itself."""
        from pymilvus import MilvusClient

        return MilvusClient(self.url, token=os.environ.get("VITASCOPE_MILVUS_TOKEN", ""), timeout=PATIENCE)
