"""Whoever may write to an allowed folder cannot have the service read what lies elsewhere, at whatever moment a link is
put in the place of a file.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.chaos import rounds
from tests.exchanging import exchanging
from tests.media_files import mean_color, write_color_video
from tests.service.conftest import COLORS, settings_for
from tests.service.jobs import finished_job
from tests.service.running import Running, problem_of, serving

_numbers = itertools.count()


class Shelf(NamedTuple):
    """A collection with one red film that lies in an allowed folder, and a blue one in a folder that is not allowed."""

    service: Running
    address: str
    """Of the video."""
    film: Path
    secret: Path


@pytest.fixture(scope="module")
def library(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A service with two allowed folders, and where they are. One is allowed by the name of a link to it."""
    top = tmp_path_factory.mktemp("library")
    for name in ("named", "linked"):
        (top / name).mkdir()
    (top / "link").symlink_to("linked")
    with serving(settings_for(small_bundle, top / "data", allowed_roots=[top / "named", top / "link"])) as service:
        yield service, top


@pytest.fixture(params=["named", "linked"])
def shelf(library: tuple[Running, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    service, root = library[0], library[1] / request.param
    name = f"shelf-{next(_numbers)}"
    (root / name).mkdir()
    film = write_color_video(root / name / "film.mp4", COLORS["red"])
    secret = write_color_video(tmp_path / "film.mp4", COLORS["blue"])
    service.client.post("/v1/collections", json={"name": name}).raise_for_status()
    answer = service.client.post(f"/v1/collections/{name}/jobs", json={"folder": str(root / name)})
    assert finished_job(service.client, answer.headers["location"])["counts"]["succeeded"] == 1
    return Shelf(service, f"/v1/collections/{name}/videos/1", film, secret)


def test_a_link_in_the_place_of_a_file_of_a_linked_folder_shows_nothing(shelf: Shelf) -> None:
    client = shelf.service.client
    assert client.get(f"{shelf.address}/media").content == shelf.film.read_bytes()
    shelf.film.unlink()
    shelf.film.symlink_to(shelf.secret)
    for rest in ("media", "thumbnail?t=0.7"):
        problem_of(client.get(f"{shelf.address}/{rest}"), 403, "path_forbidden")
    body = {"collection": shelf.address.split("/")[3], "video_id": "1", "captions": ["a blue thing"]}
    problem_of(client.post("/v1/caption-scores", json=body), 403, "path_forbidden")


def a_file(shelf: Shelf) -> tuple[Path, Path]:
    link = shelf.film.with_name("link.mp4")
    link.symlink_to(shelf.secret)
    return shelf.film, link


def a_folder(shelf: Shelf) -> tuple[Path, Path]:
    link = shelf.film.parent.with_name(f"{shelf.film.parent.name}-link")
    link.symlink_to(shelf.secret.parent)
    return shelf.film.parent, link


def media(shelf: Shelf) -> httpx.Response:
    return shelf.service.client.get(f"{shelf.address}/media")


def part_of_media(shelf: Shelf) -> httpx.Response:
    """From the first byte on: so that what is seen is known."""
    return shelf.service.client.get(f"{shelf.address}/media", headers={"Range": "bytes=0-"})


def thumbnail(shelf: Shelf) -> httpx.Response:
    return shelf.service.client.get(f"{shelf.address}/thumbnail", params={"t": 0.7})


@pytest.mark.parametrize("exchanged", [a_file, a_folder])
@pytest.mark.parametrize(("ask", "many"), [(media, 2_500), (part_of_media, 2_500), (thumbnail, 500)])
def test_no_answer_during_an_exchange_shows_what_lies_elsewhere(
    shelf: Shelf,
    exchanged: Callable[[Shelf], tuple[Path, Path]],
    ask: Callable[[Shelf], httpx.Response],
    many: int,
) -> None:
    own, secret = shelf.film.read_bytes(), shelf.secret.read_bytes()

    def shown(answer: httpx.Response) -> str:
        if answer.status_code not in (200, 206):
            assert answer.status_code in (403, 404), answer.text
            return "nothing"
        if answer.headers["content-type"] == "image/jpeg":
            red, _, blue = mean_color(answer.content)
            return "own" if red > blue else "secret"
        return {own: "own", secret: "secret"}[answer.content]

    counts: Counter[str] = Counter()
    with exchanging(*exchanged(shelf)):
        while counts.total() < rounds(many // 50, many) or not counts["own"] or len(counts) < 2:
            counts[shown(ask(shelf))] += 1
    print(f"\n{ask.__name__} while {exchanged.__name__} is exchanged: {dict(counts)}")
    assert not counts["secret"], counts
