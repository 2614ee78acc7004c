"""`make image-check`: build the Dockerfile in a clean Debian root and run its containers as in docker-compose.yml.

Uploads, searches, indexes, backs up, restores and stops. Needs root, the network for packages, and some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from demo.scenes import write_videos
from tests.composed import ADMIN, STORES, compose
from tests.image.container import (
    ADDRESS,
    OUTER_TOOLS,
    ROOT,
    Container,
    Mounts,
    Stage,
    build,
    make_base,
    running,
    stages,
)

MIB = 1024**2
SOUGHT = "a red square moves left"
EXPECTED = "red-square-moves-left"
UPLOAD_AND_SEARCH = f"""
from vitascope.client import Client
with Client("http://127.0.0.1:8000") as client:
    client.create_collection("films")
    for name in ("red-square-moves-left", "green-circle-moves-down"):
        client.add_video("films", f"/videos/{{name}}.mp4", title=name)
    print(client.search("films", "{SOUGHT}")["results"][0]["video"]["title"])
"""
RIGHTS = """
import json, os
def writable(folder):
    try:
        name = os.path.join(folder, ".probe")
        open(name, "w").close()
        os.unlink(name)
        return True
    except OSError:
        return False
state = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
folders = "/ /etc /home /opt /opt/venv /run /stores /usr /var /var/tmp /videos /data /tmp".split()
print(json.dumps({"user": os.getuid(), "capabilities": state["CapEff"], "bounding": state["CapBnd"],
    "no_new_privileges": state["NoNewPrivs"], "writable": [folder for folder in folders if writable(folder)]}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--work", type=Path, help="folder that is kept; the Debian root in it is used again")
    parser.add_argument(
        "--distributed", action="store_true", help="with the extras of the profile, and a job on its Ray"
    )
    args = parser.parse_args()
    missing = [tool for tool in (*OUTER_TOOLS, "docker-compose") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        print(
            f"image-check needs root, and on Debian: apt-get install {' '.join(missing or OUTER_TOOLS)}",
            file=sys.stderr,
        )
        return 2
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="image-check-")))
        work.mkdir(parents=True, exist_ok=True)
        check(work.resolve(), "distributed" if args.distributed else "cpu")
    return 0


def check(work: Path, profile: str) -> None:
    """Run all steps. Raises AssertionError."""
    services = compose(profile, "index", "backup")["services"]
    served = services["service" if profile == "cpu" else profile]
    built = stages((ROOT / "Dockerfile").read_text(), served["build"]["args"])
    if not (work / "base").exists():
        with step("Debian's root, in place of the base image", lambda: size_of(work / "base")):
            make_base(built[-1].base, work / "base")
    run = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    with step("the Dockerfile's steps", lambda: size_of(image)):
        image = build(built, work / "base", run, ROOT)
    place = Place(image, built[-1], run)
    served_check(place, served, services["index"], services["backup"])
    if profile == "distributed":
        cluster_check(place, services["ray-head"], services["ray-worker"])
    shutil.rmtree(run)
    print("The image's steps and its containers do what they should.")


