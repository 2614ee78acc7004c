"""Start a real inference server with a bundle's graphs, run a command, and stop the server.

    python -m tests.vitascope.integrations.kserve.real_servers triton ENVIRONMENT BUNDLE -- make kserve-check

ENVIRONMENT: of Python, with onnxruntime, and nvidia-pytriton (Triton's own server, with the Python backend alone) or
mlserver in it. The command finds the server's URL in KSERVE and the bundle in VITASCOPE_BUNDLE.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from model_export.targets.triton import TritonOptions, write_repository
from vitascope.bundle.bundle import Bundle

ROOT = Path(__file__).parents[4]
BACKEND = Path(__file__).parent / "triton_backend" / "model.py"
PATIENCE = 120.0
# Reads every config.pbtxt by the class made of Triton's proto. Only that module is loaded: its package wants gRPC.
PARSE = """
import importlib.util, pathlib, sys
from google.protobuf import text_format
where = pathlib.Path(importlib.util.find_spec("tritonclient").submodule_search_locations[0]) / "grpc"
sys.path.insert(0, str(where))
import model_config_pb2
for path in sorted(pathlib.Path(sys.argv[1]).glob("*/config.pbtxt")):
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    assert config.name == path.parent.name
    print("config.pbtxt is a ModelConfig:", config.name)
"""

Command = tuple[Sequence[str | Path], Mapping[str, str]]
"""Arguments, and what the environment has besides."""


def triton(environment: Path, repository: Path, folder: Path, ports: Sequence[int]) -> Command:
    """Triton's server, with a backend in Python in the place of the one named onnxruntime."""
    python = environment / "bin" / "python"
    subprocess.run([python, "-c", PARSE, repository], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    version = packages.parent.name.removeprefix("python")
    backends = folder / "backends"
    shutil.copytree(packages / "pytriton" / "tritonserver" / "backends", backends)
    (backends / "onnxruntime").mkdir()
    shutil.copy(BACKEND, backends / "onnxruntime")
    stubs = packages / "pytriton" / "tritonserver" / "python_backend_stubs"
    shutil.copy(stubs / version / "triton_python_backend_stub", backends / "python")
    http, grpc, metrics = ports
    arguments = [
        packages / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--exit-on-error=true",
        *("--http-address=127.0.0.1", f"--http-port={http}"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--metrics-address=127.0.0.1", f"--metrics-port={metrics}"),
    ]
    variables = {
        "LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs:{_library_folder(python)}",
        "PYTHONPATH": str(packages),
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
    }
    return arguments, variables


def mlserver(environment: Path, repository: Path, folder: Path, ports: Sequence[int]) -> Command:
    """MLServer with the runtime of docs/examples."""
    examples = ROOT / "docs" / "examples"
    subprocess.run([environment / "bin" / "python", examples / "mlserver_runtime.py", repository], check=True)
    http, grpc, metrics = ports
    variables = {
        "PYTHONPATH": str(examples),
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_PARALLEL_WORKERS": "0",
    }
    return [environment / "bin" / "mlserver", "start", repository], variables


def main(kind: str, environment: Path, bundle: Path, command: Sequence[str]) -> int:
    """The exit status of ``command``, or 1 where the server did not start."""
    makers = {"triton": triton, "mlserver": mlserver}
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        write_repository(Bundle.open(bundle), folder / "models", TritonOptions(max_batch=8, device="cpu"), copy=True)
        ports = [_free_port() for _ in range(3)]
        arguments, variables = makers[kind](environment.absolute(), folder / "models", folder, ports)
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                list(map(str, arguments)), env={**os.environ, **variables}, cwd=folder, stdout=log, stderr=log
            )
        try:
            url = f"http://127.0.0.1:{ports[0]}"
            if not _answers(url, server):
                print((folder / "log").read_text(), file=sys.stderr)
                return 1
            print(f"{kind} answers at {url}", flush=True)
            environment_of_command = {**os.environ, "KSERVE": url, "VITASCOPE_BUNDLE": str(bundle.absolute())}
            status = subprocess.run(command, env=environment_of_command).returncode
            if status:
                print((folder / "log").read_text()[-4000:], file=sys.stderr)
            return status
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=2).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _library_folder(python: Path) -> str:
    """Where the library of a Python is: the backend's process is linked to it."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    end = sys.argv.index("--")
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[end + 1 :]))
