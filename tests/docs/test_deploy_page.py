"""docs/deploy.md and what docs/install.md says of Docker, as printed, on a Docker engine: `make docker-check`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.scenes import write_videos
from tests.docs.pages import ROOT, Block, blocks, commands
from tests.tools import find_tool
from tests.waiting import wait_for
from vitascope.client import Client

INSTALL, DEPLOY = (ROOT / "docs" / name for name in ("install.md", "deploy.md"))
ADDRESS = "http://127.0.0.1:8000"
PATIENCE = 1200.0
SOUGHT = "a red square moves left"
FOUND = "red-square-moves-left"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
"""The name of a backup."""

pytestmark = pytest.mark.docker


class Machine:
    """A reader's machine: a clone of the repository as it is, a home with videos, and the engine."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.home = folder / "vitascope", folder / "home"
        config = os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))
        ours = ("VITASCOPE_", "COMPOSE_", "MAKE")
        outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment = outside | {"HOME": str(self.home), "DOCKER_CONFIG": config}
        self.backups: list[str] = []
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.checkout)], check=True)
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, listed.split("\0")):  # what has been changed since the last commit is tried, too
            if (ROOT / name).is_file():
                shutil.copy2(ROOT / name, self.checkout / name)
        (self.home / "Videos").mkdir(parents=True)
        write_videos(self.home / "Videos")

    def run(self, command: str) -> str:
        """What a command says that goes well. Raises AssertionError for one that does not."""
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        assert "level=warning" not in done.stderr, f"$ {command}\n{done.stderr}"
        return done.stdout

    def follow(self, page: Path, section: str) -> str:
        """Everything that ``page`` prints below ``## section``; what the last command said."""
        said = ""
        for block in blocks_of(page, section):
            for command in commands(block):
                text = STAMP.sub(self.backups[-1], command.text) if self.backups else command.text
                said = self.run(text)
                self.backups += STAMP.findall(said)
        return said

    def key(self) -> str:
        return dict(line.split("=", 1) for line in (self.checkout / ".env").read_text().split())["VITASCOPE_ADMIN_KEY"]


def blocks_of(page: Path, section: str) -> list[Block]:
    lines = page.read_text("utf-8").splitlines()
    begin = lines.index(f"## {section}")
    end = next((at for at, line in enumerate(lines) if at > begin and line.startswith("## ")), len(lines))
    return [
        block for block in blocks(page) if begin < block.line <= end and Path(block.run).name == Path(__file__).name
    ]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    find_tool("docker")
    machine = Machine(tmp_path)
    for kind in ("container ls --all", "volume ls"):
        there = machine.run(f"docker {kind} --quiet --filter label=com.docker.compose.project=vitascope")
        assert there == "", "there is a Vitascope on this engine, which this would replace and then remove"
    try:
        yield machine
    finally:
        machine.run("docker compose --profile '*' down --volumes --remove-orphans")


def test_the_short_way_of_the_page_on_installing(machine: Machine) -> None:
    assert "12 added, 0 skipped" in machine.follow(INSTALL, "With Docker")
    wait_until_healthy(machine)
    with Client(ADDRESS, api_key=machine.key()) as client:
        assert best(client, "videos") == FOUND


def test_the_page_is_followed_from_the_first_start_to_an_upgrade(machine: Machine) -> None:
    said = machine.follow(DEPLOY, "First start")
    assert "12 added, 0 skipped" in said
    with Client(ADDRESS, api_key=machine.key()) as client:
        assert best(client, "videos") == FOUND
        client.create_collection("films")
        client.add_video("films", machine.home / "Videos" / f"{FOUND}.mp4", title=FOUND)
        assert key_names(machine) == ["my laptop"]

        check_rights(machine)

        machine.follow(DEPLOY, "Backup and restore")
        wait_until_healthy(machine)
        assert best(client, "videos") == FOUND
        assert best(client, "films-again") == FOUND
        assert key_names(machine) == ["my laptop"]

        machine.follow(DEPLOY, "Upgrade")
        wait_until_healthy(machine)
        assert best(client, "films") == FOUND

    machine.run("docker compose stop service")
    state = json.loads(machine.run("docker inspect vitascope-service-1"))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def key_names(machine: Machine) -> list[str]:
    answer = httpx.get(f"{ADDRESS}/v1/keys", headers={"Authorization": f"Bearer {machine.key()}"})
    return [key["name"] for key in answer.raise_for_status().json()["keys"]]


def best(client: Client, collection: str) -> str:
    return client.search(collection, SOUGHT)["results"][0]["video"]["title"]


def wait_until_healthy(machine: Machine) -> None:
    wait_for(lambda: health(machine) == "healthy", 120.0)


def health(machine: Machine) -> str:
    return machine.run("docker inspect --format '{{.State.Health.Status}}' vitascope-service-1").strip()


def check_rights(machine: Machine) -> None:
    """What the page promises of a container, as the kernel sees the one that runs."""
    status = machine.run("docker compose exec service cat /proc/1/status")
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert told["Uid"].split() == ["10001"] * 4
    assert {int(told[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    for place, writable in {"/opt/venv": False, "/etc": False, "/videos": False, "/data": True, "/tmp": True}.items():
        tried = f"docker compose exec service sh -c 'touch {place}/.probe && rm {place}/.probe && echo yes || echo no'"
        assert machine.run(tried).strip() == ("yes" if writable else "no"), place
