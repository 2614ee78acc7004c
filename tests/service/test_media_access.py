"""Stored files: only files in allowed folders are read, even if links replace them, and all are closed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.chaos import rounds
from tests.file_system import exchanging, open_below
from tests.index.jobs.fixtures import ingest_file
from tests.media_files import mean_color, write_color_video
from tests.service.conftest import COLORS, settings_for
from tests.service.running import Running, problem_of, serving
from tests.waiting import wait_for
from vitascope.model import Model

_numbers = itertools.count()


class IndexedVideo(NamedTuple):
    """A red video in an allowed folder that is indexed, and a blue one in a folder that is not allowed."""

    service: Running
    url: str
    file: Path
    secret: Path

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.service.client.get(f"{self.url}/{path}", headers=headers)


@pytest.fixture(scope="module")
def roots(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A service with two allowed folders, one of them a link, and their parent."""
    top = tmp_path_factory.mktemp("roots")
    for name in ("named", "linked"):
        (top / name).mkdir()
    (top / "link").symlink_to("linked")
    with serving(settings_for(small_bundle, top / "data", allowed_roots=[top / "named", top / "link"])) as service:
        yield service, top


@pytest.fixture(params=["named", "linked"])
def video(roots: tuple[Running, Path], tmp_path: Path, request: pytest.FixtureRequest) -> IndexedVideo:
    service, root = roots[0], roots[1] / request.param
    name = f"films-{next(_numbers)}"
    (root / name).mkdir()
    file = write_color_video(root / name / "film.mp4", COLORS["red"])
    secret = write_color_video(tmp_path / "film.mp4", COLORS["blue"])
    service.client.post("/v1/collections", json={"name": name}).raise_for_status()
    job = service.client.post(f"/v1/collections/{name}/jobs", json={"folder": str(root / name)}).headers["location"]
    wait_for(lambda: service.client.get(job).json()["state"] == "succeeded")
    return IndexedVideo(service, f"/v1/collections/{name}/videos/1", file, secret)


