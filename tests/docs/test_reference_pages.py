"""Generated pages equal the code; examples of docs/api.md work on a real service; variables and metrics exist."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from service.http_client.client import SafeClient
from service.http_client.url_policy import UrlPolicy
from service.observability import METRICS
from service.settings import RENAMED, Settings
from tests.docs import api_page
from tests.docs.api_page import EXAMPLES, IDS, SERVER, VERSION, curls, example_of, operations
from tests.docs.pages import ROOT, Block
from tests.docs.reader import CURL, prepare, write_small_model
from tests.docs.reference_pages import OTHER_VARIABLES, PAGES, UPDATE
from tests.docs.terminal import Terminal
from tests.media_files import write_color_video
from tests.service.running import serving
from tests.service.test_openapi import document
from tests.tools import find_tool
from tests.vitascope.speech_models import make_speech_model
from tests.waiting import wait_for
from vitascope.client import Client

FOLDERS = ("service", "vitascope", "index", "docs")
FILES = ("Dockerfile", "SECURITY.md", "README.md")
OTHERS = {ROOT / "docs" / "upgrading.md", ROOT / "docs" / "deploy.md", ROOT / "docs" / "install.md"}
"""Pages that name former settings, and variables of docker-compose.yml."""


@pytest.mark.parametrize(
    ("path", "generate"), [*PAGES.items(), (api_page.PAGE, api_page.page)], ids=lambda value: getattr(value, "name", "")
)
def test_generated_pages_are_equal_to_the_code(path: Path, generate: Callable[[], str]) -> None:
    assert path.read_text("utf-8") == generate(), f"if the change is intended: {UPDATE}"


def test_every_setting_and_metric_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert [spec.name for spec in METRICS if not spec.description] == []


def test_every_variable_that_is_named_anywhere_exists() -> None:
    known = {f"VITASCOPE_{name.upper()}" for name in Settings.model_fields} | {name for name, _ in OTHER_VARIABLES}
    texts = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        texts += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".yml", ".js")]
    unknown = {
        (str(path.relative_to(ROOT)), name)
        for path in texts
        if path not in OTHERS
        for name in re.findall(r"VITASCOPE_[A-Z]+(?:_[A-Z]+)*\b(?!_)", path.read_text("utf-8"))
        if name not in known
    }
    assert unknown == set()


def test_every_metric_that_is_named_in_the_docs_exists() -> None:
    known = {spec.name for spec in METRICS}
    for page in ("operating.md", "jobs.md", "models.md", "deploy.md", "gpu.md"):
        for name in re.findall(r"`(vitascope_[a-z_]+)", (ROOT / "docs" / page).read_text("utf-8")):
            assert name.removesuffix("_total") in known, (page, name)


def test_renamed_settings_name_a_setting() -> None:
    assert set(RENAMED.values()) <= set(Settings.model_fields)
    assert not set(RENAMED) & set(Settings.model_fields)


ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"


def test_examples_are_of_existing_operations() -> None:
    assert set(EXAMPLES) <= {f"{method} {path}" for method, path, _ in operations(document())}


def test_every_example_works(tmp_path: Path) -> None:
    """With curl and with the client, as printed except for ids."""
    find_tool("curl")
    errors = []
    with api_terminal(tmp_path) as (terminal, setup_names):
        for method, path, _ in operations(document()):
            example = example_of(method, path)
            commands = [("console", f"$ {curl}\n") for curl in curls(document(), method, path, IDS)]
            for language, text in [*commands, *([("python", example.python + "\n")] if example.python else [])]:
                names = dict(setup_names)
                exec(terminal.relocate(example.before), names)
                ids = {name: str(names[name]) for name in IDS if name in names and name != "name"}
                errors += terminal.run(Block(f"{method} {path}", 1, language, _replace_ids(text, ids), ""))
                exec(terminal.relocate(example.after), names)
    assert errors == [], "\n\n".join(errors)


def _replace_ids(text: str, ids: dict[str, str]) -> str:
    for name, value in ids.items():
        text = re.sub(rf"(?<=[/\"]){re.escape(IDS[name])}(?=[/\"?\s])", value, text)
    return text


def _client(*ports: int) -> SafeClient:
    """Return an HTTP client for which every host is 127.0.0.1."""
    policy = UrlPolicy(schemes=frozenset({"http", "https"}), ports=frozenset(ports))
    return SafeClient(policy, resolve=lambda host: [IPv4Address("127.0.0.1")], address_filter=lambda address: None)


@contextmanager
def api_terminal(folder: Path) -> Iterator[tuple[Terminal, dict[str, Any]]]:
    """Yield a terminal and the Python names of ``before`` and ``after``, for a service with keys and a small model."""
    prepare(folder)
    write_small_model(folder / "srv" / "models" / "hd-vila-tiny-1", 0, "hd-vila-tiny", "1")
    write_small_model(folder / "srv" / "models" / "hd-vila-tiny-2", 9, "hd-vila-tiny", "2")
    write_color_video(folder / "long.mp4", (200, 20, 20), 21.0, rate=8)
    write_color_video(folder / "checkout" / "talk.mp4", (20, 20, 200), sound_seconds=2.0)
    with (folder / "home" / ".curlrc").open("a") as file:
        file.write(f'{CURL}header = "X-API-Key: {ADMIN}"\n')
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # accepts connections, never responds
        slow = silent.getsockname()[1]
        settings = Settings(
            bundle=folder / "srv" / "models" / "hd-vila-tiny-1",
            speech_model=str(make_speech_model(folder / "speech")),
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
            """Create the collection with videos 1 to 3, of which the first has more than 41 clips."""
            if "holidays" in [each["name"] for each in client.list_collections()["collections"]]:
                client.delete_collection("holidays")
            client.create_collection("holidays")
            segmentation = {"rule": "windows", "length": 0.5, "shortest": 0.25}
            client.add_video("holidays", folder / "long.mp4", segmentation=segmentation, metadata={"year": 2024})
            for name in ("beach.mp4", "dog.mp4"):
                client.add_video("holidays", folder / "checkout" / name, metadata={"year": 2024})

        def wait_until_cancelled(job_id: str) -> None:
            wait_for(lambda: client.get_job("holidays", job_id)["state"] == "cancelled")

        holidays()
        names = {
            "client": client,
            "default": client.list_models()["models"][0]["fingerprint"],
            "holidays": holidays,
            "wait_until_cancelled": wait_until_cancelled,
            "SLOW_URL": f"http://media.example:{slow}/beach.mp4",
        }
        terminal = Terminal(folder, url.port or 0, {"client": client})
        stack.callback(terminal.close)
        terminal.run(Block("api", 1, "console", f"$ export V={SERVER}{VERSION}\n", ""))
        yield terminal, names
