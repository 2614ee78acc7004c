"""Uploads and videos over HTTP: indexed once by a job, listed in pages, played in ranges, deleted with their files."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from service.http.parsing import async_wait_seconds
from tests.index.jobs.fixtures import ingest_file
from tests.media_files import (
    moving_shot,
    solid,
    write_animation,
    write_counter_video,
    write_picture,
    write_subtitled_video,
    write_truncated,
    write_video,
)
from tests.service.jobs import finished_job, start_job
from tests.service.raw_http import connect, post_request
from tests.service.running import JSON, Running, problem_of
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client
from vitascope.errors import MediaError

ASYNC = {"Prefer": "respond-async"}
HALVES = {"segmentation": '{"rule": "windows", "length": 0.5}'}
RUNS_BEFORE_BLOCK = 3
"""Runs of the model for ``long_video``, of eight."""


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 16 s in four colours: 32 clips of half a second, in four batches."""
    colors = [(220, 10, 10), (10, 200, 10), (10, 10, 220), (200, 200, 10)]
    frames = [solid(color) for color in colors for _ in range(40)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, rate=10)


@pytest.fixture
def truncated_video(tmp_path: Path) -> Path:
    whole = write_counter_video(tmp_path / "whole.mkv", 250, gop=1)
    return write_truncated(whole, tmp_path / "half.mkv", 0.3)


@pytest.fixture
def release_model(monkeypatch: pytest.MonkeyPatch, running: Running) -> Iterator[Callable[[], None]]:
    """Block the model in the middle of ``long_video`` until the function is called."""
    engine = running.service.model._graphs.engine("video")  # type: ignore[attr-defined]
    run, released, runs = engine.run, threading.Event(), itertools.count(1)

    def block(inputs: JSON) -> object:
        assert next(runs) <= RUNS_BEFORE_BLOCK or released.wait(PATIENCE)
        return run(inputs)

    monkeypatch.setattr(engine, "run", block)
    yield released.set
    released.set()


def upload(
    running: Running,
    collection: str,
    file: Path | bytes,
    name: str = "film.mp4",
    headers: dict[str, str] | None = None,
    **fields: str,
) -> httpx.Response:
    """Upload a file under its own name, or content under ``name``."""
    form = {"file": (name, file) if isinstance(file, bytes) else (file.name, file.read_bytes())}
    return running.client.post(f"/v1/collections/{collection}/videos", files=form, data=fields, headers=headers)


def job_url(response: httpx.Response) -> str:
    """Return the URL of the job that continues an upload."""
    assert response.status_code == 202, response.text
    assert response.headers["preference-applied"] == "respond-async"
    url = response.headers["location"]
    assert url.endswith(f"/jobs/{response.json()['id']}")
    return url


def jobs_of(running: Running, collection: str) -> list[JSON]:
    jobs: list[JSON] = running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"]
    return jobs


def finished_item(running: Running, url: str) -> JSON:
    """Return the only item of a job, after the job has finished."""
    finished_job(running.client, url)
    [item] = running.client.get(f"{url}/items").json()["items"]
    return item  # type: ignore[no-any-return]


def media_files(running: Running, collection: str) -> list[Path]:
    """Return the media files of a collection, and uploads that are being received."""
    data = running.settings.data_dir
    folders = (data / "collections" / collection / "media", data / "uploads")
    return [file for folder in folders for file in folder.rglob("*") if file.is_file()]


