"""Servers in processes of their own: the service, a plain handler, nginx; and collections for the service.

`python -m benchmarks.service.servers BUNDLE PORT THREADS` runs the plain handler.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from benchmarks.index import clustered
from index.collection import Collection
from index.collection_store import CollectionStore
from index.records import Float32, NewVideo
from index.storage.queries import ClipRow, insert_video, newest_clip
from tests.sockets import reserved_port
from vitascope.model import Model
from vitascope.visual_token_codec import encode_tokens

START_SECONDS = 120.0
NGINX_CONFIG = Path(__file__).parents[2] / "deploy" / "nginx" / "nginx.conf"
CLIPS_PER_VIDEO = 100
CLIP_SECONDS = 8.0


@contextmanager
def service(bundle: Path, data: Path, threads: int, **settings: object) -> Iterator[tuple[str, int]]:
    """Run ``python -m service``; yield its URL and process id when it is ready. ``settings``: further settings."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    values: dict[str, object] = {
        "bundle": bundle,
        "data_dir": data,
        "port": port,
        "threads": threads,
        "log_level": "warning",
        "allow_unauthenticated": "true",
        "client_concurrency": 100_000,  # the load stands for many clients, from one address
        "text_cache_bytes": 0,  # the load repeats sentences, and each is to be computed
        **settings,
    }
    environment = {f"VITASCOPE_{name.upper()}": str(value) for name, value in values.items()}
    with server_process([sys.executable, "-m", "service"], environment, url, "/readyz") as process_id:
        yield url, process_id


@contextmanager
def plain_server(bundle: Path, threads: int) -> Iterator[str]:
    """Run a FastAPI handler around the same model, without a queue or batches; yield its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.service.servers", str(bundle), str(port), str(threads)]
    with server_process(command, {}, url, "/openapi.json"):
        yield url


@contextmanager
def nginx(service_port: int, health_port: int, replace: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run nginx with the shipped configuration in front of a service on 127.0.0.1.

    Args:
        service_port: Port of the service.
        health_port: Health port of the service.
        replace: Further texts of the configuration and what they are replaced by.

    Yields:
        The URL of the proxy.

    Raises:
        FileNotFoundError: nginx is not installed.
    """
    with reserved_port() as port, tempfile.TemporaryDirectory() as folder:
        changes = {
            "vitascope:8000": f"127.0.0.1:{service_port}",
            "vitascope:8001": f"127.0.0.1:{health_port}",
            "listen 8080": f"listen 127.0.0.1:{port}",
            "/tmp/": f"{folder}/",
            "/dev/stdout": f"{folder}/access.log",
            **(replace or {}),
        }
        Path(folder).chmod(0o711)  # started by root, its workers are another user's
        text = NGINX_CONFIG.read_text("utf-8")
        for old, new in changes.items():
            if old not in text:
                raise ValueError(f"{NGINX_CONFIG}: {old!r} expected")
            text = text.replace(old, new)
        config = Path(folder) / "nginx.conf"
        config.write_text(text, "utf-8")
        command = ["nginx", "-e", "stderr", "-p", folder, "-c", str(config), "-g", "daemon off;"]
        with server_process(command, {}, f"http://127.0.0.1:{port}", "/livez"):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def idle_server(folder: Path) -> Iterator[str]:
    """Run a server that nothing else uses; yield its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with server_process(command, {}, url, "/", quiet=True):
        yield url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server_process(
    command: list[str],
    variables: Mapping[str, str],
    url: str,
    ready_path: str,
    folder: Path | None = None,
    *,
    quiet: bool = False,
) -> Iterator[int]:
    """Run a server and yield its process id once it answers.

    Args:
        command: The program and its arguments.
        variables: Further environment variables.
        url: The URL of the server.
        ready_path: Path that is answered once the server is ready.
        folder: The working directory.
        quiet: Whether to discard its standard error.

    Raises:
        TimeoutError: It was not ready within ``START_SECONDS``.
    """
    # A session of its own, so that its child processes end with it.
    server = subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        cwd=folder,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url + ready_path, timeout=5):
                    break
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end or server.poll() is not None:
                    raise TimeoutError(f"{' '.join(command)}: not ready: {error}") from error
                time.sleep(0.1)
        yield server.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(START_SECONDS)


def processor_seconds(process_id: int) -> float:
    """Return the processor time of a process and its children in seconds."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(entry.name) == process_id or int(fields[1]) == process_id:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def create_collection(data: Path, name: str, model: Model, clips: int, *, tokens: bool = False) -> Float32:
    """Create a collection of clustered embeddings, without media files, and build its index.

    Args:
        data: The data folder.
        name: Name of the collection.
        model: The model of the collection.
        clips: Number of clips.
        tokens: Whether to store visual tokens, all 0, so that results can be reranked.

    Returns:
        The embeddings (C, D).
    """
    embeddings = clustered(clips, 1, model.bundle.manifest.vector_width)[0]
    with CollectionStore(data / "collections") as store:
        collection = store.create(name, model)
        for first in range(0, clips, CLIPS_PER_VIDEO):
            _add_video(collection, first, embeddings[first : first + CLIPS_PER_VIDEO], tokens)
    with CollectionStore(data / "collections") as store:
        collection = store.open(name)
        collection.search(embeddings[0], 1)
        collection.wait_for_index()
    return embeddings


def _add_video(collection: Collection, number: int, embeddings: Float32, tokens: bool) -> None:
    zeros = np.zeros(collection.token_shapes["visual"], np.float32)
    encoded = encode_tokens(zeros, collection.token_encoding) if tokens else None
    video = NewVideo(
        content_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        path=f"/nowhere/{number}.mp4",
        title=f"film {number}",
        duration=len(embeddings) * CLIP_SECONDS,
        width=640,
        height=360,
        metadata={"number": number},
    )
    rows = [
        ClipRow(
            span=(clip * CLIP_SECONDS, (clip + 1) * CLIP_SECONDS),
            vector=embedding.astype("<f4").tobytes(),
            tokens=encoded,
            text="",
            thumbnail=None,
            audio_vector=None,
            audio_tokens=None,
        )
        for clip, embedding in enumerate(embeddings)
    ]
    with collection.catalogue.write() as connection:
        insert_video(connection, video, newest_clip(connection) + 1, rows)


class Texts(BaseModel):
    """Request of the plain handler."""

    input: list[str]


def run_plain_server(bundle: str, port: int, threads: int) -> None:
    """Serve text embeddings with FastAPI's thread pool."""
    import uvicorn
    from fastapi import FastAPI

    model = Model.open(bundle, threads=threads)
    model.warm_up()
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embed(body: Texts) -> list[list[float]]:
        embeddings: list[list[float]] = model.embed_text(body.input).tolist()
        return embeddings

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    run_plain_server(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
