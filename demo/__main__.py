"""`make demo`: index small videos, serve them, and send a search, a caption score and a question over HTTP.

All files are in `.demo`. The data folder is named after the bundle's fingerprint, so each bundle has its own
collection, and a second run indexes nothing. Environment: VITASCOPE_BUNDLE (another model), DEMO_PORT (default 8000;
any free port if it is in use), DEMO_EXIT=1 (exit after the tour, as without a terminal).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from demo.scenes import write_videos
from demo.tour import tour
from vitascope.bundle.bundle import Bundle
from vitascope.cli.options import DEFAULT_COLLECTION, default_bundle
from vitascope.client import Client
from vitascope.errors import VitascopeError

HOME = Path(".demo")
HOST = "127.0.0.1"


def main() -> int:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    started_at = time.monotonic()
    # SIGTERM ends the service as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bundle = Bundle.open(default_bundle())
        console.print(f"[bold]model[/bold]   {bundle.manifest.name} {bundle.manifest.version} in {bundle.folder}")
        videos = write_videos(HOME / "videos")
        console.print(f"[bold]videos[/bold]  {len(videos)} in {HOME / 'videos'}")
        settings = _settings(bundle, videos[0].parent)
        status = _vitascope(settings, "index", str(HOME / "videos"), "--collection", DEFAULT_COLLECTION)
        if status != 0:
            return status
        with _service(settings) as (server, client):
            console.print(f"[bold]service[/bold] [green]{client.url}[/green]")
            tour(client, console)
            console.print(f"\n[dim]{time.monotonic() - started_at:.1f} s since the start[/dim]")
            if sys.stdout.isatty() and not os.environ.get("DEMO_EXIT"):
                console.print(f"The service stays at [green]{client.url}[/green]. Ctrl-C ends it.")
                return server.wait()
    except VitascopeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.print("\nended")
    return 0


def _settings(bundle: Bundle, videos: Path) -> dict[str, str]:
    """Return the environment of the commands."""
    data = HOME / f"data-{bundle.fingerprint[:12]}"
    return {
        **os.environ,
        "VITASCOPE_BUNDLE": str(bundle.folder.resolve()),
        "VITASCOPE_DATA_DIR": str(data.resolve()),
        # The page plays the files in this folder.
        "VITASCOPE_ALLOWED_ROOTS": json.dumps([str(videos.resolve())]),
    }


def _vitascope(settings: dict[str, str], *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "vitascope", *arguments], env=settings, check=False).returncode


@contextlib.contextmanager
def _service(settings: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Run the service in its own process; yield it when it is ready."""
    port = _free_port(int(os.environ.get("DEMO_PORT", "8000")))
    log = HOME / "serve.log"
    command = [sys.executable, "-m", "vitascope", "serve", "--no-keys", "--host", HOST, "--port", str(port)]
    with log.open("wb") as sink, Client(f"http://{HOST}:{port}") as client:
        server = subprocess.Popen(command, env=settings, stdout=sink, stderr=sink)
        try:
            try:
                client.wait_until_ready(300.0, alive=lambda: server.poll() is None)
            except VitascopeError:
                print(log.read_text(errors="replace"), file=sys.stderr)
                raise
            yield server, client
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def _free_port(preferred: int) -> int:
    """Return the preferred port if it is free, else another free port."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            free: int = probe.getsockname()[1]
            return free
    raise VitascopeError(f"port: no free port on {HOST}")


if __name__ == "__main__":
    raise SystemExit(main())