def test_an_upload_is_stored_and_listed(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    response = upload(running, collection, data, 'a/b\\Red "one".MOV', metadata='{"year": 2024, "wild": true}')
    assert response.status_code == 201
    video = response.json()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (video["title"], video["content_sha256"], video["media_type"]) == ('Red "one"', sha256, "video/mp4")
    assert (video["duration"], video["width"], video["height"], video["clips"]) == (2.0, 96, 64, 1)
    assert video["metadata"] == {"year": 2024, "wild": True}
    detail = running.client.get(response.headers["location"]).json()
    assert [(s["start"], s["end"]) for s in detail.pop("spans")] == [(0.0, 2.0)]
    assert video.pop("notes") == []
    assert detail == video
    [file] = media_files(running, collection)
    assert (file.suffix, file.read_bytes()) == (".mp4", data)


def test_the_same_content_at_once_is_one_video(running: Running, collection: str, files: Path) -> None:
    data = (files / "blue.mp4").read_bytes()
    responses: list[httpx.Response] = []

    def send() -> None:
        url = f"{running.client.base_url}/v1/collections/{collection}/videos"
        responses.append(httpx.post(url, files={"file": ("blue.mp4", data)}, timeout=PATIENCE))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(response.status_code for response in responses) == [200] * 5 + [201]
    assert len({response.json()["id"] for response in responses}) == 1
    assert len(media_files(running, collection)) == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"metadata": "{"}, "metadata"),
        ({"metadata": "[1]"}, "metadata"),
        ({"metadata": '{"a": [1]}'}, "metadata.a"),
        ({"metadata": '{"a": NaN}'}, "metadata"),
        ({"metadata": '{"title": "reserved"}'}, "invalid_input"),
        ({"metadata": '{"a": 9223372036854775808}'}, "invalid_input"),
        ({"metadata": json.dumps({str(n): n for n in range(100)})}, "invalid_input"),
        ({"metadata": '{"%s": 1}' % ("k" * 1000)}, "invalid_input"),
        ({"title": "x" * 501}, "title"),
        ({"colour": "red"}, "colour"),
        ({"segmentation": "shots"}, "segmentation"),
        ({"segmentation": '{"rule": "scenes"}'}, "segmentation"),
        ({"segmentation": '{"rule": "shots", "longest": 0.1}'}, "segmentation.longest"),
        ({"segmentation": '{"rule": "shots", "length": 5}'}, "segmentation.length"),
        ({"segmentation": '{"rule": "shots", "shortest": 9, "longest": 10}'}, "invalid_input"),
        ({"segmentation": '{"rule": "windows", "length": 5, "overlap": 4.9}'}, "segmentation"),
        ({"segmentation": '{"rule": "windows", "language": "English!"}'}, "invalid_input"),
    ],
)
def test_invalid_form_fields_are_named_and_nothing_is_stored(
    running: Running, collection: str, files: Path, fields: dict[str, str], problem: str
) -> None:
    response = upload(running, collection, files / "red.mp4", **fields)
    if problem == "invalid_input":
        problem_of(response, 422, "invalid_input")
    else:
        errors = problem_of(response, 422, "validation_failed")["errors"]
        assert any(error["field"].startswith(problem) for error in errors), errors
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0
    assert jobs_of(running, collection) == []
    assert media_files(running, collection) == []


PART = "--x\r\nContent-Disposition: form-data"
FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("text/plain", "{}", 415, "content_type_unsupported"),
        ("application/json", "{}", 422, "validation_failed"),
        ("video/mp4", "video", 415, "content_type_unsupported"),
        ("multipart/form-data", "--x", 415, "content_type_unsupported"),
        (FORM, "", 400, "bad_request"),
        (FORM, "no boundary at all", 400, "bad_request"),
        (FORM, f"{PART}\r\n\r\na\r\n--x--\r\n", 400, "bad_request"),
        (FORM, f'{PART}; name="title"\r\n\r\na\r\n--x--\r\n', 422, "validation_failed"),
        (FORM, f'{PART}; name="file"; filename="a.mp4"\r\n\r\nhalf a fi', 400, "bad_request"),
        (FORM, f'{PART}; name="file"\r\n\r\nno file\r\n--x--\r\n', 422, "validation_failed"),
        (FORM, f'{PART}; name="title"\r\n\r\n\xff\r\n--x--\r\n', 422, "validation_failed"),
    ],
)
def test_a_body_that_is_no_upload_is_rejected(
    running: Running, collection: str, content_type: str, body: str, status: int, code: str
) -> None:
    path, headers = f"/v1/collections/{collection}/videos", {"content-type": content_type}
    response = running.client.post(path, content=body.encode("latin-1"), headers=headers)
    problem_of(response, status, code)
    assert media_files(running, collection) == []


