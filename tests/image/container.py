"""Builds the stages of a Dockerfile in a Debian root, and runs containers there, without Docker.

The root of debootstrap, with Debian's Python of the same minor version, replaces the base image. Linux namespaces
replace the container runtime: a read-only root, separate network, processes and mounts, a user without capabilities.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STEPS = ("RUN", "COPY")
_IDLE = ("LABEL", "EXPOSE", "VOLUME")
"""Instructions that change no files of the image."""
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""That the base image begins with."""


@dataclass(frozen=True, slots=True)
class Step:
    """RUN with the words of its command, or COPY with its sources and its destination as the last word."""

    kind: str
    words: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    user: str
    from_stage: str | None = None


@dataclass(slots=True)
class Stage:
    """A stage of a build, and how its containers are started."""

    base: str
    name: str | None
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    directory: str = "/"
    user: str = "0:0"
    steps: list[Step] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_options: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    """Made by WORKDIR."""


def stages(text: str, arguments: dict[str, str]) -> list[Stage]:
    """Return the stages of a Dockerfile in order; ``arguments`` are those of ``--build-arg``. Raises ValueError."""
    parsed: list[Stage] = []
    declared: dict[str, str] = {}
    for keyword, rest in _instructions(text):
        if keyword == "FROM":
            base, *named = rest.split()
            parsed.append(Stage(base, named[1] if named else None))
            declared = {}
        elif not parsed:
            raise ValueError(f"{keyword} {rest}: before the first FROM, which was expected")
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            declared[name] = arguments.get(name, default)
        else:
            _apply(parsed[-1], keyword, rest, declared)
    unused = set(arguments) - {name for line in text.splitlines() for name in re.findall(r"^ARG (\w+)", line)}
    if unused:
        raise ValueError(f"build arguments: {sorted(unused)} are not declared")
    return parsed


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (keyword, rest.strip()) for keyword, _, rest in (line.strip().partition(" ") for line in whole.splitlines())
    ]


def _apply(stage: Stage, keyword: str, rest: str, declared: dict[str, str]) -> None:
    known = {**declared, **stage.environment}
    if keyword == "ENV":
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            stage.environment[name] = re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), value)
    elif keyword == "WORKDIR":
        stage.directory = rest
        stage.folders.append(rest)
    elif keyword == "USER":
        stage.user = rest
    elif keyword in _STEPS:
        stage.steps.append(_step(stage, keyword, rest, known))
    elif keyword == "ENTRYPOINT":
        stage.entrypoint = _exec_form(keyword, rest)
    elif keyword == "CMD":
        stage.command = _exec_form(keyword, rest)
    elif keyword == "HEALTHCHECK":
        options, _, command = rest.partition("CMD ")
        stage.health = _exec_form(keyword, command)
        stage.health_options = dict(re.findall(r"--([\w-]+)=(\S+)", options))
    elif keyword not in _IDLE:
        raise ValueError(f"{keyword} {rest}: the instruction is not supported")


def _step(stage: Stage, keyword: str, rest: str, known: dict[str, str]) -> Step:
    if keyword == "RUN":
        if rest.startswith(("[", "--")):
            raise ValueError(f"RUN {rest}: a command for the shell was expected")
        # A shell sees arguments of the build as variables of its environment.
        return Step(keyword, ("/bin/sh", "-c", rest), dict(known), stage.directory, stage.user)
    words = rest.split()
    options = [word for word in words if word.startswith("--")]
    source = next((word.removeprefix("--from=") for word in options if word.startswith("--from=")), None)
    if len(options) != (source is not None):
        raise ValueError(f"COPY {rest}: no option but --from was expected")
    return Step(keyword, tuple(words[len(options) :]), {}, stage.directory, stage.user, source)


def _exec_form(keyword: str, text: str) -> list[str]:
    try:
        words: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{keyword} {text}: a JSON list of words was expected") from error
    return [str(word) for word in words]


ROOT = Path(__file__).parents[2]
PIP_VARIABLES = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_", "REQUESTS_CA_BUNDLE")
"""Prefixes of variables, in either case, that configure access to the package index."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
ADDRESS = "10.77.0.1"
"""Address of a container in its own network."""
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
    # Its mounts end with the namespace, also after a failure.
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
    """Copy as COPY does: contents of folders, and files by name into a destination that ends in /."""
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
    """Return the names that .dockerignore excludes from every folder."""
    lines = (context / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("**/") for line in lines if line.startswith("**/")]


def _run(root: Path, step: Step) -> None:
    """Execute RUN in the network of this machine, with its configuration of pip, which is removed afterwards."""
    if step.user != "0:0":
        raise ValueError(f"RUN {step.words[-1]}: as user {step.user}; a step of root was expected")
    variables = {name: value for name, value in os.environ.items() if name.upper().startswith(PIP_VARIABLES)}
    lent = {path for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *_settings_of_pip()) if path.exists()}
    lent |= {Path(value) for value in variables.values() if value.startswith("/") and Path(value).exists()}
    made = [_place(root, path) for path in sorted(lent)]
    mounts = [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
    mounts += [f"mount --bind {shlex.quote(str(path))} {root}{shlex.quote(str(path))}" for path in sorted(lent)]
    inside = _words("env", "-i", *_pairs({"HOME": "/root", **variables, **step.environment}), *step.words)
    script = [*mounts, f"exec chroot {root} /bin/sh -c {shlex.quote(f'cd {step.directory} && exec {inside}')}"]
    try:
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(script)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"RUN {step.words[-1]}: status {done.returncode}; last output:\n{done.stdout[-4000:]}")
    finally:
        for path in reversed([each for places in made for each in places]):
            path.rmdir() if path.is_dir() else path.unlink()


def _settings_of_pip() -> list[Path]:
    """Return the configuration files of pip, or the folders that only pip uses."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "debug"], check=True, capture_output=True, text=True)
    lines = [line.strip().rpartition(", exists: ") for line in done.stdout.splitlines()]
    files = [Path(name) for name, _, exists in lines if exists == "True"]
    return [file.parent if file.parent.name == "pip" else file for file in files]


def _place(root: Path, path: Path) -> list[Path]:
    """Create the mount point of ``path``; return the created paths, outermost first."""
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
        """Return the proportional set size of its processes in bytes."""
        total = 0
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns" / "pid") == own:
                    lines = (entry / "smaps_rollup").read_text().splitlines()
                    total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total


@dataclass(frozen=True, slots=True)
class Mounts:
    """Mounts by path in the container: writable folders, read-only folders, and tmpfs."""

    written: dict[str, Path] = field(default_factory=dict)
    read: dict[str, Path] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    """Options of tmpfs, such as ``size=1g,mode=1777``."""
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
    peer: Container | None = None,
) -> Iterator[Container]:
    """Start ``words`` in ``root``, in a network of its own that leads nowhere, or in that of ``peer``; it is killed at
    the end.
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
        *(["ip link set lo up", f"ip address add {ADDRESS}/32 dev lo"] if peer is None else []),
        f"exec {_words(*_inside(root, user, directory, environment, words))}",
    ]
    net = ["--net"] if peer is None else []
    outer = [] if peer is None else ["nsenter", "--target", str(peer.pid), "--net", "--"]
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
