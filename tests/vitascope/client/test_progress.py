"""Progress bars of uploads, jobs and operations in terminals and notebooks."""

from __future__ import annotations

import asyncio
import builtins
import re
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from vitascope import AsyncClient, Client

JOB = {"id": "7", "total": 3, "counts": {"failed": 1, "quarantined": 0}}
STATES = [("queued", 0), ("running", 2), ("succeeded", 3)]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        """Return the output without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Terminal for `redirect_stderr`: pytest replaces standard error after fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def working() -> httpx.MockTransport:
    """Service with a job and a backup, which accepts uploads."""
    states = iter(STATES)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(404, json={})
        if "operations" in request.url.path:
            operation = {"kind": "backup", "collection": "films", "state": "succeeded", "progress": 1.0}
            return httpx.Response(200, json=operation)
        if "jobs" in request.url.path:
            state, done = next(states)
            return httpx.Response(200, json={**JOB, "state": state, "done": done, "progress": done / 3})
        return httpx.Response(201, json={"id": "1"})

    return httpx.MockTransport(answer)


def test_terminal_shows_progress_and_failures(terminal: Terminal, tmp_path: Path) -> None:
    film = tmp_path / "a [bold]film.mp4"
    film.write_bytes(bytes(2_000_000))
    with redirect_stderr(terminal), Client("http://service", transport=working()) as client:
        client.wait_for_job("films", "7", interval=0, progress=True)
        client.wait_for_operation("9", progress=True)
        client.add_video("films", film, progress=True)
    assert re.search(r"job 7: succeeded, 1 failed \S+ 3/3, 100% ", terminal.shown())
    assert re.search(r"backup of films: succeeded \S+ 100% ", terminal.shown())
    assert re.search(r"a \[bold\]film.mp4: sent \S+ 2.0/2.0 MB ", terminal.shown())
    assert terminal.getvalue().count("\x1b[?25h") == 3  # the cursor is there again


def test_concurrent_progress_bars_share_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    names = [f"film-{number}.mp4" for number in range(3)]
    for name in names:
        (tmp_path / name).write_bytes(bytes(500_000))

    async def upload() -> None:
        async with AsyncClient("http://service", transport=working()) as client:
            await asyncio.gather(*(client.add_video("films", tmp_path / name, progress=True) for name in names))

    with redirect_stderr(terminal):
        asyncio.run(upload())
    last = terminal.shown().rstrip("\n").rsplit("\r", 1)[-1].splitlines()[-3:]
    assert sorted(re.split(": | [━╸╺]", line)[0] for line in last) == names
    assert terminal.getvalue().count("\x1b[?25h") == 1


def test_progress_prints_nothing_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client("http://service", transport=working()) as client:
        client.wait_for_job("films", "7", interval=0, progress=True)
    assert capsys.readouterr() == ("", "")


def test_notebook_shows_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide the parts of IPython and ipywidgets that rich needs."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    shown: list[object] = []

    class Output:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def clear_output(self, wait: bool) -> None: ...

    for name, part in {
        "IPython": {},
        "IPython.display": {"display": shown.append},
        "ipywidgets": {"Output": Output},
    }.items():
        module = ModuleType(name)
        vars(module).update(part)
        monkeypatch.setitem(sys.modules, name, module)
    with Client("http://service", transport=working()) as client:
        client.wait_for_operation("9", progress=True)
    assert any(isinstance(widget, Output) for widget in shown)
