"""Completion in bash, zsh and fish."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import find_tool
from vitascope.cli.completion import collection_names
from vitascope.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a shell with `vitascope`, a folder with a video, and two collections."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "vitascope"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vitascope "$@"\n')
    command.chmod(0o755)
    (tmp_path / "film.mp4").touch()
    for name in ("videos", "cameras", ".new-1"):
        (tmp_path / "data" / "collections" / name).mkdir(parents=True)
    return {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "PS1": "> ",
        "VITASCOPE_DATA_DIR": "nowhere",
    }


LINES = {
    "vitascope se": {"search", "serve"},
    "vitascope collection re": {"restore", "reembed"},
    "vitascope search 'a dog' --col": {"--collection"},
    "vitascope search 'a dog' --group ": {"clip", "event", "video"},
    "vitascope search 'a dog' --data data --collection ": {"videos", "cameras"},
    "vitascope collection drop --data data v": {"videos"},
    "vitascope index fi": {"film.mp4"},
}


def test_bash_completes_commands_options_choices_files_and_collections(
    environment: dict[str, str], tmp_path: Path
) -> None:
    script = r"""
eval "$(vitascope completion bash)"
function=$(complete -p vitascope | sed 's/.*-F \([^ ]*\) .*/\1/')
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9
    $function vitascope
    (IFS=/; echo "${COMPREPLY[*]}")
done
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        input="".join(f"{line}\n" for line in LINES),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    offered = [{word.strip() for word in line.split("/")} for line in done.stdout.splitlines()]
    assert dict(zip(LINES, offered, strict=True)) == LINES


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "vitascope" in script.read_text()
    assert subprocess.run([find_tool(shell), "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "ftp://127.0.0.1", "nonsense"])
def test_unreachable_service_offers_no_names(server: str) -> None:
    assert collection_names(parsed_args=argparse.Namespace(server=server)) == {}
