"""What a decoding worker cannot do, tried from inside it."""

from __future__ import annotations

import ast
import platform
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vitascope.sandbox.conftest import any_file
from tests.vitascope.sandbox.hooked_worker import hook
from vitascope.sandbox.pool import DecodingPool, UncancellableTask

NewPool = Callable[..., DecodingPool]
ROOT = Path(__file__).parents[3]

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the seccomp filter is Linux's"
)


@on_linux
def test_a_worker_reaches_no_network_starts_nothing_and_changes_no_file(new_pool: NewPool, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("content")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        request = hook("attempts", port=server.getsockname()[1], old=str(old), new=str(tmp_path / "new"))
        outcomes = new_pool().run(request, any_file(), UncancellableTask())
        with pytest.raises(TimeoutError):
            server.accept()
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == {"read a file", "start a thread"}
    assert set(outcomes.values()) == {"done", "EPERM"}
    assert old.read_text() == "content"
    assert list(tmp_path.iterdir()) == [old]


def test_a_worker_has_no_secrets_and_loads_only_decoders(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    pool = new_pool()
    assert "AWS_SECRET_ACCESS_KEY" not in pool.run(hook("environment"), any_file(), UncancellableTask())
    modules = {name.split(".")[0] for name in pool.run(hook("modules"), any_file(), UncancellableTask())}
    assert modules.isdisjoint({"onnxruntime", "pydantic", "tokenizers", "fastapi", "index", "service", "sqlite3"})


@pytest.mark.parametrize("package", ["vitascope", "index", "service"])
def test_nothing_is_unpickled(package: str) -> None:
    """Except between the machines of a Ray cluster, which trust each other: Ray itself uses pickle."""
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
