"""Screenshots of the page for the documentation.

    python -m tests.service.screenshots [FOLDER]

Runs a service with the default bundle and the demo videos, and opens the views of ``browsing.views`` in Chromium. PNG
files with 256 colors are written to FOLDER, by default docs/images.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from demo.scenes import write_videos
from tests.media_files import Pixels, write_color_video, write_video
from tests.service.browsing import ADMIN, views
from tests.service.conftest import settings_for
from tests.service.running import ROOT, Running, serving
from tests.tools import find_tool
from tests.waiting import wait_for
from training.data.scenes.world import FPS
from vitascope.cli.options import default_bundle

DESK, PHONE = {"width": 1280, "height": 820}, {"width": 390, "height": 780}
VARIANTS: dict[str, dict[str, Any]] = {
    "": {"viewport": DESK},
    "-dark": {"viewport": DESK, "color_scheme": "dark"},
    "-phone": {"viewport": PHONE, "is_mobile": True, "has_touch": True},
}
SCREENSHOTS = {"page", "page-dark", "page-phone", "clip", "jobs", "jobs-phone", "collections-dark", "keys"}
FILM = "a day at the square"  # all scenes as one video, for its timeline
SPOKEN = """1
00:00:04,000 --> 00:00:05,500
Has anyone seen the red square?

2
00:00:22,400 --> 00:00:23,900
There, the red one moves on, to the left.
"""
QUERY = "a red square moves left"
SECONDS_PER_CLIP = 0.6  # so that a job is still running on its screenshot
COLLECTION = "scenes"


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.gettempdir()) / "vitascope-pictures"  # screenshots show the paths of jobs
    shutil.rmtree(home, ignore_errors=True)
    data = settings_for(
        default_bundle(), home / "data", allow_unauthenticated=False, admin_key=ADMIN, allowed_roots=[home / "videos"]
    )
    try:
        sources = _videos(home / "videos")
        with serving(data) as running, sync_playwright() as playwright:
            _fill(running, sources)
            # root cannot use Chromium's sandbox; only this repository's page is opened
            browser = playwright.chromium.launch(
                executable_path=find_tool("chromium-headless-shell", "chromium"), args=["--no-sandbox"]
            )
            for variant, context in VARIANTS.items():
                if any(name.endswith(variant) for name in SCREENSHOTS):
                    for name, picture in _capture(running, browser, sources, variant, context):
                        _write(folder / f"{name}.png", picture)
            _write(folder / "timeline.png", _timeline(running, browser))
            browser.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


def _videos(home: Path) -> dict[str, Path]:
    """Write three folders: the demo videos with two broken files, one long video, and short camera videos."""
    scenes, camera, films = home / "scenes", home / "driveway", home / "films"
    write_videos(scenes)
    films.mkdir()
    frames = [frame for file in sorted(scenes.glob("*.mp4")) for frame in _frames(file)]
    write_video(films / f"{FILM}.mp4", frames, rate=FPS)
    (films / f"{FILM}.srt").write_text(SPOKEN)
    for name in ("shopping list.mp4", "old backup.mov"):
        (scenes / name).write_text("This is no video.")
    camera.mkdir()
    for number in range(12):
        write_color_video(camera / f"{number:02}.mp4", (90 + number, 96, 110), seconds=1.0)
    return {"scenes": scenes, "driveway": camera, "films": films}


def _frames(file: Path) -> Iterator[Pixels]:
    with av.open(str(file)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _fill(running: Running, sources: dict[str, Path]) -> None:
    client = running.client
    client.headers["x-api-key"] = ADMIN
    for name in ("driveway", "films", COLLECTION):
        client.post("/v1/collections", json={"name": name})
    _start_job(running, COLLECTION, sources["scenes"], wait=True)
    _start_job(running, "films", sources["films"], wait=True, segmentation={"rule": "windows", "length": 3})
    client.post("/v1/operations", json={"kind": "backup", "collection": COLLECTION})
    client.post("/v1/keys", json={"name": "the portal", "scopes": ["read"], "collections": [COLLECTION], "rate": 20})
    client.post("/v1/keys", json={"name": "driveway camera", "scopes": ["write"], "expires_in": 90 * 86400.0})


def _start_job(running: Running, collection: str, folder: Path, *, wait: bool = False, **options: Any) -> str:
    answer = running.client.post(f"/v1/collections/{collection}/jobs", json={"folder": str(folder), **options})
    address: str = answer.raise_for_status().headers["location"]
    if wait:
        wait_for(lambda: running.client.get(address).json()["state"] == "succeeded")
    return address


def _capture(
    running: Running, browser: Browser, sources: dict[str, Path], variant: str, context: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    opened = browser.new_context(base_url=str(running.client.base_url), reduced_motion="reduce", **context)
    page = opened.new_page()
    _enter(page, f"/?collection={COLLECTION}")
    live = ""  # path of the running job
    for view in views(page, QUERY, "what color is the square?"):
        if view == "jobs":
            live = _start_job(running, COLLECTION, sources["driveway"])
            _slow_down(running)
            page.reload()
            page.locator(".card .score").first.wait_for()
            page.get_by_text("files/s").last.wait_for()
        if view + variant in SCREENSHOTS:
            page.mouse.move(0, 0)
            page.wait_for_timeout(300)  # thumbnails
            yield view + variant, page.screenshot()
    opened.close()
    running.client.delete(live)
    wait_for(lambda: running.client.get(live).json()["state"] in ("cancelled", "succeeded"))
    videos = f"/v1/collections/{COLLECTION}/videos"
    for video in running.client.get(videos, params={"limit": 100}).json()["videos"]:
        if video["title"].isdecimal():  # from the job, which the next variant repeats
            running.client.delete(f"{videos}/{video['id']}")


def _timeline(running: Running, browser: Browser) -> bytes:
    """Screenshot of the long video, opened at its best match."""
    opened = browser.new_context(base_url=str(running.client.base_url), reduced_motion="reduce", viewport=DESK)
    page = opened.new_page()
    _enter(page, f"/?collection=films&q={QUERY}")
    page.locator(".card").first.click()
    page.get_by_text("Best matching clips").wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # the first frame
    picture = page.screenshot()
    opened.close()
    return picture


def _enter(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_label("API key", exact=True).fill(ADMIN)
    page.get_by_role("button", name="Continue").click()
    page.locator("#key-dialog").wait_for(state="hidden")


def _slow_down(running: Running) -> None:
    model: Any = running.service.model
    embed: Callable[..., Any] = type(model).embed_video.__get__(model)

    def embed_slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SECONDS_PER_CLIP)
        return embed(*args, **kwargs)

    model.embed_video = embed_slowly


def _write(file: Path, picture: bytes) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.name}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
