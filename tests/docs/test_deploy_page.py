"""docs/deploy.md, and the Docker section of docs/install.md, as printed on a Docker engine: `make docker-check`."""

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
from tests.docs.pages import ROOT, Block, parse_blocks, parse_commands
from tests.tools import find_tool
from tests.waiting import wait_for
from vitascope.client import Client

INSTALL, DEPLOY = (ROOT / "docs" / name for name in ("install.md", "deploy.md"))
ADDRESS = "http://127.0.0.1:8000"
TIMEOUT = 1200.0
QUERY = "a red square moves left"
BEST_VIDEO = "red-square-moves-left"
BACKUP_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")

pytestmark = pytest.mark.docker


class Machine:
    """A clone of the working tree, a home folder with videos, and the Docker engine."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.home = folder / "vitascope", folder / "home"
        config = os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))
        ignored = ("VITASCOPE_", "COMPOSE_", "MAKE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
        self.environment = inherited | {"HOME": str(self.home), "DOCKER_CONFIG": config}
        self.backups: list[str] = []
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.checkout)], check=True)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, files.split("\0")):  # with uncommitted changes
            if (ROOT / name).is_file():
                shutil.copy2(ROOT / name, self.checkout / name)
        (self.home / "Videos").mkdir(parents=True)
        write_videos(self.home / "Videos")

    def run(self, command: str) -> str:
        """Run a command and return its output. Raises AssertionError if it fails."""
        process = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert process.returncode == 0, f"$ {command}\n{process.stdout}{process.stderr}"
        assert "level=warning" not in process.stderr, f"$ {command}\n{process.stderr}"
        return process.stdout

    def follow(self, page: Path, section: str) -> str:
        """Run the commands of a section, and return the output of the last one."""
        output = ""
        for block in section_blocks(page, section):
            for command in parse_commands(block):
                text = BACKUP_NAME.sub(self.backups[-1], command.text) if self.backups else command.text
                output = self.run(text)
                self.backups += BACKUP_NAME.findall(output)
        return output

    def admin_key(self) -> str:
        return dict(line.split("=", 1) for line in (self.checkout / ".env").read_text().split())["VITASCOPE_ADMIN_KEY"]


def section_blocks(page: Path, section: str) -> list[Block]:
    lines = page.read_text("utf-8").splitlines()
    start = lines.index(f"## {section}")
    end = next((at for at, line in enumerate(lines) if at > start and line.startswith("## ")), len(lines))
    return [
        block
        for block in parse_blocks(page)
        if start < block.line <= end and Path(block.run).name == Path(__file__).name
    ]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    find_tool("docker")
    machine = Machine(tmp_path)
    for kind in ("container ls --all", "volume ls"):
        existing = machine.run(f"docker {kind} --quiet --filter label=com.docker.compose.project=vitascope")
        assert existing == "", "this engine has a Vitascope, which the test would replace and then remove"
    try:
        yield machine
    finally:
        machine.run("docker compose --profile '*' down --volumes --remove-orphans")


def test_the_docker_section_of_install(machine: Machine) -> None:
    assert "12 added, 0 skipped" in machine.follow(INSTALL, "With Docker")
    wait_until_healthy(machine)
    with Client(ADDRESS, api_key=machine.admin_key()) as client:
        assert best(client, "videos") == BEST_VIDEO


def test_deploy_from_the_first_start_to_an_upgrade(machine: Machine) -> None:
    assert "12 added, 0 skipped" in machine.follow(DEPLOY, "First start")
    with Client(ADDRESS, api_key=machine.admin_key()) as client:
        assert best(client, "videos") == BEST_VIDEO
        client.create_collection("films")
        client.add_video("films", machine.home / "Videos" / f"{BEST_VIDEO}.mp4", title=BEST_VIDEO)
        assert key_names(machine) == ["my laptop"]

        check_privileges(machine)

        machine.follow(DEPLOY, "Backup and restore")
        wait_until_healthy(machine)
        assert best(client, "videos") == BEST_VIDEO
        assert best(client, "films-again") == BEST_VIDEO
        assert key_names(machine) == ["my laptop"]

        machine.follow(DEPLOY, "Upgrade")
        wait_until_healthy(machine)
        assert best(client, "films") == BEST_VIDEO

    machine.run("docker compose stop service")
    state = json.loads(machine.run("docker inspect vitascope-service-1"))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def key_names(machine: Machine) -> list[str]:
    response = httpx.get(f"{ADDRESS}/v1/keys", headers={"Authorization": f"Bearer {machine.admin_key()}"})
    return [key["name"] for key in response.raise_for_status().json()["keys"]]


def best(client: Client, collection: str) -> str:
    return client.search(collection, QUERY)["results"][0]["video"]["title"]


def wait_until_healthy(machine: Machine) -> None:
    wait_for(lambda: health(machine) == "healthy", 120.0)


def health(machine: Machine) -> str:
    return machine.run("docker inspect --format '{{.State.Health.Status}}' vitascope-service-1").strip()


def check_privileges(machine: Machine) -> None:
    """Check the privileges of the running container in the kernel."""
    status = machine.run("docker compose exec service cat /proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    for path, writable in {"/opt/venv": False, "/etc": False, "/videos": False, "/data": True, "/tmp": True}.items():
        command = f"docker compose exec service sh -c 'touch {path}/.probe && rm {path}/.probe && echo yes || echo no'"
        assert machine.run(command).strip() == ("yes" if writable else "no"), path
