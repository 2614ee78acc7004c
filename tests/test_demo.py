"""The demonstration and the default bundle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from demo.scenes import write_videos
from tests.sockets import reserved_port
from tests.waiting import wait_for
from vitascope.bundle.bundle import Bundle
from vitascope.media.decode import probe
from vitascope.model import Model

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0


@contextmanager
def demo(folder: Path, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the demonstration in ``folder``."""
    with reserved_port() as port:
        environment = {
            **os.environ,
            "VITASCOPE_BUNDLE": str(bundle),
            "DEMO_PORT": f"{port}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "demo"]
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as started:
            yield started


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> tuple[Path, str]:
    """Return the folder of a complete first run, and its output."""
    folder = tmp_path_factory.mktemp("demo")
    with demo(folder, small_bundle) as first:
        out = first.communicate(timeout=PATIENCE)[0]
    assert first.returncode == 0, out
    return folder, out


def test_demo_shows_all_three_tasks(shown: tuple[Path, str]) -> None:
    out = shown[1]
    assert re.search(r"service\s+http://127\.0\.0\.1:\d+", out)
    assert "12 added, 0 skipped" in out
    for heading in ("search", "score", "ask"):
        assert re.search(rf"^{heading}  ", out, flags=re.MULTILINE), out
    assert "red-square-moves-left" in out


def test_a_second_run_reuses_everything_and_stops_its_service(shown: tuple[Path, str], small_bundle: Path) -> None:
    folder = shown[0]
    videos = {path: path.stat().st_mtime_ns for path in (folder / ".demo" / "videos").iterdir()}
    lines: list[str] = []
    with demo(folder, small_bundle) as second:
        assert second.stdout is not None
        for line in second.stdout:
            lines.append(line)
            if address := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=PATIENCE)
    assert "0 added, 12 skipped" in "".join(lines)
    assert {path: path.stat().st_mtime_ns for path in videos} == videos
    log = folder / ".demo" / "serve.log"
    assert f":{address.group(1)}" in log.read_text()
    wait_for(lambda: "Finished server process" in log.read_text())  # it may end last


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with demo(tmp_path, tmp_path / "no-bundle") as started:
        out = started.communicate(timeout=PATIENCE)[0]
    assert started.returncode == 2
    assert out.count("\n") == 1
    assert "no-bundle" in out


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
LARGEST = 50 * 1024 * 1024  # bytes


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(BUNDLE, threads=1)


def test_the_default_bundle_is_intact_small_and_documented() -> None:
    manifest = Bundle.open(BUNDLE).manifest
    assert set(manifest.tasks) == {"retrieval", "matching", "answering"}
    assert sum(entry.bytes for entry in manifest.files.values()) <= LARGEST
    card = (BUNDLE / manifest.model_card).read_text()
    for corpus in ("Flickr8k", "DAQUAR"):
        assert corpus.lower() in card.lower()
    assert manifest.metrics


def test_the_default_bundle_finds_the_demonstration_videos(model: Model, tmp_path: Path) -> None:
    paths = write_videos(tmp_path)
    videos = np.concatenate([model.embed_file(path).vectors for path in paths])
    queries = model.embed_text([f"a {path.stem.replace('-', ' ')}" for path in paths])
    first = (queries @ videos.T).argmax(axis=1)
    assert (first == np.arange(len(paths))).sum() >= len(paths) // 2  # chance is 1 of 12
