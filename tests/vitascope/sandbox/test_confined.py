"""What a decoding process cannot do, tried from inside it."""

from __future__ import annotations

import ast
import platform
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vitascope.sandbox.conftest import question
from vitascope.sandbox.pool import Always, DecodingPool

NewPool = Callable[..., DecodingPool]
ROOT = Path(__file__).parents[3]

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the filter is Linux's"
)


@on_linux
def test_it_reaches_nothing_and_changes_nothing(new_pool: NewPool, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        asked = question("attempts", port=port, old=str(old), new=str(tmp_path / "new"))
        outcome = new_pool().ask(asked, Always())
        with pytest.raises(TimeoutError):
            server.accept()
    allowed = {"read the file", "a thread"}
    assert {name for name, said in outcome.items() if said == "done"} == allowed
    assert {said for name, said in outcome.items() if name not in allowed} == {"EPERM"}
    assert old.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [old]


def test_it_knows_nothing_of_the_service(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    pool = new_pool()
    assert "AWS_SECRET_ACCESS_KEY" not in pool.ask(question("environment"), Always())
    loaded = {name.split(".")[0] for name in pool.ask(question("modules"), Always())}
    assert loaded.isdisjoint({"onnxruntime", "pydantic", "tokenizers", "fastapi", "index", "service", "sqlite3"})


@pytest.mark.parametrize("package", ["vitascope", "index", "service"])
def test_nothing_is_unpickled_anywhere(package: str) -> None:
    """Except between the machines of a Ray cluster: Ray itself speaks in pickles, and who is on it is trusted."""
    ray = ROOT / "index" / "integrations" / "ray"
    for path in (ROOT / package).rglob("*.py"):
        if path.is_relative_to(ray):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"pickle", "shelve", "marshal", "dill", "joblib"}, path
            if isinstance(node, ast.keyword):
                assert not (node.arg == "allow_pickle" and getattr(node.value, "value", None) is not False), path