def test_a_link_in_place_of_an_indexed_file_is_not_followed(video: IndexedVideo) -> None:
    assert video.get("media").content == video.file.read_bytes()
    video.file.unlink()
    video.file.symlink_to(video.secret)
    for path in ("media", "thumbnail?t=0.7"):
        problem_of(video.get(path), 403, "path_forbidden")
    body = {"collection": video.url.split("/")[3], "video_id": "1", "captions": ["a blue thing"]}
    problem_of(video.service.client.post("/v1/caption-scores", json=body), 403, "path_forbidden")


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(
    ("path", "headers", "count"),
    [("media", {}, 2_500), ("media", {"Range": "bytes=0-"}, 2_500), ("thumbnail?t=0.7", {}, 500)],
    ids=["media", "range", "thumbnail"],
)
def test_no_response_contains_a_file_outside_the_folders_while_links_are_swapped(
    video: IndexedVideo, is_folder: bool, path: str, headers: dict[str, str], count: int
) -> None:
    own, target = (file.parent if is_folder else file for file in (video.file, video.secret))
    link = own.with_name(f"{own.name}-link")
    link.symlink_to(target)
    contents = {video.file.read_bytes(): "own", video.secret.read_bytes(): "secret"}

    def source_of(response: httpx.Response) -> str:
        if response.status_code not in (200, 206):
            assert response.status_code in (403, 404), response.text
            return "nothing"
        if response.headers["content-type"] == "image/jpeg":
            red, _, blue = mean_color(response.content)
            return "own" if red > blue else "secret"
        return contents[response.content]

    counts: Counter[str] = Counter()
    with exchanging(own, link):
        while counts.total() < rounds(count // 100, count) or not counts["own"] or len(counts) < 2:
            counts[source_of(video.get(path, **headers))] += 1
    assert not counts["secret"], counts


def test_files_outside_the_allowed_folders_are_listed_and_not_read(
    running: Running, collection: str, files: Path, small_model: Model
) -> None:
    """`vitascope index` may have indexed such files before the service opened the collection."""
    client = running.client
    ingest_file(running.service.collection(collection), small_model, files / "red.mp4")
    hit = client.post(f"/v1/collections/{collection}/search", json={"text": "a red thing"}).json()["results"][0]
    reference = {"collection": collection, "video_id": hit["video"]["id"]}
    for response in (
        client.get(hit["media_url"]),
        client.get(hit["thumbnail_url"]),
        client.post("/v1/caption-scores", json={**reference, "captions": ["a red thing"]}),
        client.post("/v1/answers", json={**reference, "question": "what colour is it?"}),
    ):
        detail = problem_of(response, 403, "path_forbidden")["detail"]
        assert "'red.mp4' lies outside the folders" in detail
        assert "VITASCOPE_ALLOWED_ROOTS" in detail
        assert str(files) not in detail


def test_links_out_of_the_media_folder_are_not_followed(
    running: Running, collection: str, files: Path, tmp_path: Path
) -> None:
    with (files / "red.mp4").open("rb") as file:
        running.client.post(f"/v1/collections/{collection}/videos", files={"file": file}).raise_for_status()
    opened = running.service.collection(collection)
    owned = opened.media_path(opened.get_video(1))
    owned.rename(tmp_path / "red.mp4")
    for target, status, code in ((None, 404, "media_missing"), (tmp_path / "red.mp4", 403, "path_forbidden")):
        if target is not None:
            owned.symlink_to(target)
        problem_of(running.client.get(f"/v1/collections/{collection}/videos/1/media"), status, code)


@pytest.mark.parametrize(
    "headers", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=0-9,20-29"}, {"Range": "bytes=99999999-"}]
)
def test_no_file_stays_open_after_a_response(running: Running, palette: str, headers: dict[str, str]) -> None:
    media = running.service.collection(palette).media.folder
    address = f"/v1/collections/{palette}/videos/1"
    for method in ("GET", "HEAD"):
        running.client.request(method, f"{address}/media", headers=headers)
    etag = running.client.get(f"{address}/thumbnail", params={"t": 0.3}).headers["etag"]
    assert running.client.get(f"{address}/thumbnail?t=0.3", headers={"If-None-Match": etag}).status_code == 304
    with running.client.stream("GET", f"{address}/media"):
        pass  # the client goes before it has all
    wait_for(lambda: open_below(media) == [])


def test_browsers_revalidate_media_as_another_video_may_get_their_address(
    running: Running, collection: str, files: Path
) -> None:
    address = f"/v1/collections/{collection}/videos/1"
    paths = [f"{address}/{name}" for name in ("media", "thumbnail", "preview")]

    def add(name: str) -> None:
        with (files / name).open("rb") as file:
            running.client.post(f"/v1/collections/{collection}/videos", files={"file": file}).raise_for_status()

    def get_status(path: str, **headers: str) -> int:
        return running.client.get(path, headers={name.replace("_", "-"): headers[name] for name in headers}).status_code

    add("red.mp4")
    tags = {}
    for path in paths:
        response = running.client.get(path)
        tags[path] = response.headers["etag"]
        assert response.headers["cache-control"] == "private, no-cache"
        head = running.client.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(response.content)))
        for known in (tags[path], f"W/{tags[path]}", f'"other", {tags[path]}', "*"):
            assert get_status(path, if_none_match=known) == 304, (path, known)
    modified = running.client.get(paths[0]).headers["last-modified"]
    assert get_status(paths[0], if_modified_since=modified) == 304
    assert get_status(paths[0], if_modified_since="Thu, 01 Jan 1970 00:00:00 GMT") == 200
    running.client.delete(f"/v1/collections/{collection}")
    running.client.post("/v1/collections", json={"name": collection})
    add("blue.mp4")
    assert [get_status(path, if_none_match=tags[path]) for path in paths] == [200] * 3
