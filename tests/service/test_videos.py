"""Videos over HTTP: uploaded once, listed in pages, played in ranges, deleted with their files."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.media_files import solid, write_animation, write_picture, write_subtitled_video, write_video
from tests.service.running import Running, problem_of


def upload(running: Running, collection: str, name: str, data: bytes, **fields: str) -> httpx.Response:
    return running.client.post(f"/v1/collections/{collection}/videos", files={"file": (name, data)}, data=fields)


def stored_file(running: Running, collection: str, content_sha256: str) -> Path:
    """The media file of this content that the collection owns."""
    media = running.settings.data_dir / "collections" / collection / "media"
    [file] = [file for file in media.iterdir() if hashlib.sha256(file.read_bytes()).hexdigest() == content_sha256]
    return file


def test_an_upload_is_stored_and_listed(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    answer = upload(running, collection, "a/b\\Red one.MOV", data, metadata='{"year": 2024, "wild": true}')
    assert answer.status_code == 201
    video = answer.json()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (video["title"], video["content_sha256"], video["media_type"]) == ("Red one", sha256, "video/mp4")
    assert (video["duration"], video["width"], video["height"], video["clips"]) == (2.0, 96, 64, 1)
    assert video["metadata"] == {"year": 2024, "wild": True}
    detail = running.client.get(answer.headers["location"]).json()
    assert [(s["start"], s["end"]) for s in detail.pop("spans")] == [(0.0, 2.0)]
    assert video.pop("notes") == []
    assert detail == video
    assert stored_file(running, collection, sha256).suffix == ".mp4"


def test_the_same_content_again_is_the_same_video(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    first = upload(running, collection, "first.mp4", data, metadata='{"n": 1}')
    again = upload(running, collection, "again.mp4", data, metadata='{"n": 2}')
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 1


def test_the_same_content_at_once_is_one_video(running: Running, collection: str, files: Path) -> None:
    data = (files / "blue.mp4").read_bytes()
    answers: list[httpx.Response] = []

    def send() -> None:
        url = f"{running.client.base_url}/v1/collections/{collection}/videos"
        answers.append(httpx.post(url, files={"file": ("blue.mp4", data)}, timeout=60))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(list((running.settings.data_dir / "collections" / collection / "media").iterdir())) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"metadata": "{"}, "metadata"),
        ({"metadata": "[1]"}, "metadata"),
        ({"metadata": '{"a": [1]}'}, "metadata.a"),
        ({"title": "x" * 501}, "title"),
        ({"colour": "red"}, "colour"),
        ({"segmentation": "shots"}, "segmentation"),
        ({"segmentation": '{"rule": "scenes"}'}, "segmentation"),
        ({"segmentation": '{"rule": "shots", "longest": 0.1}'}, "segmentation.shots.longest"),
        ({"segmentation": '{"rule": "shots", "length": 5}'}, "segmentation.shots.length"),
        ({"segmentation": '{"rule": "windows", "length": 5, "overlap": 4.9}'}, "segmentation.windows"),
    ],
)
def test_invalid_form_fields_are_named(
    running: Running, collection: str, files: Path, fields: dict[str, str], field: str
) -> None:
    answer = upload(running, collection, "red.mp4", (files / "red.mp4").read_bytes(), **fields)
    problem = problem_of(answer, 422, "validation_failed")
    assert any(e["field"].startswith(field) for e in problem["errors"]), problem
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0


def test_invalid_metadata_is_rejected(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    for metadata in (
        '{"title": "reserved"}',
        '{"a": 9223372036854775808}',
        json.dumps({str(n): n for n in range(100)}),
    ):
        problem_of(upload(running, collection, "red.mp4", data, metadata=metadata), 422, "invalid_input")
    problem_of(upload(running, collection, "red.mp4", data, metadata='{"a": NaN}'), 422, "validation_failed")
    assert list((running.settings.data_dir / "collections" / collection / "media").iterdir()) == []


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("text/plain", b"{}", 415, "content_type_unsupported"),
        ("application/json", b"{}", 422, "validation_failed"),
        ("video/mp4", b"video", 415, "content_type_unsupported"),
        ("multipart/form-data", b"--x", 415, "content_type_unsupported"),
        ("multipart/form-data; boundary=x", b"", 400, "bad_request"),
        ("multipart/form-data; boundary=x", b"no boundary at all", 400, "bad_request"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
            400,
            "bad_request",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\na\r\n--x--\r\n',
            422,
            "validation_failed",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\nhalf a fi',
            400,
            "bad_request",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nno file\r\n--x--\r\n',
            422,
            "validation_failed",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\n\xff\r\n--x--\r\n',
            422,
            "validation_failed",
        ),
    ],
)
def test_a_body_that_is_no_upload_is_rejected(
    running: Running, collection: str, content_type: str, body: bytes, status: int, code: str
) -> None:
    answer = running.client.post(
        f"/v1/collections/{collection}/videos", content=body, headers={"content-type": content_type}
    )
    problem_of(answer, status, code)
    assert list(running.service.media.uploads.iterdir()) == []


def test_a_second_file_or_a_repeated_field_is_rejected(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    path = f"/v1/collections/{collection}/videos"
    twice = running.client.post(path, files=[("file", ("a.mp4", data)), ("file", ("b.mp4", data))])
    assert problem_of(twice, 422, "validation_failed")["errors"][0]["field"] == "file"
    repeated = running.client.post(path, files={"file": ("a.mp4", data)}, data={"title": ["a", "b"]})
    assert problem_of(repeated, 422, "validation_failed")["errors"][0]["field"] == "title"


def test_a_large_upload_is_rejected_by_its_header_and_while_it_is_received(running: Running, collection: str) -> None:
    limit = running.settings.max_upload_bytes
    by_header = upload(running, collection, "large.mp4", b"\0" * (limit + 2_000_000))
    assert "Content-Length" in problem_of(by_header, 413, "payload_too_large")["detail"]
    # Under the limit of the whole form, over that of the file.
    streamed = upload(running, collection, "large.mp4", b"\0" * (limit + 1))
    assert problem_of(streamed, 413, "payload_too_large")["detail"].startswith("file: more than 2000000 bytes")
    long_field = upload(running, collection, "a.mp4", b"\0", title="x" * 300_000)
    assert problem_of(long_field, 413, "payload_too_large")["detail"].startswith("title: more than")
    assert list(running.service.media.uploads.iterdir()) == []


def test_pages_of_videos_have_no_gaps_or_repetitions(running: Running, colors: str) -> None:
    path = f"/v1/collections/{colors}/videos"
    first = running.client.get(path).json()
    assert [v["title"] for v in first["videos"]] == ["red", "green"]  # the page size of these tests is 2
    second = running.client.get(path, params={"cursor": first["next_cursor"]}).json()
    assert [v["title"] for v in second["videos"]] == ["blue"]
    assert second["next_cursor"] is None
    whole = running.client.get(path, params={"limit": 3}).json()
    assert (len(whole["videos"]), whole["next_cursor"]) == (3, None)
    # A page goes on where it stopped although what it showed is gone.
    running.client.delete(f"{path}/{first['videos'][1]['id']}")
    assert running.client.get(path, params={"cursor": first["next_cursor"]}).json() == second


def test_videos_are_filtered(running: Running, palette: str) -> None:
    path = f"/v1/collections/{palette}/videos"
    found = running.client.get(path, params={"filter": '{"number": {"gte": 1}}'}).json()
    assert [v["title"] for v in found["videos"]] == ["green", "blue"]
    problem_of(running.client.get(path, params={"filter": "{"}), 422, "invalid_filter")
    problem_of(running.client.get(path, params={"filter": '{"number": {"above": 1}}'}), 422, "invalid_filter")


@pytest.mark.parametrize("cursor", ["x", "eyJhZnRlciI6", "bnVsbA", "eyJhZnRlciI6ICJhIn0", "é", "e30"])
def test_an_invalid_cursor_is_rejected(running: Running, collection: str, cursor: str) -> None:
    for what in ("videos", "jobs"):
        answer = running.client.get(f"/v1/collections/{collection}/{what}", params={"cursor": cursor})
        problem_of(answer, 400, "bad_request")


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
    kept = stored_file(running, colors, red["content_sha256"])
    assert running.client.delete(f"{path}/{red['id']}").status_code == 204
    assert not kept.exists()
    problem_of(running.client.get(f"{path}/{red['id']}"), 404, "video_not_found")
    found = running.client.post(f"/v1/collections/{colors}/search", json={"text": "a red thing"}).json()["results"]
    assert {r["video"]["title"] for r in found} == {"green", "blue"}


def test_an_upload_is_segmented_and_each_clip_has_a_thumbnail(
    running: Running, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [solid(color) for color in ((220, 10, 10), (10, 200, 10), (10, 10, 220)) for _ in range(10)]
    data = write_video(tmp_path / "film.mp4", frames, rate=10).read_bytes()
    answer = upload(running, collection, "film.mp4", data, segmentation='{"rule": "shots", "shortest": 0.5}')
    assert (answer.status_code, answer.json()["notes"]) == (201, [])
    spans = running.client.get(answer.headers["location"]).json()["spans"]
    assert [(span["start"], span["end"]) for span in spans] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    decoded_again = "a picture that is kept was decoded again"
    monkeypatch.setattr(running.service.decoding, "run", lambda *_: pytest.fail(decoded_again))
    for channel, span in enumerate(spans):
        picture = running.client.get(span["thumbnail_url"])
        pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
        assert int(pixels.mean(axis=(0, 1)).argmax()) == channel


def test_notes_of_an_upload_describe_its_subtitles(running: Running, collection: str, tmp_path: Path) -> None:
    late = [("mov_text", "eng", [(0.0, 1.0, "A red thing."), (5.0, 6.0, "Too late.")])]
    data = write_subtitled_video(tmp_path / "a.mp4", [solid((220, 10, 10))] * 20, late).read_bytes()
    video = upload(running, collection, "mine.mp4", data, segmentation='{"rule": "subtitles"}').json()
    [note] = video["notes"]
    assert note.startswith("mine.mp4, subtitle stream 1: 1 of 2 cues begin after the end of the video (2.00 s)")
    data = write_video(tmp_path / "b.mp4", [solid((10, 10, 220))] * 20, rate=10).read_bytes()
    video = upload(running, collection, "b.mp4", data, segmentation='{"rule": "subtitles"}').json()
    assert video["notes"] == ["no subtitles; cut into windows of 8 s"]


def test_a_contradictory_segmentation_is_rejected(running: Running, collection: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    for asked in ('{"rule": "shots", "shortest": 9, "longest": 10}', '{"rule": "windows", "language": "English!"}'):
        problem_of(upload(running, collection, "red.mp4", data, segmentation=asked), 422, "invalid_input")
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0


def test_media_supports_range_requests(running: Running, palette: str, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    path = running.client.get(f"/v1/collections/{palette}/videos").json()["videos"][0]["media_url"]
    whole = running.client.get(path)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert "sandbox" in whole.headers["content-security-policy"]
    for asked, part in (("10-19", data[10:20]), ("100-", data[100:]), ("-50", data[-50:])):
        answer = running.client.get(path, headers={"range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{len(data)}")
    head = running.client.head(path)
    assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(data))


def test_an_impossible_range_is_a_problem(running: Running, palette: str, files: Path) -> None:
    size = (files / "red.mp4").stat().st_size
    path = running.client.get(f"/v1/collections/{palette}/videos").json()["videos"][0]["media_url"]
    beyond = running.client.get(path, headers={"range": f"bytes={size}-"})
    problem_of(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"].endswith(f"*/{size}")
    problem_of(running.client.get(path, headers={"range": "lines=1-2"}), 400, "bad_request")


def test_a_missing_file_is_reported_and_restored_by_another_upload(running: Running, colors: str, files: Path) -> None:
    red = running.client.get(f"/v1/collections/{colors}/videos").json()["videos"][0]
    stored_file(running, colors, red["content_sha256"]).unlink()
    problem_of(running.client.get(red["media_url"]), 404, "media_missing")
    problem_of(running.client.get(red["thumbnail_url"]), 404, "media_missing")
    data = (files / "red.mp4").read_bytes()
    assert upload(running, colors, "red.mp4", data).json() == {**red, "notes": []}
    assert running.client.get(red["media_url"]).content == data
    assert running.client.delete(f"/v1/collections/{colors}/videos/{red['id']}").status_code == 204


def test_a_thumbnail_is_the_frame_at_that_second(running: Running, collection: str, tmp_path: Path) -> None:
    frames = [solid(color, 640, 320) for color in ((220, 10, 10), (10, 10, 220))]
    path = write_animation(tmp_path / "two.webp", frames, [1000, 1000])
    video = upload(running, collection, "two.webp", path.read_bytes()).json()
    address = f"/v1/collections/{collection}/videos/{video['id']}/thumbnail"
    for second, channel in (("0.5", 0), ("1.5", 2), ("99", 2)):
        answer = running.client.get(address, params={"t": second})
        assert answer.headers["content-type"] == "image/jpeg"
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert pixels.shape == (160, 320, 3)
        assert int(pixels.mean(axis=(0, 1)).argmax()) == channel
        tag = {"if-none-match": answer.headers["etag"]}
        assert running.client.get(address, params={"t": second}, headers=tag).status_code == 304
    for second in ("-1", "nan", "inf", "x"):
        problem_of(running.client.get(address, params={"t": second}), 422, "validation_failed")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp"])
def test_a_picture_is_a_video_of_one_frame(running: Running, collection: str, tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"red.{suffix}", solid((220, 10, 10)))
    video = upload(running, collection, path.name, path.read_bytes()).json()
    assert (video["duration"], video["clips"]) == (0.0, 1)
    assert video["media_type"] == f"image/{suffix.replace('jpg', 'jpeg')}"
    found = running.client.post(f"/v1/collections/{collection}/search", json={"text": "a red thing"}).json()
    assert (found["results"][0]["start"], found["results"][0]["end"]) == (0.0, 0.0)
    assert "#" not in found["results"][0]["media_url"]