def test_a_second_file_or_a_repeated_field_is_rejected(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    path = f"/v1/collections/{collection}/videos"
    twice = running.client.post(path, files=[("file", ("a.mp4", data)), ("file", ("b.mp4", data))])
    assert problem_of(twice, 422, "validation_failed")["errors"][0]["field"] == "file"
    repeated = running.client.post(path, files={"file": ("a.mp4", data)}, data={"title": ["a", "b"]})
    assert problem_of(repeated, 422, "validation_failed")["errors"][0]["field"] == "title"


def test_a_large_upload_is_rejected_by_its_header_and_while_it_is_received(running: Running, collection: str) -> None:
    limit = running.settings.max_video_bytes
    by_header = upload(running, collection, b"\0" * (limit + 2_000_000), "large.mp4")
    detail = problem_of(by_header, 413, "payload_too_large")["detail"]
    assert detail.startswith("Content-Length: ")
    assert detail.endswith("bytes were expected (VITASCOPE_MAX_VIDEO_BYTES)")
    # Under the limit of the whole form, over that of the file.
    streamed = upload(running, collection, b"\0" * (limit + 1), "large.mp4")
    assert problem_of(streamed, 413, "payload_too_large")["detail"].startswith(f"file: more than {limit} bytes")
    long_field = upload(running, collection, b"\0", "a.mp4", title="x" * 300_000)
    assert problem_of(long_field, 413, "payload_too_large")["detail"].startswith("title: more than")
    assert media_files(running, collection) == []


def test_an_upload_without_space_on_the_disk_is_rejected_before_it_is_received(
    running: Running, collection: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 256 * 1024**2 + 100_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    response = upload(running, collection, b"\0" * 1_000_000, "large.mp4")
    detail = problem_of(response, 507, "storage_error")["detail"]
    assert f"the disk of the service has {free} bytes free" in detail
    assert "(VITASCOPE_MIN_FREE_BYTES)" in detail
    path, headers = f"/v1/collections/{collection}/videos", ("Content-Type: multipart/form-data; boundary=x",)
    part = 'Content-Disposition: form-data; name="file"; filename="large.mp4"'
    chunked = iter((f"--x\r\n{part}\r\n\r\n".encode(), *[b"\0" * 500_000] * 8, b"\r\n--x--\r\n"))
    response = running.client.post(path, content=chunked, headers={"content-type": "Multipart/Form-Data; boundary=x"})
    problem_of(response, 507, "storage_error")
    assert upload(running, collection, (files / "red.mp4").read_bytes(), "red.mp4").status_code == 201
    # What others that are being received will take counts as well.
    with closing(connect(running.client, post_request(path, b"", *headers, length=90_000))):
        wait_for(lambda: running.service.media.reserved_bytes == 90_000)
        problem_of(upload(running, collection, b"\0" * 20_000, "second.mp4"), 507, "storage_error")
    wait_for(lambda: running.service.media.reserved_bytes == 0)
    assert len(media_files(running, collection)) == 1


def test_pages_of_videos_have_no_gaps_or_repetitions(running: Running, colors: str) -> None:
    path = f"/v1/collections/{colors}/videos"
    first = running.client.get(path).json()
    assert [v["title"] for v in first["videos"]] == ["red", "green"]  # the page size of these tests is 2
    second = running.client.get(path, params={"cursor": first["next_cursor"]}).json()
    assert [v["title"] for v in second["videos"]] == ["blue"]
    assert second["next_cursor"] is None
    whole = running.client.get(path, params={"limit": 3}).json()
    assert (len(whole["videos"]), whole["next_cursor"]) == (3, None)
    # A cursor stays valid if the videos before it are deleted.
    running.client.delete(f"{path}/{first['videos'][1]['id']}")
    assert running.client.get(path, params={"cursor": first["next_cursor"]}).json() == second


def test_videos_are_filtered(running: Running, palette: str) -> None:
    path = f"/v1/collections/{palette}/videos"
    response = running.client.get(path, params={"filter": '{"number": {"gte": 1}}'}).json()
    assert [v["title"] for v in response["videos"]] == ["green", "blue"]
    problem_of(running.client.get(path, params={"filter": "{"}), 422, "invalid_filter")
    problem_of(running.client.get(path, params={"filter": '{"number": {"above": 1}}'}), 422, "invalid_filter")


@pytest.mark.parametrize("cursor", ["x", "eyJhZnRlciI6", "bnVsbA", "eyJhZnRlciI6ICJhIn0", "é", "e30"])
def test_an_invalid_cursor_is_rejected(running: Running, collection: str, cursor: str) -> None:
    for kind in ("videos", "jobs"):
        response = running.client.get(f"/v1/collections/{collection}/{kind}", params={"cursor": cursor})
        problem_of(response, 400, "bad_request")


def test_a_page_size_beyond_the_limit_is_rejected(running: Running, collection: str) -> None:
    path = f"/v1/collections/{collection}/videos"
    problem_of(running.client.get(path, params={"limit": 0}), 422, "validation_failed")
    assert "200" in problem_of(running.client.get(path, params={"limit": 201}), 422, "invalid_input")["detail"]


@pytest.mark.parametrize("video_id", ["0", "99", "abc", "9" * 5000, "-1", "1.0", "²"])
def test_an_unknown_video_is_not_found(running: Running, palette: str, video_id: str) -> None:
    for rest in ("", "/media", "/thumbnail"):
        path = f"/v1/collections/{palette}/videos/{video_id}{rest}"
        problem_of(running.client.get(path), 404, "video_not_found")
    problem_of(running.client.delete(f"/v1/collections/{palette}/videos/{video_id}"), 404, "video_not_found")


def test_a_deleted_video_is_gone_with_its_file(running: Running, colors: str) -> None:
    path = f"/v1/collections/{colors}/videos"
    red = running.client.get(path).json()["videos"][0]
    before = set(media_files(running, colors))
    assert running.client.delete(f"{path}/{red['id']}").status_code == 204
    assert (len(before), len(before - set(media_files(running, colors)))) == (3, 1)
    problem_of(running.client.get(f"{path}/{red['id']}"), 404, "video_not_found")
    response = running.client.post(f"/v1/collections/{colors}/search", json={"text": "a red thing"})
    assert {result["video"]["title"] for result in response.json()["results"]} == {"green", "blue"}


def test_an_upload_is_segmented_and_each_clip_has_a_thumbnail(
    running: Running, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [solid(color) for color in ((220, 10, 10), (10, 200, 10), (10, 10, 220)) for _ in range(10)]
    data = write_video(tmp_path / "film.mp4", frames, rate=10).read_bytes()
    response = upload(running, collection, data, "film.mp4", segmentation='{"rule": "shots", "shortest": 0.5}')
    assert (response.status_code, response.json()["notes"]) == (201, [])
    spans = running.client.get(response.headers["location"]).json()["spans"]
    assert [(span["start"], span["end"]) for span in spans] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    decoded_again = "a stored thumbnail was decoded again"
    monkeypatch.setattr(running.service.decoding, "run", lambda *_: pytest.fail(decoded_again))
    for channel, span in enumerate(spans):
        picture = running.client.get(span["thumbnail_url"])
        pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
        assert int(pixels.mean(axis=(0, 1)).argmax()) == channel


def test_notes_of_an_upload_describe_its_subtitles(running: Running, collection: str, tmp_path: Path) -> None:
    late = [("mov_text", "eng", [(0.0, 1.0, "A red thing."), (5.0, 6.0, "Too late.")])]
    data = write_subtitled_video(tmp_path / "a.mp4", [solid((220, 10, 10))] * 20, late).read_bytes()
    video = upload(running, collection, data, "talk.mp4", segmentation='{"rule": "subtitles"}').json()
    [note] = video["notes"]
    assert note.startswith("talk.mp4, subtitle stream 1: 1 of 2 cues begin after the end of the video (2.00 s)")
    data = write_video(tmp_path / "b.mp4", [solid((10, 10, 220))] * 20, rate=10).read_bytes()
    video = upload(running, collection, data, "b.mp4", segmentation='{"rule": "subtitles"}').json()
    assert video["notes"] == ["no subtitles; cut into windows of 8 s"]


def test_an_edited_film_is_cut_into_shots_unless_its_segmentation_is_given(
    running: Running, collection: str, tmp_path: Path
) -> None:
    frames = [frame for seed, count in enumerate((30, 60, 40)) for frame in moving_shot(seed, count)]
    data = write_video(tmp_path / "film.mp4", frames, rate=10).read_bytes()
    video = upload(running, collection, data, "film.mp4").json()
    assert (video["clips"], video["notes"]) == (3, ["edited; cut at its shots into 3 clips"])
    assert running.client.delete(f"/v1/collections/{collection}/videos/{video['id']}").status_code == 204
    video = upload(running, collection, data, "film.mp4", segmentation='{"rule": "windows"}').json()
    assert (video["clips"], video["notes"]) == (2, [])


def test_media_supports_range_requests(running: Running, palette: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    path = running.client.get(f"/v1/collections/{palette}/videos").json()["videos"][0]["media_url"]
    whole = running.client.get(path)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert "sandbox" in whole.headers["content-security-policy"]
    for byte_range, part in (("10-19", data[10:20]), ("100-", data[100:]), ("-50", data[-50:])):
        response = running.client.get(path, headers={"range": f"bytes={byte_range}"})
        assert (response.status_code, response.content) == (206, part)
        assert response.headers["content-range"].endswith(f"/{len(data)}")
    head = running.client.head(path)
    assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(data))
    beyond = running.client.get(path, headers={"range": f"bytes={len(data)}-"})
    problem_of(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"].endswith(f"*/{len(data)}")
    for ignored in ("lines=1-2", "bytes=5-2", "bytes", "bytes=x-y"):  # no ranges of bytes: RFC 9110, section 14.2
        response = running.client.get(path, headers={"range": ignored})
        assert (response.status_code, response.content) == (200, data)


def test_a_missing_file_is_reported_and_restored_by_another_upload(running: Running, colors: str, files: Path) -> None:
    red = running.client.get(f"/v1/collections/{colors}/videos").json()["videos"][0]
    data = (files / "red.mp4").read_bytes()
    [file] = [file for file in media_files(running, colors) if file.read_bytes() == data]
    file.unlink()
    problem_of(running.client.get(red["media_url"]), 404, "media_missing")
    assert running.client.get(red["thumbnail_url"]).status_code == 200, "the middle of a clip, whose frame is stored"
    other = running.client.get(red["thumbnail_url"].partition("?")[0], params={"t": 0.01})
    problem_of(other, 404, "media_missing")
    assert upload(running, colors, files / "red.mp4").json() == {**red, "notes": []}
    assert running.client.get(red["media_url"]).content == data
    assert running.client.delete(f"/v1/collections/{colors}/videos/{red['id']}").status_code == 204


def test_an_upload_replaces_a_missing_file_that_was_indexed_in_place(
    running: Running, collection: str, files: Path, tmp_path: Path
) -> None:
    data, library = (files / "red.mp4").read_bytes(), running.service.library
    file = tmp_path / "red.mp4"
    file.write_bytes(data)
    known = ingest_file(library.open(collection), running.service.model, file, title="in place").video
    file.unlink()
    response = upload(running, collection, files / "red.mp4")
    video = response.json()
    assert (response.status_code, video["id"], video["title"]) == (200, str(known.id), "in place")
    assert (video["path"], video["missing"]) == (None, False)
    assert running.client.get(video["media_url"]).content == data


def test_a_thumbnail_is_the_frame_at_that_second(running: Running, collection: str, tmp_path: Path) -> None:
    frames = [solid(color, 640, 320) for color in ((220, 10, 10), (10, 10, 220))]
    file = write_animation(tmp_path / "two.webp", frames, [1000, 1000])
    video = upload(running, collection, file).json()
    path = f"/v1/collections/{collection}/videos/{video['id']}/thumbnail"
    for second, channel in (("0.5", 0), ("1.5", 2), ("99", 2)):
        response = running.client.get(path, params={"t": second})
        assert response.headers["content-type"] == "image/jpeg"
        pixels = np.asarray(Image.open(io.BytesIO(response.content)))
        assert pixels.shape == (160, 320, 3)
        assert int(pixels.mean(axis=(0, 1)).argmax()) == channel
        tag = {"if-none-match": response.headers["etag"]}
        assert running.client.get(path, params={"t": second}, headers=tag).status_code == 304
    for second in ("-1", "nan", "inf", "x"):
        problem_of(running.client.get(path, params={"t": second}), 422, "validation_failed")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp"])
def test_a_picture_is_a_video_of_one_frame(running: Running, collection: str, tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"red.{suffix}", solid((220, 10, 10)))
    video = upload(running, collection, path.read_bytes(), path.name).json()
    assert (video["duration"], video["clips"]) == (0.0, 1)
    assert video["media_type"] == f"image/{suffix.replace('jpg', 'jpeg')}"
    response = running.client.post(f"/v1/collections/{collection}/search", json={"text": "a red thing"}).json()
    assert (response["results"][0]["start"], response["results"][0]["end"]) == (0.0, 0.0)
    assert "#" not in response["results"][0]["media_url"]


def test_a_long_upload_continues_as_a_job_and_becomes_the_same_video(
    running: Running, collection: str, long_video: Path, release_model: Callable[[], None]
) -> None:
    client = running.client
    # Without respond-async nothing is stored, and the error suggests it.
    late = upload(running, collection, long_video, headers={"X-Request-Timeout": "0.5"}, **HALVES)
    assert "Prefer: respond-async" in problem_of(late, 504, "deadline_exceeded")["detail"]
    assert media_files(running, collection) == []
    states = {job["state"] for job in jobs_of(running, collection)}
    assert states <= {"cancelled"}  # there is no job if the deadline passed before the file was probed
    fields = {"title": "A long one", "metadata": '{"year": 2024, "wild": true}', **HALVES}
    wait_briefly = {"Prefer": "respond-async, wait=1"}
    response = upload(running, collection, long_video, headers=wait_briefly, **fields)
    url = job_url(response)
    release_model()
    source = {"kind": "upload", "file": "film.mp4", "title": "A long one"}
    assert (response.json()["source"], response.json()["metadata"]) == (source, {"year": 2024, "wild": True})
    item = finished_item(running, url)
    assert (item["state"], item["path"], item["reason"]) == ("succeeded", "film.mp4", None)
    video = client.get(f"/v1/collections/{collection}/videos/{item['video_id']}").json()
    media = client.get(video["media_url"])
    assert (media.content, media.headers["content-type"]) == (long_video.read_bytes(), "video/mp4")
    # A request that waits gives the same video.
    other = f"{collection}-other"
    assert client.post("/v1/collections", json={"name": other}).status_code == 201
    waited = upload(running, other, long_video, **fields)
    assert waited.status_code == 201
    same = client.get(waited.headers["location"]).json()
    own = {"id", "added_at", "media_url", "thumbnail_url", "spans"}
    assert {k: v for k, v in video.items() if k not in own} == {k: v for k, v in same.items() if k not in own}
    assert [(s["start"], s["end"]) for s in video["spans"]] == [(s["start"], s["end"]) for s in same["spans"]]
    # Known content is not indexed again.
    for headers in (wait_briefly, {}):
        again = upload(running, collection, long_video, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, video["id"])
    assert len(media_files(running, collection)) == 1


@pytest.mark.parametrize("headers", [{}, {"Prefer": f"wait={PATIENCE:.0f}, Respond-Async"}])
def test_a_short_upload_is_answered_with_the_video_of_its_job(
    running: Running, collection: str, files: Path, headers: dict[str, str]
) -> None:
    response = upload(running, collection, files / "red.mp4", headers=headers, metadata='{"n": 1}')
    assert (response.status_code, response.json()["title"]) == (201, "red")
    [job] = jobs_of(running, collection)
    assert (job["state"], job["source"]) == ("succeeded", {"kind": "upload", "file": "red.mp4", "title": "red"})
    item = finished_item(running, f"/v1/collections/{collection}/jobs/{job['id']}")
    assert (item["state"], item["video_id"]) == ("succeeded", response.json()["id"])
    # Known content is the same video, without a job.
    content = (files / "red.mp4").read_bytes()
    again = upload(running, collection, content, "again.mp4", headers, metadata='{"n": 2}')
    assert (again.status_code, again.json()) == (200, response.json())
    assert len(jobs_of(running, collection)) == len(media_files(running, collection)) == 1


def test_a_file_that_is_no_video_is_rejected_without_a_job(running: Running, collection: str, files: Path) -> None:
    text = b"Dear reader, this is no video."
    problem = problem_of(upload(running, collection, text, "letter.mp4", ASYNC), 415, "media_unsupported")
    assert problem["detail"].startswith("letter.mp4")
    unknown = upload(running, f"{collection}-gone", files / "red.mp4", headers=ASYNC)
    problem_of(unknown, 404, "collection_not_found")
    assert jobs_of(running, collection) == []
    assert media_files(running, collection) == []


def test_a_corrupt_upload_fails_under_its_name_and_its_file_is_removed(
    running: Running, collection: str, truncated_video: Path
) -> None:
    problem = problem_of(upload(running, collection, truncated_video), 422, "media_corrupt")
    assert problem["detail"].startswith("half.mkv: ")
    [job] = jobs_of(running, collection)
    item = finished_item(running, f"/v1/collections/{collection}/jobs/{job['id']}")
    assert (item["state"], item["reason"]) == ("failed", problem["detail"])
    url = job_url(upload(running, collection, truncated_video.read_bytes(), "my/Holiday film.avi", ASYNC))
    item = finished_item(running, url)
    assert (item["state"], item["path"], item["video_id"]) == ("failed", "Holiday film.avi", None)
    assert item["reason"].startswith("Holiday film.avi: ")
    wait_for(lambda: media_files(running, collection) == [])
    problem = problem_of(running.client.post(f"{url}/retry"), 409, "conflict")
    assert "upload it again: Holiday film.avi" in problem["detail"]


def test_the_file_of_an_upload_stays_until_its_job_ends(
    running: Running, collection: str, long_video: Path, release_jobs: Callable[[], None]
) -> None:
    client = running.client
    first, second = (job_url(upload(running, collection, long_video, headers=ASYNC, **HALVES)) for _ in range(2))
    assert client.post(f"{second}/pause").json()["state"] == "paused"
    assert len(media_files(running, collection)) == 2
    assert client.delete(second).json()["state"] == "cancelled"
    assert len(media_files(running, collection)) == 1
    wait_for(lambda: client.get(first).json()["counts"]["running"] == 1)
    assert client.delete(first).json()["requested"] == "cancel"
    release_jobs()
    # The file in progress is finished nevertheless, and the video keeps its file.
    item = finished_item(running, first)
    assert (item["state"], len(media_files(running, collection))) == ("succeeded", 1)


def test_uploads_do_not_wait_for_folder_jobs(
    running: Running, collection: str, incoming: Path, long_video: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, blocked = threading.Event(), threading.Event()
    embed = running.service.model.embed_video

    def block_first(*args: object, **options: object) -> object:
        if not blocked.is_set():
            blocked.set()
            assert released.wait(PATIENCE)
        return embed(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(running.service.model, "embed_video", block_first)
    (incoming / "red.mp4").write_bytes((files / "red.mp4").read_bytes())
    folder = start_job(running.client, collection, incoming)
    try:
        assert blocked.wait(PATIENCE)
        url = job_url(upload(running, collection, long_video, headers=ASYNC))
        assert finished_item(running, url)["state"] == "succeeded"
        assert running.client.get(folder).json()["state"] == "running"
    finally:
        released.set()
    assert finished_job(running.client, folder)["state"] == "succeeded"


def test_the_same_content_in_two_jobs_is_one_video_with_one_file(
    running: Running, collection: str, long_video: Path, release_jobs: Callable[[], None]
) -> None:
    headers = {**ASYNC, "Idempotency-Key": f"{collection}-once"}
    first = upload(running, collection, long_video, headers=headers)
    repeated = upload(running, collection, long_video, headers=headers)
    assert (repeated.status_code, repeated.headers["idempotency-replayed"]) == (202, "true")
    assert repeated.headers["location"] == first.headers["location"]
    other = job_url(upload(running, collection, long_video, headers=ASYNC))
    assert other != first.headers["location"]
    release_jobs()
    items = [finished_item(running, url) for url in (job_url(first), other)]
    assert [item["state"] for item in items] == ["succeeded", "skipped"]
    assert len({item["video_id"] for item in items}) == 1
    wait_for(lambda: len(media_files(running, collection)) == 1)


def test_the_client_waits_for_the_jobs_of_uploads(
    running: Running,
    collection: str,
    long_video: Path,
    truncated_video: Path,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitascope.client._sync.videos.SYNC_WAIT_SECONDS", 0)  # every upload is a long one
    options = {"title": "Long", "metadata": {"year": 2024}, "segmentation": {"rule": "subtitles"}}
    with Client(str(running.client.base_url)) as client:
        added = client.add_video(collection, long_video, **options)  # type: ignore[arg-type]
        video = client.get_video(collection, added["id"])
        notes = ["no subtitles; cut into windows of 8 s"]
        assert added == {**{name: value for name, value in video.items() if name != "spans"}, "notes": notes}
        assert (added["title"], added["metadata"], added["clips"]) == ("Long", {"year": 2024}, 2)
        assert client.add_video(collection, long_video)["id"] == added["id"]
        with pytest.raises(MediaError, match=r"^half\.mkv: "):
            client.add_video(collection, truncated_video)
        job = client.submit_video(collection, files / "red.mp4")
        assert "state" in job
        assert client.wait_for_job(collection, job["id"])["counts"]["succeeded"] == 1
        assert client.submit_video(collection, files / "red.mp4")["title"] == "red"


def test_the_client_keeps_file_names_that_forms_cannot_transmit(
    running: Running, collection: str, files: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'north\\gate\n50%22 "a".mp4'
    path.symlink_to(files / "red.mp4")
    with Client(str(running.client.base_url)) as client:
        assert client.add_video(collection, path)["title"] == path.stem


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=5"], None),
        (["return=minimal"], None),
        (["respond-async"], 0.0),
        (["Respond-Async; why=not, WAIT=20"], 20.0),
        (["respond-async", 'wait="7"'], 7.0),
        (["wait=3, respond-async, wait=9"], 3.0),
        (["respond-async, wait=soon"], 0.0),
        (["respond-async, wait=-1"], 0.0),
        (['because="a, respond-async, wait=5"'], None),
        (["", ",,", '"', "respond-async"], 0.0),
    ],
)
def test_the_prefer_header_is_parsed(headers: list[str], seconds: float | None) -> None:
    assert async_wait_seconds(headers) == seconds
