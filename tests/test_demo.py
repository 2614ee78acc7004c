"""The demonstration: from nothing to three answers, and a second start that finds everything done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.scenes import write_videos
from vitascope.media.probe import probe

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0


def start_demo(folder: Path, bundle: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "VITASCOPE_BUNDLE": str(bundle),
        "DEMO_PORT": "0",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "demo"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_demo_shows_all_three_tasks_and_does_its_work_once(tmp_path: Path, small_bundle: Path) -> None:
    first = start_demo(tmp_path, small_bundle)
    out = first.communicate(timeout=PATIENCE)[0]
    assert first.returncode == 0, out
    assert re.search(r"service\s+http://127\.0\.0\.1:\d+", out)
    assert "12 added, 0 skipped" in out
    for heading in ("search", "score", "ask"):
        assert re.search(rf"^{heading}  ", out, flags=re.MULTILINE), out
    assert "red-square-moves-left" in out
    videos = {path: path.stat().st_mtime_ns for path in (tmp_path / ".demo" / "videos").iterdir()}

    second = start_demo(tmp_path, small_bundle)
    out = second.communicate(timeout=PATIENCE)[0]
    assert second.returncode == 0, out
    assert "0 added, 12 skipped" in out
    assert {path: path.stat().st_mtime_ns for path in videos} == videos


def test_demo_without_a_model_says_so_in_one_line(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, tmp_path / "no-bundle")
    out = demo.communicate(timeout=PATIENCE)[0]
    assert demo.returncode == 2
    assert out.count("\n") == 1
    assert "no-bundle" in out


def test_ending_the_demo_ends_its_service(tmp_path: Path, small_bundle: Path) -> None:
    demo = start_demo(tmp_path, small_bundle)
    assert demo.stdout is not None
    address = next(found for line in demo.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=PATIENCE)
    log = (tmp_path / ".demo" / "serve.log").read_text()
    assert f":{address.group(1)}" in log
    assert "Finished server process" in log


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_videos(tmp_path_factory.mktemp("videos")))


def test_the_demonstration_videos_are_a_dozen_different_h264_clips(videos: list[Path]) -> None:
    assert len({path.read_bytes() for path in videos}) == len(videos) == 12
    for path in videos:
        info = probe(path)
        assert (info.kind, info.codec, info.width, info.height) == ("video", "h264", 320, 180)
        assert info.duration == pytest.approx(3.0, abs=0.1)


def test_making_them_again_gives_the_same_bytes(videos: list[Path], tmp_path: Path) -> None:
    """So that a collection recognises them by their content."""
    for before, after in zip(videos, write_videos(tmp_path), strict=True):
        assert before.read_bytes() == after.read_bytes()
