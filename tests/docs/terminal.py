"""A terminal that runs the blocks of a page as printed: console blocks in one bash, Python blocks in one namespace."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.docs.pages import ROOT, Block, Command, parse_commands
from tests.waiting import wait_for

TIMEOUT = 900.0
"""Seconds."""
PORT = 8000
"""Port that the pages print."""
TOP_FOLDERS = ("videos", "mnt", "srv", "etc/vitascope", "tmp")
"""Absolute paths in the pages that are moved below the folder of the terminal."""
_TOP_FOLDER = re.compile(rf"(?<![\w~.$/}}-])/({'|'.join(TOP_FOLDERS)})(?![\w-])")
_KEEPS_RUNNING = re.compile(r"vitascope serve\b|--watch\b")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_TOLERANCE = 0.03
"""Difference of probabilities and cosines between machines."""


class Terminal:
    """Runs blocks of pages. Variables, background jobs and Python names persist until ``restart``."""

    def __init__(
        self,
        folder: Path,
        port: int,
        names: Mapping[str, Any],
        *,
        stop_service: Callable[[], None] = lambda: None,
        servers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start a terminal.

        Args:
            folder: Made by ``tests.docs.reader``.
            port: Replaces 8000 in pages.
            names: Python names at the start of each page.
            stop_service: Called before a page starts a service itself.
            servers: URLs in pages, and their replacements.
        """
        self.folder, self.port, self._initial_names, self._stop_service = folder, port, names, stop_service
        self._servers = servers
        self.restart()

    def restart(self) -> None:
        """Start a new bash and a new Python namespace, for a new page."""
        self._names = dict(self._initial_names)
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=self.folder / "checkout",
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._send("set -o pipefail; set -m; echo ready")  # a background job is a process group

    def _environment(self) -> dict[str, str]:
        ours = ("VITASCOPE_", "MAKE", "VIRTUAL_ENV")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
            "MAKEFLAGS": "n",  # a dry run: targets install, train and measure
            "VITASCOPE_PORT": str(self.port),
            "VITASCOPE_DEVICE": "cpu",
            "HF_HOME": str(self.folder / "home" / ".cache" / "huggingface"),
            "HF_HUB_OFFLINE": "1",  # `tests.docs.reader` fills the cache
        }

    def close(self) -> None:
        """End bash and its background jobs."""
        self._end_background()
        for end in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._bash.pid, end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._bash.wait(10)
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.close()
        self._bash.stdout.close()

    def _end_background(self) -> None:
        self._send("for job in $(jobs -p); do kill -- -$job; done; wait; echo ended")

    def run(self, block: Block) -> list[str]:
        """Run a block and return its errors, each with its location."""
        if block.language == "python":
            return self._run_python(block)
        if block.language == "sql":
            return self._run_sql(block)
        errors = []
        for command in parse_commands(block):
            if error := self._run_command(command):
                errors.append(f"{block.page}:{command.line}: $ {command.text}\n{error}")
        return errors

    def _run_command(self, command: Command) -> str | None:
        script, output = self.folder / "step.sh", self.folder / f"output-{time.monotonic_ns()}"
        script.write_text(self.relocate(command.text) + "\n", "utf-8")
        output.touch()
        if "vitascope serve" in command.text:
            self._stop_service()
            self._end_background()
            wait_for(lambda: is_free(self.port))  # until the former service has ended
        keeps_running = _KEEPS_RUNNING.search(command.text) is not None
        in_background = keeps_running and not re.search(r"&\s*(#.*)?$", command.text)
        status = self._send(f". {script} </dev/null >{output} 2>&1 {'& echo 0' if in_background else '; echo $?'}")
        if "vitascope serve" in command.text and not wait_until_ready(self.port, self._has_jobs):
            return f"no service at port {self.port}:\n{output.read_text()[-2000:]}"
        text = output.read_text("utf-8", errors="replace")
        if status != "0":
            return f"exit status {status}:\n{text[-2000:]}"
        if command.output:
            return compare_output(command.output, self.restore_paths(text).splitlines())
        return None

    def _has_jobs(self) -> bool:
        return self._send("echo $(jobs -pr)") != ""

    def _send(self, line: str) -> str:
        """Run a line that prints one line in bash, and return that."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(line + "\n")
        self._bash.stdin.flush()
        poll = select.poll()  # select() takes no descriptor above 1023, which a long run of tests may reach
        poll.register(self._bash.stdout, select.POLLIN)
        if not poll.poll(1000 * TIMEOUT):
            return f"no output after {TIMEOUT:.0f} seconds"
        return self._bash.stdout.readline().strip()

    def _run_python(self, block: Block) -> list[str]:
        text = self.relocate(block.text)
        try:
            with contextlib.chdir(self.folder / "checkout"), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(ast.parse(text), block.location, "exec"), self._names)
        except Exception as error:  # any error of a page is reported
            return [f"{block.location}: {type(error).__name__}: {error}"]
        return []

    def _run_sql(self, block: Block) -> list[str]:
        """Run SQL in DuckDB; a query without rows is an error."""
        import duckdb

        try:
            with duckdb.connect() as database:
                rows = database.execute(self.relocate(block.text)).fetchall()
        except duckdb.Error as error:
            return [f"{block.location}: {error}"]
        return [] if rows else [f"{block.location}: no rows"]

    def relocate(self, text: str) -> str:
        """Replace port, URLs of servers and absolute folders by those of the test."""
        relocated = text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self.port}")
        for url, replacement in self._servers.items():
            relocated = relocated.replace(url, replacement)
        return _TOP_FOLDER.sub(lambda match: f"{self.folder}/{match[1]}", relocated)

    def restore_paths(self, text: str) -> str:
        """Reverse ``relocate``."""
        restored = text.replace(f"127.0.0.1:{self.port}", f"127.0.0.1:{PORT}")
        return (
            restored.replace(f"{self.folder}/home", "~")
            .replace(f"{self.folder}/checkout/", "")
            .replace(str(self.folder), "")
        )


def is_free(port: int) -> bool:
    """Whether no process listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def wait_until_ready(port: int, is_alive: Callable[[], bool]) -> bool:
    """Wait until the service on a port is ready; False if it exits first."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and is_alive():
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
        time.sleep(0.05)
    return False


def compare_output(expected: tuple[str, ...], actual: list[str]) -> str | None:
    """Return the first difference of a command's output from that on the page, or None.

    Whitespace is ignored. ``…`` matches anything within a line, and alone any lines. Numbers with a decimal point may
    differ by 0.03, since processors round differently.
    """
    remaining = [line.split() for line in actual if line.strip()]
    skips_lines = False
    for line in expected:
        if line.strip() == "…":
            skips_lines = True
            continue
        words = line.split()
        while remaining and skips_lines and not _lines_match(words, remaining[0]):
            remaining.pop(0)
        if not remaining or not _lines_match(words, remaining.pop(0)):
            return f"the page prints {line!r}, the command printed:\n" + "\n".join(actual)
        skips_lines = False
    if remaining and not skips_lines:
        return f"the command printed {' '.join(remaining[0])!r}, which is not on the page"
    return None


def _lines_match(expected: list[str], actual: list[str]) -> bool:
    if not expected or not actual:
        return not actual and (not expected or expected == ["…"])
    if expected[0] == "…":
        return any(_lines_match(expected[1:], actual[at:]) for at in range(len(actual) + 1))
    return _words_match(expected[0], actual[0]) and _lines_match(expected[1:], actual[1:])


def _words_match(expected: str, actual: str) -> bool:
    if _NUMBER.fullmatch(expected) and _NUMBER.fullmatch(actual) and "." in expected:
        return abs(float(expected) - float(actual)) <= _TOLERANCE
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), actual) is not None
