"""A Milvus to test with: the server that MILVUS names, else a Milvus Lite in a process of its own.

Milvus Lite speaks the protocol of a real server and is not one: what passes here is the adapter. `make milvus-check`
runs the same tests on a real server.
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
from tests.ports import reserved_port
from tests.tools import find_tool

GIVEN = os.environ.get("MILVUS")
PATIENCE = 300.0


def be_patient() -> None:
    """Let this process wait for a server that stands still for a while, as one beside all other tests may: what is
    tested is what Milvus says, not how soon. One at which nobody listens is told at once all the same.
    """
    for name in ("CONNECT_SECONDS", "CALL_SECONDS", "SLOW_SECONDS", "PROBE_SECONDS"):
        setattr(milvus_client, name, PATIENCE)
    for name in ("LEVEL_SECONDS", "WRITE_SECONDS"):
        setattr(milvus_index, name, PATIENCE)


class MilvusUnderTest:
    """A server at ``url``; ``stop`` and ``start`` leave its data where they are."""

    def __init__(self, folder: Path) -> None:
        be_patient()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        if GIVEN:
            self.url = GIVEN
            return
        self._held = ExitStack()
        self._port = self._held.enter_context(reserved_port())  # also while the server is down
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
        """Without a chance to end what it is doing."""
        if GIVEN:
            pytest.skip("a server that was given is not stopped")
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        if not GIVEN:
            self.stop()
            self._held.close()

    def client(self) -> Any:
        """Its own client, for what a stranger does to its collections."""
        from pymilvus import MilvusClient

        return MilvusClient(self.url, token=os.environ.get("VITASCOPE_MILVUS_TOKEN", ""), timeout=PATIENCE)
