"""A Dockerfile's stages built in a Debian root, and its containers run there: what an image promises without Docker.

The root comes from debootstrap and stands in for the base image, which cannot be had without a registry of images: it
has Debian's own Python of the same minor version where the image has one of its own. Everything else is the
Dockerfile's. Namespaces of Linux do what a container runtime does: a root that cannot be written to, a network, process
numbers and mounts of its own, a user without any capability.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.image.dockerfile import Stage, Step

ROOT = Path(__file__).parents[2]
TOLD_TO_PIP = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_", "REQUESTS_CA_BUNDLE")
"""Beginnings of variables, in either case, that say how a machine reaches its package index."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
ADDRESS = "10.77.0.1"
"""Of a container in its own network."""
OUTER_TOOLS = ("debootstrap", "unshare", "nsenter", "chroot", "mount", "setpriv", "ip")


def suite_of(base: str) -> str:
    """The Debian release of an image of Python: ``python:3.11-slim-bookworm`` is bookworm's. Raises ValueError."""
    name, _, tag = base.partition(":")
    parts = tag.split("-")
    if name != "python" or len(parts) != 3 or parts[1] != "slim":
        raise ValueError(f"FROM {base}: python:VERSION-slim-RELEASE was expected")
    return parts[2]


def make_base(base: str, folder: Path) -> None:
    """A Debian root with Python, in place of the image ``base``."""
    include = "--include=python3,python3-venv,ca-certificates"
    # What it mounts goes with its namespace, also when it fails: nobody removes this folder with /proc in it.
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", include, suite_of(base), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder / "var" / "cache" / "apt" / "archives")
    (folder / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
    version = subprocess.run(["chroot", str(folder), "python", "--version"], check=True, capture_output=True, text=True)
    if not version.stdout.startswith(f"Python {base.partition(':')[2].partition('-')[0]}."):
        raise ValueError(f"FROM {base}: its Debian release has {version.stdout.strip()}")


def build(stages: Sequence[Stage], base: Path, folder: Path, context: Path) -> Path:
    """Take every step of every stage below ``folder``; the root of the last stage."""
    roots: dict[str | None, Path] = {}
    root = folder
    for number, stage in enumerate(stages):
        root = folder / f"stage-{number}"
        subprocess.run(["cp", "--archive", f"{base}/.", str(root)], check=True)
        roots[stage.name] = root
        for path in stage.folders:
            (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for step in stage.steps:
            if step.kind == "RUN":
                _run(root, step)
            else:
                _copy(root, step, context if step.from_stage is None else roots[step.from_stage])
    return root


def _copy(root: Path, step: Step, source_root: Path) -> None:
    """As COPY does: what is in a folder goes into the destination; files go by their name into one that ends in /."""
    *sources, target = step.words
    left_out = shutil.ignore_patterns(*_left_out_everywhere(source_root) if step.from_stage is None else ())
    destination = root / os.path.join(step.directory, target).lstrip("/")
    for source in sources:
        path = source_root / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, destination, symlinks=True, ignore=left_out, dirs_exist_ok=True)
        else:
            into = destination / path.name if target.endswith("/") else destination
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, into)


def _left_out_everywhere(context: Path) -> list[str]:
    """Names that .dockerignore leaves out of every folder; what it lets in at the top is for a test of its own."""
    lines = (context / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("**/") for line in lines if line.startswith("**/")]


def _run(root: Path, step: Step) -> None:
    """One RUN, in the network of this machine and with what pip is told on it, of which nothing stays behind."""
    if step.user != "0:0":
        raise ValueError(f"RUN {step.words[-1]}: as user {step.user}; a step of root was expected")
    told = {name: value for name, value in os.environ.items() if name.upper().startswith(TOLD_TO_PIP)}
    lent = {path for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *_settings_of_pip()) if path.exists()}
    lent |= {Path(value) for value in told.values() if value.startswith("/") and Path(value).exists()}
    made = [_place(root, path) for path in sorted(lent)]
    mounts = [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
    mounts += [f"mount --bind {shlex.quote(str(path))} {root}{shlex.quote(str(path))}" for path in sorted(lent)]
    inside = _words("env", "-i", *_pairs({"HOME": "/root", **told, **step.environment}), *step.words)
    script = [*mounts, f"exec chroot {root} /bin/sh -c {shlex.quote(f'cd {step.directory} && exec {inside}')}"]
    try:
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(script)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"RUN {step.words[-1]}: status {done.returncode}; it said last:\n{done.stdout[-4000:]}")
    finally:
        for path in reversed([each for places in made for each in places]):
            path.rmdir() if path.is_dir() else path.unlink()


