"""`vitascope keys`, and sending API keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.service.running import JSON, Running, problem_of
from tests.service.secured import ADMIN, ask, make_key
from vitascope.cli.main import main
from vitascope.client import Client, ServiceError
from vitascope.errors import InvalidInput


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> JSON:
    assert main(["keys", *arguments, "--json"]) == 0
    answer: JSON = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize("way", ["--data", "--server"])
def test_keys_are_created_listed_and_revoked(
    way: str, locked: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the data folder, or through the service with a key of the scope admin."""
    monkeypatch.setenv("VITASCOPE_API_KEY", ADMIN)
    at = [way, str(locked.settings.data_dir) if way == "--data" else str(locked.client.base_url)]
    made = run_command(capsys, "create", "camera", "--scopes", "write, read", "--expires", "90d", "--rate", "2", *at)
    assert ask(locked, "GET", "/v1/models", made["key"]).status_code == 200
    assert made["expires_at"] - made["created_at"] == pytest.approx(90 * 86400)
    listed = {key["id"]: key["rate"] for key in run_command(capsys, "list", *at)["keys"]}
    assert listed[made["id"]] == 2
    run_command(capsys, "revoke", made["id"], *at)
    problem_of(ask(locked, "GET", "/v1/models", made["key"]), 401, "key_invalid")
    assert main(["keys", "list", *at]) == 0
    shown = capsys.readouterr().out
    assert "camera" in shown
    assert "revoked" in shown
    assert made["key"] not in shown


@pytest.mark.parametrize("wrong", [["--scopes", "all"], ["--expires", "soon"], ["--collections", "A B"]])
def test_errors_of_keys_name_the_option(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "a", *wrong, "--data", str(tmp_path)]) == 2
    assert wrong[0].strip("-") in capsys.readouterr().err


def test_keys_creates_no_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments in (["list"], ["revoke", "000000000000"]):
        assert main(["keys", *arguments, "--data", str(nowhere)]) == 2
        assert "nowhere" in capsys.readouterr().err
    assert not nowhere.exists()


def test_client_and_command_send_the_api_key(
    locked: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(locked.client.base_url)
    key = make_key(locked, "read")
    with Client(url, api_key=key) as client:
        assert client.list_models()["models"]
    monkeypatch.setenv("VITASCOPE_API_KEY", key)
    assert main(["search", "a red thing", "--collection", "palette", "--server", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]
    monkeypatch.delenv("VITASCOPE_API_KEY")
    with Client(url) as client, pytest.raises(ServiceError, match="VITASCOPE_API_KEY") as raised:
        client.list_models()
    assert raised.value.status == 401
    with pytest.raises(InvalidInput) as refused:
        Client(url, api_key="geheim\u00fc\n")
    assert "geheim" not in str(refused.value)
