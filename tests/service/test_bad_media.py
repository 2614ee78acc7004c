"""Files that are no usable video: each gets a precise error, nothing stays behind, and the service goes on."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.media_files import (
    solid,
    write_audio_only,
    write_picture,
    write_png_header,
    write_truncated,
    write_video,
    write_without_frames,
)
from tests.service.running import Running, problem_of

Maker = Callable[[Path, Path], object]


def zipped(path: Path, files: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(files / "red.mp4", "red.mp4")


def large_video(path: Path, files: Path) -> None:
    options = {"preset": "ultrafast", "crf": "40"}
    write_video(path, [solid((220, 10, 10), 7680, 4320)], options=options, b_frames=0)


BAD: dict[str, tuple[str, Maker, int, str, str]] = {
    "empty": ("empty.mp4", lambda path, files: path.write_bytes(b""), 422, "media_corrupt", "empty"),
    "truncated": (
        "cut.mp4",
        lambda path, files: write_truncated(files / "red.mp4", path, 0.6),
        422,
        "media_corrupt",
        "",
    ),
    "zero frames": ("none.mp4", lambda path, files: write_without_frames(path), 422, "media_corrupt", ""),
    "1x1": ("dot.png", lambda path, files: write_picture(path, solid((1, 2, 3), 1, 1)), 422, "media_error", "1x1"),
    "8K video": ("8k.mp4", large_video, 413, "media_too_large", "7680x4320"),
    "8K picture": (
        "8k.png",
        lambda path, files: write_png_header(path, 7680, 4320),
        413,
        "media_too_large",
        "7680x4320",
    ),
    "audio only": ("song.mp4", lambda path, files: write_audio_only(path), 415, "media_unsupported", ""),
    "text": ("text.mp4", lambda path, files: path.write_text("a red thing\n" * 50), 415, "media_unsupported", "text"),
    "archive": ("archive.mp4", zipped, 415, "media_unsupported", "ZIP"),
    "noise": (
        "noise.mkv",
        lambda path, files: path.write_bytes(bytes(range(1, 256)) * 40),
        415,
        "media_unsupported",
        "",
    ),
    "page": ("page.png", lambda path, files: path.write_text("<svg onload='x()'/>"), 415, "media_unsupported", ""),
}


@pytest.fixture(params=BAD, scope="module")
def bad(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, files: Path
) -> tuple[Path, int, str, str]:
    name, make, status, code, word = BAD[request.param]
    path = tmp_path_factory.mktemp("bad") / name
    make(path, files)
    return path, status, code, word


def left_behind(running: Running, collection: str) -> list[Path]:
    data = running.settings.data_dir
    folders = [data / "uploads", data / "collections" / collection / "media"]
    return [path for folder in folders if folder.exists() for path in folder.iterdir()]


def test_a_bad_upload_is_rejected_with_the_reason(
    running: Running, palette: str, bad: tuple[Path, int, str, str]
) -> None:
    path, status, code, word = bad
    before = sorted(left_behind(running, palette))
    answer = running.client.post(f"/v1/collections/{palette}/videos", files={"file": (path.name, path.read_bytes())})
    detail = problem_of(answer, status, code)["detail"]
    assert detail.startswith(path.name)  # by the client's name, not by that of a temporary file
    assert word in detail
    assert sorted(left_behind(running, palette)) == before
    assert running.client.get("/readyz").status_code == 200
    found = running.client.post(f"/v1/collections/{palette}/search", json={"text": "a red thing", "limit": 1})
    assert found.json()["results"][0]["video"]["title"] == "red"


def test_scores_and_questions_about_a_bad_file_are_rejected(running: Running, bad: tuple[Path, int, str, str]) -> None:
    path, status, code, word = bad
    for route, fields in (("caption-scores", {"captions": "a"}), ("answers", {"question": "a"})):
        files = {"file": (path.name, path.read_bytes())}
        answer = running.client.post(f"/v1/{route}", files=files, data=fields)
        detail = problem_of(answer, status, code)["detail"]
        assert detail.startswith(path.name)
        assert word in detail
    assert list(running.service.media.uploads.iterdir()) == []


@pytest.mark.parametrize(("shown", "suffix"), [("red.gif", "mp4"), ("red.txt", "mp4"), ("red", "mp4")])
def test_the_content_of_a_file_decides_its_type(
    running: Running, collection: str, files: Path, shown: str, suffix: str
) -> None:
    data = (files / "red.mp4").read_bytes()
    answer = running.client.post(f"/v1/collections/{collection}/videos", files={"file": (shown, data)})
    assert answer.status_code == 201
    assert answer.json()["media_type"] == "video/mp4"
    kept = list((running.settings.data_dir / "collections" / collection / "media").iterdir())
    assert [path.suffix for path in kept] == [f".{suffix}"]


def test_an_internal_error_stores_nothing_and_a_retry_succeeds(
    running: Running, collection: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
    with monkeypatch.context() as patch:
        patch.setattr(running.service.model, "embed_video", fail)
        answer = running.client.post(f"/v1/collections/{collection}/videos", files=upload)
    problem_of(answer, 500, "internal_error")
    assert left_behind(running, collection) == []
    assert running.client.post(f"/v1/collections/{collection}/videos", files=upload).status_code == 201
