"""Which files of stored videos a service opens, and that it closes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.descriptors import open_below
from tests.index.jobs.fixtures import ingest_file
from tests.service.running import Running, problem_of
from tests.waiting import wait_for
from vitascope.model import Model


def test_files_outside_the_allowed_folders_are_listed_and_not_read(
    running: Running, collection: str, files: Path, small_model: Model
) -> None:
    """As `vitascope index` puts it into a collection that a service opens later."""
    client = running.client
    ingest_file(running.service.collection(collection), small_model, files / "red.mp4")
    found = client.post(f"/v1/collections/{collection}/search", json={"text": "a red thing"}).json()["results"][0]
    about = {"collection": collection, "video_id": found["video"]["id"]}
    for answer in (
        client.get(found["media_url"]),
        client.get(found["thumbnail_url"]),
        client.post("/v1/caption-scores", json={**about, "captions": ["a red thing"]}),
        client.post("/v1/answers", json={**about, "question": "what colour is it?"}),
    ):
        problem = problem_of(answer, 403, "path_forbidden")
        assert "'red.mp4' lies outside the folders" in problem["detail"]
        assert "VITASCOPE_ALLOWED_ROOTS" in problem["detail"]
        assert str(files) not in problem["detail"]


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
