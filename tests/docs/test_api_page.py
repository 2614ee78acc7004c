"""docs/api.md: of today's interface, and every example in it works on a real service."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from service.http_client.client import SafeClient
from service.http_client.url_policy import UrlPolicy
from service.settings import Settings
from tests.docs.api_examples import EXAMPLES, IDS, example_of
from tests.docs.api_page import PAGE, SERVER, UPDATE, VERSION, curls, operations, page
from tests.docs.pages import Block
from tests.docs.reader import CURL, prepare, write_small_model
from tests.docs.terminal import Terminal
from tests.media_files import write_color_video
from tests.service.running import serving
from tests.service.test_openapi import document
from tests.tools import find_tool
from tests.waiting import wait_for
from vitascope.client import Client

ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"


def test_the_page_is_of_todays_interface() -> None:
    assert PAGE.read_text("utf-8") == page(), f"if the change is meant: {UPDATE}"


def test_examples_are_of_operations_that_are_there() -> None:
    assert set(EXAMPLES) <= {f"{method} {path}" for method, path, _ in operations(document())}


def test_every_example_works(tmp_path: Path) -> None:
    """Each with curl and with the client, as printed but for ids; what it needs is made before."""
    find_tool("curl")
    problems = []
    with answering(tmp_path) as (terminal, world):
        for method, path, _ in operations(document()):
            example, made = example_of(method, path), document()
            shown = [("console", f"$ {curl}\n") for curl in curls(made, method, path, IDS)]
            for language, text in [*shown, *([("python", example.python + "\n")] if example.python else [])]:
                before = dict(world)
                exec(terminal.relocate(example.before), before)
                ids = {name: str(before[name]) for name in IDS if name in before and name != "name"}
                problems += terminal.run(Block(f"{method} {path}", 1, language, _with(text, ids), ""))
                exec(terminal.relocate(example.after), before)
    assert problems == [], "\n\n".join(problems)


def _with(text: str, ids: dict[str, str]) -> str:
    """``text`` with the ids that the test has in place of those on the page."""
    for name, value in ids.items():
        text = re.sub(rf"(?<=[/\"]){re.escape(IDS[name])}(?=[/\"?\s])", value, text)
    return text


def _client(*ports: int) -> SafeClient:
    """The way to other hosts, all of which are this machine."""
    policy = UrlPolicy(schemes=frozenset({"http", "https"}), ports=frozenset(ports))
    return SafeClient(policy, resolve=lambda host: [IPv4Address("127.0.0.1")], address_filter=lambda address: None)


@contextmanager
def answering(folder: Path) -> Iterator[tuple[Terminal, dict[str, Any]]]:
    """A terminal, and names for what is run before and after an example, at a service with keys and a small model."""
    prepare(folder)
    write_small_model(folder / "srv" / "models" / "hd-vila-tiny-1", 0, "hd-vila-tiny", "1")
    write_small_model(folder / "srv" / "models" / "hd-vila-tiny-2", 9, "hd-vila-tiny", "2")
    write_color_video(folder / "long.mp4", (200, 20, 20), 21.0, rate=8)
    with (folder / "home" / ".curlrc").open("a") as file:
        file.write(f'{CURL}header = "X-API-Key: {ADMIN}"\n')
    with ExitStack() as stack:
        never = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # takes connections and says nothing
        slow = never.getsockname()[1]
        settings = Settings(
            bundle=folder / "srv" / "models" / "hd-vila-tiny-1",
            bundles_root=folder / "srv" / "models",
            data_dir=folder / "data",
            allowed_roots=[folder / "videos"],
            admin_key=ADMIN,
            url_fetch="on",
            url_fetch_schemes=["https", "http"],
            url_fetch_ports=[443, slow],
            webhooks="on",
            decode_processes=1,
            shutdown_delay=0.0,
            max_operations=100,
            threads=1,
            device="cpu",
            port=0,
            log_level="error",
        )
        running = stack.enter_context(serving(settings, url_client=_client(443, slow)))
        url = running.client.base_url
        client = stack.enter_context(Client(str(url), api_key=ADMIN))

        def holidays() -> None:
            """The collection with videos 1 to 3, of which the first has more than 41 clips."""
            if "holidays" in [each["name"] for each in client.list_collections()["collections"]]:
                client.delete_collection("holidays")
            client.create_collection("holidays")
            cut = {"rule": "windows", "length": 0.5, "shortest": 0.25}
            client.add_video("holidays", folder / "long.mp4", segmentation=cut, metadata={"year": 2024})
            for name in ("beach.mp4", "dog.mp4"):
                client.add_video("holidays", folder / "checkout" / name, metadata={"year": 2024})

        def settled(job_id: str) -> None:
            wait_for(lambda: client.get_job("holidays", job_id)["state"] == "cancelled")

        holidays()
        world = {
            "client": client,
            "default": client.list_models()["models"][0]["fingerprint"],
            "holidays": holidays,
            "settled": settled,
            "SLOW_URL": f"http://media.example:{slow}/beach.mp4",
        }
        terminal = Terminal(folder, url.port or 0, {"client": client})
        stack.callback(terminal.close)
        terminal.run(Block("api", 1, "console", f"$ export V={SERVER}{VERSION}\n", ""))
        yield terminal, world
