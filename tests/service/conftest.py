"""Services that tests share, and videos to upload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from tests.media_files import write_color_video
from tests.service.browsing import browser, enter, film, guarded, page  # noqa: F401
from tests.service.jobs import release_jobs  # noqa: F401
from tests.service.running import ADMIN, Running, serving
from tests.small_bundle import make_small_bundle
from tests.sockets import reserved_port
from tests.waiting import PATIENCE

COLORS = {"red": (220, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 220)}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """red.mp4, green.mp4 and blue.mp4: two seconds each."""
    folder = tmp_path_factory.mktemp("files")
    for name, color in COLORS.items():
        write_color_video(folder / f"{name}.mp4", color)
    return folder


DEFAULTS: dict[str, object] = {
    "allow_unauthenticated": True,
    "decode_processes": 1,  # each takes a moment to start
    "shutdown_delay": 0.0,
    "queue_timeout": PATIENCE,
    "max_pixels": 4096 * 2304,  # larger frames take long to write
}


def settings_for(bundle: Path, data: Path, **options: object) -> Settings:
    # Without any root, and without keys, a service reads all folders.
    options = DEFAULTS | {"allowed_roots": [data / "allowed"]} | options
    return Settings(bundle=bundle, data_dir=data, threads=1, device="cpu", port=0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def running(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("data"),
        max_video_bytes=9_000_000,
        max_body_bytes=300_000,
        max_captions=5,
        max_text_characters=500,
        max_list_columns=50,
        page_size=2,
        allowed_hosts=["search.example", "Portal.Example", "[fd00::5]"],
    )
    with serving(settings) as service:
        yield service


@pytest.fixture(scope="session")
def locked(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service that requires keys, with the collections `palette` and `other`; its client has the admin key."""
    settings = settings_for(
        small_bundle, tmp_path_factory.mktemp("locked"), allow_unauthenticated=False, admin_key=ADMIN
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        for name in ("palette", "other"):
            assert running.client.post("/v1/collections", json={"name": name}).status_code == 201
        fill(running, "palette", files)
        yield running


@pytest.fixture(scope="session")
def low_limits(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with a model of most tasks, limits below the defaults, and the collection `palette`."""
    tasks = ("retrieval", "matching", "answering", "moments", "captioning", "entailment")
    bundle = make_small_bundle(tmp_path_factory.mktemp("tasks"), tasks=tasks)
    limits = {"max_beams": 2, "max_answers": 2, "max_results": 2, "max_caption_clips": 2}
    with serving(settings_for(bundle, tmp_path_factory.mktemp("low"), **limits)) as running:
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@pytest.fixture
def collection(running: Running) -> str:
    """Name of a new, empty collection."""
    name = f"test-{next(_numbers)}"
    assert running.client.post("/v1/collections", json={"name": name}).status_code == 201
    return name


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is free until the test listens on it."""
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture
def incoming(running: Running, request: pytest.FixtureRequest) -> Path:
    """A new folder in `incoming`, which jobs may index."""
    folder: Path = running.settings.data_dir / "incoming" / f"{request.node.name}-{next(_numbers)}"
    folder.mkdir()
    return folder


@pytest.fixture
def colors(running: Running, collection: str, files: Path) -> str:
    """A collection with a red, a green and a blue video, with their color and a number as metadata."""
    fill(running, collection, files)
    return collection


@pytest.fixture(scope="session")
def palette(running: Running, files: Path) -> str:
    """A collection like ``colors``, for tests that do not change it."""
    assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
    fill(running, "palette", files)
    return "palette"


def fill(running: Running, collection: str, files: Path) -> None:
    for number, name in enumerate(COLORS):
        with (files / f"{name}.mp4").open("rb") as file:
            response = running.client.post(
                f"/v1/collections/{collection}/videos",
                files={"file": (f"{name}.mp4", file)},
                data={"metadata": f'{{"color": "{name}", "number": {number}}}'},
            )
        assert response.status_code == 201, response.text
