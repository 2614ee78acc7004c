"""Command lines of the benchmarks."""

from __future__ import annotations

import importlib
import sys

import pytest

from benchmarks import run_main


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("recognition", "--bundle /none", "/none: no such folder; a bundle was expected"),
        ("recognition", "--transcribe /none", "'/none': no such folder; 'pocketsphinx' or a folder was expected"),
        ("recognition", "--read-text 1 --text-reader /none", "'/none'; 'rapidocr' or a folder"),
        ("recognition", "--read-text 0", "read_text: 0.0; 0.1 to 3600 seconds were expected"),
        ("recognition", "--talks 0", "--talks: 0, --seconds: 60; at least 1 was expected of each"),
        ("speech", "--model /none", "'/none': no such folder; 'pocketsphinx' or a folder was expected"),
        ("speech", "--digits /none", "--digits: /none; a tar file was expected"),
        ("speech", "--json /none/a.json", "--json: /none/a.json; a file in an existing folder was expected"),
        ("sound", "--bundle /none", "/none: no such folder; a bundle was expected"),
        ("sound", "--seconds 0", "--seconds: at least 1 was expected"),
        ("ingest", "--seconds 0", "--seconds: at least 1 was expected"),
    ],
)
def test_invalid_options_are_errors_of_one_line(
    name: str, arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments.split()])
    with pytest.raises(SystemExit) as exit_info:
        run_main(importlib.import_module(f"benchmarks.{name}").main)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