@contextlib.contextmanager
def step(what: str, more: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Print a step, its duration and its result."""
    print(f"{what} …", flush=True)
    begun = time.monotonic()
    yield
    print(f"    {time.monotonic() - begun:.1f} s{more()}", flush=True)


def size_of(folder: Path) -> str:
    sizes = {(stat.st_dev, stat.st_ino): stat.st_blocks * 512 for stat in map(os.lstat, _walk(folder))}
    return f", {sum(sizes.values()) / MIB:.0f} MiB on disk"


def _walk(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield place
        yield from (os.path.join(place, name) for name in names)


class Place:
    """The built image, and volumes, which get the owner of their folder in the image."""

    def __init__(self, image: Path, stage: Stage, folder: Path) -> None:
        self.image, self.stage = image, stage
        self._videos = folder / "videos"
        write_videos(self._videos)
        self._volumes = folder / "volumes"
        self._volumes.mkdir()
        # Containers that share a network share an address here.
        (image / "etc" / "hosts").touch()
        self._hosts = self._volumes / "hosts"
        self._hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {socket.gethostname()} ray-head\n")

    def volume(self, name: str, target: str) -> Path:
        volume = self._volumes / name
        if not volume.exists():
            like = (self.image / target.lstrip("/")).stat()
            volume.mkdir()
            os.chown(volume, like.st_uid, like.st_gid)
            volume.chmod(like.st_mode)
        return volume

    @contextlib.contextmanager
    def container(
        self, service: dict[str, Any], *command: str, peer: Container | None = None, **settings: str
    ) -> Iterator[Container]:
        """Run a service of docker-compose.yml, with another command or in the network of ``peer``."""
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        environment = {**self.stage.environment, **(service.get("environment") or {}), **settings}
        environment["HOME"] = self._home(service["user"])
        mounts = Mounts(shared_memory=str(service.get("shm_size", 64 * MIB)))
        for mount in service["volumes"]:
            if mount["type"] == "bind":
                mounts.read[mount["target"]] = self._videos
            else:
                mounts.written[mount["target"]] = self.volume(mount["source"], mount["target"])
        for tmpfs in service["tmpfs"]:
            path, _, options = tmpfs.partition(":")
            mounts.memory[path] = f"noexec,{options}"  # as Docker adds it
        mounts.read["/etc/hosts"] = self._hosts
        words = [*(service.get("entrypoint") or self.stage.entrypoint)]
        words += command or service.get("command") or self.stage.command
        log = self._volumes / f"{time.monotonic_ns()}.log"
        try:
            with running(
                self.image,
                words,
                user=service["user"],
                directory=self.stage.directory,
                environment=environment,
                mounts=mounts,
                log=log,
                peer=peer,
            ) as container:
                yield container
        except BaseException:
            print(f"--- last output of {' '.join(words)} ---\n{log.read_text()[-4000:]}", file=sys.stderr)
            raise

    def once(self, service: dict[str, Any], *command: str, peer: Container | None = None, **settings: str) -> None:
        """Run a service that ends by itself, and check its status."""
        with self.container(service, *command, peer=peer, **settings) as container:
            assert container.process.wait(timeout=600) == 0

    def _home(self, user: str) -> str:
        accounts = [line.split(":") for line in (self.image / "etc" / "passwd").read_text().splitlines()]
        return next((account[5] for account in accounts if account[2] == user.partition(":")[0]), "/")


def served_check(place: Place, served: dict[str, Any], index: dict[str, Any], backup: dict[str, Any]) -> None:
    settings = {"VITASCOPE_API_KEY": ADMIN, "VITASCOPE_VECTOR_STORE": "faiss"}
    with place.container(served, **settings) as service:
        with step("the service, until the HEALTHCHECK passes"):
            wait_until_healthy(service, place.stage)
        idle = service.memory()
        rights = json.loads(answered(service, "python", "-c", RIGHTS))
        print(f"    {idle / MIB:.0f} MiB of memory; {rights}")
        user = int(served["user"].partition(":")[0])
        assert rights == {
            "user": user,
            "capabilities": "0" * 16,
            "bounding": "0" * 16,
            "no_new_privileges": "1",
            "writable": ["/data", "/tmp"],
        }
        with step("two videos uploaded, one found", lambda: f", {service.memory() / MIB:.0f} MiB of memory"):
            assert answered(service, "python", "-c", UPLOAD_AND_SEARCH).strip() == EXPECTED
        with step("`index` in a second container, and a search"):
            place.once(index)
            output = answered(service, "vitascope", "search", SOUGHT, "--server", "http://127.0.0.1:8000", "--json")
            assert json.loads(output)["results"][0]["video"]["title"] == EXPECTED
        with step("`backup` in a second container, twice"):
            place.once(backup)
            time.sleep(1.1)  # copies are named after the second
            place.once(backup)
            (_, copy) = sorted(path for path in place.volume("backups", "/backups").iterdir() if path.name[0] != ".")
        with step(f"SIGTERM, within {served['stop_grace_period']}"):
            os.kill(service.pid, signal.SIGTERM)
            assert service.process.wait(timeout=float(served["stop_grace_period"].rstrip("s"))) == 0
    with step("a copy restored into an empty volume, and a search there"):
        lost = {
            **backup,
            "volumes": [
                {**mount, "source": "empty"} if mount["source"] == "data" else mount for mount in backup["volumes"]
            ],
        }
        place.once(lost, "backup", "--restore", f"/backups/{copy.name}")
        place.once(lost, "search", SOUGHT, "--collection", "films")
        owned = place.volume("empty", "/data") / "collections" / "films" / "media"
        assert len(list(owned.iterdir())) == 2


def cluster_check(place: Place, head: dict[str, Any], worker: dict[str, Any]) -> None:
    """Run a job on the Ray cluster, with FAISS instead of Milvus."""
    assert head["environment"]["RAY_AUTH_TOKEN"] == STORES
    with contextlib.ExitStack() as stack:
        with step("Ray's head, until its check passes"):
            first = stack.enter_context(node(place, head, VITASCOPE_VECTOR_STORE="faiss"))
        with step("Ray's worker, likewise"):
            stack.enter_context(node(place, worker, peer=first))
        with step("a job on the cluster"):
            command = ("vitascope", "index", "/videos", "--ray", "auto", "--collection", "cluster", "--json")
            result = json.loads(answered(first, *command))
        print(f"    {result['added']} videos added, {first.memory() / MIB:.0f} MiB of memory of the head")
        assert result["added"] > 0


@contextlib.contextmanager
def node(place: Place, service: dict[str, Any], peer: Container | None = None, **settings: str) -> Iterator[Container]:
    """Yield a healthy node, restarted if it exits: Ray exits if its start takes more than 30 s."""
    with contextlib.ExitStack() as stack:
        for left in (2, 1, 0):
            container = stack.enter_context(place.container(service, peer=peer, **settings))
            try:
                wait_until_passes(container, service["healthcheck"]["test"][1:], seconds=120)
                break
            except AssertionError:
                if not left or container.process.poll() is None:
                    raise
        yield container


def wait_until_healthy(service: Container, stage: Stage) -> None:
    allowed = float(stage.health_options["start-period"].rstrip("s"))
    wait_until_passes(service, stage.health, allowed)


def wait_until_passes(container: Container, test: list[str], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while True:
        done = container.exec(*test)
        if done.returncode == 0:
            return
        assert container.process.poll() is None, f"it ended with {container.process.returncode}"
        assert time.monotonic() < until, f"no answer within {seconds:.0f} s: {done.stderr}"
        time.sleep(0.2)


def answered(container: Container, *words: str) -> str:
    done = container.exec(*words, seconds=300.0)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
