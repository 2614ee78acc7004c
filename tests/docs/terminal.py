"""A reader's terminal: one bash that goes through the commands of a page as they are printed, and Python beside it."""

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

from tests.docs.pages import ROOT, Block, Command, commands
from tests.waiting import wait_for

PATIENCE = 900.0
PORT = 8000
"""Which the pages print."""
PLACES = ("videos", "mnt", "srv", "etc/vitascope", "tmp")
"""Folders at the top of the machine that pages name. They are looked for below the reader's folder instead."""
_PLACE = re.compile(rf"(?<![\w~.$/}}-])/({'|'.join(PLACES)})(?![\w-])")
_STAYS = re.compile(r"vitascope serve\b|--watch\b")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_OFF_BY = 0.03
"""How far probabilities and cosines may be from the printed ones on another machine."""


class Terminal:
    """``folder``: made by ``tests.docs.reader``. ``port`` takes the place of 8000 where a page names it.

    Bash keeps variables, folder and what runs in the background from block to block, and Python keeps names, until
    ``begin``.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        names: Mapping[str, Any],
        *,
        stop_service: Callable[[], None] = lambda: None,
        servers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``names``: what Python knows at the beginning of each page. ``stop_service``: what is done before the page
        starts a service itself. ``servers``: URLs that pages name, and those that take their places.
        """
        self.folder, self.port, self._given, self._stop_service = folder, port, names, stop_service
        self._servers = servers
        self.begin()

    def begin(self) -> None:
        """A new page: bash and Python that remember nothing."""
        self._names = dict(self._given)
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
        self._tell("set -o pipefail; set -m; echo ready")  # what runs in the background is a process group

    def _environment(self) -> dict[str, str]:
        ours = ("VITASCOPE_", "MAKE", "VIRTUAL_ENV")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
            "MAKEFLAGS": "n",  # make says what it would do: targets install, train and measure
            "VITASCOPE_PORT": str(self.port),
            "VITASCOPE_DEVICE": "cpu",
            "HF_HOME": str(self.folder / "home" / ".cache" / "huggingface"),
            "HF_HUB_OFFLINE": "1",  # what `tests.docs.neighbours` puts there, and nothing else
        }

    def close(self) -> None:
        """End bash and all that it left running."""
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
        """As Ctrl-C does in a terminal of its own."""
        self._tell("for each in $(jobs -p); do kill -- -$each; done; wait; echo ended")

    def run(self, block: Block) -> list[str]:
        """Go through ``block``; return what went wrong, each with its place on the page."""
        if block.language == "python":
            return self._python(block)
        if block.language == "sql":
            return self._sql(block)
        problems = []
        for command in commands(block):
            if problem := self._command(command):
                problems.append(f"{block.page}:{command.line}: $ {command.text}\n{problem}")
        return problems

    def _command(self, command: Command) -> str | None:
        step, said = self.folder / "step.sh", self.folder / f"said-{time.monotonic_ns()}"
        step.write_text(self.placed(command.text) + "\n", "utf-8")
        said.touch()
        if "vitascope serve" in command.text:
            self._stop_service()
            self._end_background()
            wait_for(lambda: is_free(self.port))  # until then the one that ends still answers
        stays = _STAYS.search(command.text) is not None
        behind = stays and not re.search(r"&\s*(#.*)?$", command.text)
        status = self._tell(f". {step} </dev/null >{said} 2>&1 {'& echo 0' if behind else '; echo $?'}")
        if "vitascope serve" in command.text and not wait_until_ready(self.port, self._has_jobs):
            return f"no service at port {self.port}:\n{said.read_text()[-2000:]}"
        text = said.read_text("utf-8", errors="replace")
        if status != "0":
            return f"exit status {status}:\n{text[-2000:]}"
        if command.output and (wrong := difference(command.output, self.printed(text).splitlines())):
            return wrong
        return None

    def _has_jobs(self) -> bool:
        """Whether something runs in the background."""
        return self._tell("echo $(jobs -pr)") != ""

    def _tell(self, line: str) -> str:
        """Have bash read ``line``, which makes it say one line: that one."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(line + "\n")
        self._bash.stdin.flush()
        if not select.select([self._bash.stdout], [], [], PATIENCE)[0]:
            return f"none after {PATIENCE:.0f} seconds"
        return self._bash.stdout.readline().strip()

    def _python(self, block: Block) -> list[str]:
        text = self.placed(block.text)
        try:
            with contextlib.chdir(self.folder / "checkout"), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(ast.parse(text), block.place, "exec"), self._names)
        except Exception as error:  # of any kind: it is what the page does that is tested
            return [f"{block.place}: {type(error).__name__}: {error}"]
        return []

    def _sql(self, block: Block) -> list[str]:
        """By DuckDB; a query that finds nothing is a mistake, too."""
        import duckdb

        try:
            with duckdb.connect() as database:
                rows = database.execute(self.placed(block.text)).fetchall()
        except duckdb.Error as error:
            return [f"{block.place}: {error}"]
        return [] if rows else [f"{block.place}: no rows"]

    def placed(self, text: str) -> str:
        """``text`` with the port of the service, other servers' URLs, and the folders of the reader."""
        moved = text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self.port}")
        for named, here in self._servers.items():
            moved = moved.replace(named, here)
        return _PLACE.sub(lambda found: f"{self.folder}/{found[1]}", moved)

    def printed(self, text: str) -> str:
        """The reverse of ``placed``."""
        moved = text.replace(f"127.0.0.1:{self.port}", f"127.0.0.1:{PORT}")
        return (
            moved.replace(f"{self.folder}/home", "~")
            .replace(f"{self.folder}/checkout/", "")
            .replace(str(self.folder), "")
        )


def is_free(port: int) -> bool:
    """Whether nobody listens on ``port`` of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def wait_until_ready(port: int, alive: Callable[[], bool]) -> bool:
    """Whether the service on ``port`` came to answer that it is ready, as long as it is ``alive``."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
        time.sleep(0.05)
    return False


def difference(printed: tuple[str, ...], said: list[str]) -> str | None:
    """What a page prints that the command did not say, or None.

    Spaces do not count. ``…`` stands for anything within a line, and alone for any lines. Numbers with a point may
    differ by 0.03: another processor rounds otherwise.
    """
    left = [line.split() for line in said if line.strip()]
    anything = False
    for line in printed:
        if line.strip() == "…":
            anything = True
            continue
        wanted = line.split()
        while left and anything and not _alike(wanted, left[0]):
            left.pop(0)
        if not left or not _alike(wanted, left.pop(0)):
            return f"the page prints {line!r}, the command said:\n" + "\n".join(said)
        anything = False
    if left and not anything:
        return f"the page does not print {' '.join(left[0])!r}, which the command said"
    return None


def _alike(wanted: list[str], said: list[str]) -> bool:
    if not wanted or not said:
        return not said and (not wanted or wanted == ["…"])
    if wanted[0] == "…":
        return any(_alike(wanted[1:], said[at:]) for at in range(len(said) + 1))
    return _same(wanted[0], said[0]) and _alike(wanted[1:], said[1:])


def _same(wanted: str, said: str) -> bool:
    if _NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(said) and "." in wanted:
        return abs(float(wanted) - float(said)) <= _OFF_BY
    return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), said) is not None