def _settings_of_pip() -> list[Path]:
    """Its files, or the folders that are pip's alone, since a file may name others beside it."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "debug"], check=True, capture_output=True, text=True)
    lines = [line.strip().rpartition(", exists: ") for line in done.stdout.splitlines()]
    files = [Path(name) for name, _, exists in lines if exists == "True"]
    return [file.parent if file.parent.name == "pip" else file for file in files]


def _place(root: Path, path: Path) -> list[Path]:
    """Make what is missing for ``path`` to be mounted there; what was made, outermost first."""
    inside = root / str(path).lstrip("/")
    missing = [each for each in [inside, *inside.parents] if not each.exists() and not each.is_symlink()]
    for each in reversed(missing):
        if each == inside and not path.is_dir():
            each.touch()
        else:
            each.mkdir()
    return missing[::-1]


@dataclass(slots=True)
class Container:
    """A process that runs as a container would; ``exec`` is ``docker exec``."""

    process: subprocess.Popen[str]
    pid: int
    root: Path
    user: str
    directory: str
    environment: dict[str, str]

    def exec(self, *words: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user and in its environment."""
        inside = _inside(self.root, self.user, self.directory, self.environment, words)
        command = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--", *inside]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)

    def memory(self) -> int:
        """Bytes that its processes take: their own, and their share of what they share."""
        found = 0
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns" / "pid") == own:
                    lines = (entry / "smaps_rollup").read_text().splitlines()
                    found += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return found


@dataclass(frozen=True, slots=True)
class Mounts:
    """Folders of this machine by where a container has them; written to, or only read. Sizes in bytes."""

    written: dict[str, Path] = field(default_factory=dict)
    read: dict[str, Path] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    """Of tmpfs: options, such as ``size=1g,mode=1777``."""
    shared_memory: str = "64m"


@contextlib.contextmanager
def running(
    root: Path,
    words: Sequence[str],
    *,
    user: str,
    directory: str,
    environment: dict[str, str],
    mounts: Mounts,
    log: Path,
    beside: Container | None = None,
) -> Iterator[Container]:
    """Start ``words`` in ``root``, in a network of its own that leads nowhere, or in that of ``beside``; what is left
    of it at the end is killed.
    """
    at = shlex.quote(str(root))
    script = [
        "mount --make-rprivate /",
        f"mount --bind {at} {at}",
        f"mount -t proc proc {at}/proc",
        f"mount -t tmpfs -o mode=755,size=64k tmpfs {at}/dev",
        *(f"touch {at}/dev/{name}\nmount --bind /dev/{name} {at}/dev/{name}" for name in DEVICES),
        f"mkdir {at}/dev/shm",
        f"mount -t tmpfs -o mode=1777,size={mounts.shared_memory} tmpfs {at}/dev/shm",
        *(f"mount -t tmpfs -o nosuid,nodev,{options} tmpfs {at}{path}" for path, options in mounts.memory.items()),
        *(f"mount --bind {shlex.quote(str(path))} {at}{inside}" for inside, path in mounts.written.items()),
        *(f"mount --bind {shlex.quote(str(path))} {at}{inside}" for inside, path in mounts.read.items()),
        *(f"mount -o remount,bind,ro {at}{inside}" for inside in mounts.read),
        f"mount -o remount,bind,ro {at}",
        *(["ip link set lo up", f"ip address add {ADDRESS}/32 dev lo"] if beside is None else []),
        f"exec {_words(*_inside(root, user, directory, environment, words))}",
    ]
    net = ["--net"] if beside is None else []
    outer = [] if beside is None else ["nsenter", "--target", str(beside.pid), "--net", "--"]
    command = [*outer, "unshare", "--mount", "--pid", "--fork", "--ipc", *net, "sh", "-ec"]
    with open(log, "w") as output:
        process = subprocess.Popen([*command, "\n".join(script)], stdout=output, stderr=output, text=True)
    first = None
    try:
        first = _child(process)
        yield Container(process, first, root, user, directory, environment)
    finally:
        if process.poll() is None:
            os.kill(first or process.pid, signal.SIGKILL)  # and with the first of it everything inside
        process.wait()


def _child(process: subprocess.Popen[str]) -> int:
    """The number of the container's first process, as this machine counts."""
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            return int(children[0])
    raise ValueError(f"unshare ended with {process.returncode} before it started anything")


def _inside(root: Path, user: str, directory: str, environment: dict[str, str], words: Sequence[str]) -> list[str]:
    """From a shell of root to ``words`` as ``user`` in ``root``, with no capability and no way to gain one."""
    number, _, group = user.partition(":")
    drop = ["setpriv", f"--reuid={number}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    drop += ["--bounding-set=-all", "--inh-caps=-all"]
    start = f"cd {shlex.quote(directory)} && exec {_words(*drop, 'env', '-i', *_pairs(environment), *words)}"
    return ["chroot", str(root), "/bin/sh", "-c", start]


def _pairs(variables: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _words(*words: str) -> str:
    return shlex.join(words)
