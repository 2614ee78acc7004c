"""The code of docs/python.md with a real service, and notebook output."""

from __future__ import annotations

import asyncio
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.media_files import write_color_video
from tests.service.conftest import COLORS
from tests.service.running import ROOT, Running
from vitascope import AsyncClient, Client
from vitascope.integrations.notebook import Strip, strip, strip_async

SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)
HOSTILE = '"><script>alert(1)</script>\x1b[31m'


@pytest.fixture
def place(
    running: Running, small_bundle: Path, files: Path, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Folder with the files that the page names; the service has no collection of its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITASCOPE_API_KEY", raising=False)
    for name, color in (("beach", "red"), ("snow", "blue"), ("forest", "green")):
        shutil.copy(files / f"{color}.mp4", tmp_path / f"{name}.mp4")
    write_color_video(tmp_path / "film.mp4", (200, 10, 200))
    Image.new("RGB", (64, 64), COLORS["red"]).save(tmp_path / "beach.jpg")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "hd-vila-tiny").symlink_to(small_bundle)
    write_color_video(incoming / "yellow.mp4", (240, 240, 10))
    (incoming / "broken.mp4").write_text("no film at all")
    yield tmp_path
    running.client.delete("/v1/collections/holidays")


def test_code_of_the_docs_page_runs(
    running: Running, place: Path, incoming: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    printed = []
    for snippet in SNIPPETS:
        ours = snippet.replace("http://127.0.0.1:8000", str(running.client.base_url)).replace(
            '"films"', f'"{incoming.name}"'
        )
        exec(compile(ours, "docs/python.md", "exec"), names)
        printed.append(capsys.readouterr())
    names["client"].close()
    assert "beach" in printed[0].out
    assert names["answer"] is None  # a model of colours knows no animals
    assert [one["index"] for one in names["order"]] == [0, 1]
    assert names["titles"] == {"beach"}
    assert printed[3].out.endswith("100%\n")
    assert "succeeded 1\n" in printed[5].out
    assert "broken.mp4 " in printed[5].out
    assert "broken.mp4 failed" in printed[5].out
    assert (place / "copy.mp4").read_bytes() == (place / "beach.mp4").read_bytes()
    assert sorted(path.name for path in (place / "holidays-parquet").iterdir()) == ["clips.parquet", "videos.parquet"]
    assert re.findall(r"^(\w.*) \[", printed[7].out, re.MULTILINE) == ["a dog runs", "snow falls", "people dance"]
    assert not any(each.err for each in printed)  # no bars where there is no terminal


def pictures(shown: Strip) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', shown._repr_html_())
    return [Image.open(BytesIO(b64decode(data)), formats=["JPEG"]) for data in found]


def test_strip_shows_thumbnails_with_captions(running: Running, palette: str, collection: str, files: Path) -> None:
    with Client(str(running.client.base_url)) as client:
        shown = strip(client, client.search(palette, "a red thing", rerank=1))
        best, *others = (picture.getpixel((8, 8)) for picture in pictures(shown))
        assert len(others) == 2
        assert best[0] > 180 > 60 > max(best[1:])  # type: ignore[index, operator]
        html, text = shown._repr_html_(), shown._repr_mimebundle_(include=None, exclude=None)["text/plain"]
        result = shown.results[0]
        for name in ("fused", "match", "similarity"):
            assert f"{name} {result[name]:.3f}" in html  # type: ignore[literal-required]
            assert f"{name} {result[name]:.3f}" in text  # type: ignore[literal-required]
        assert "0:00-0:02" in html
        assert len(text.splitlines()) == 3

        client.add_video(collection, files / "red.mp4", title=HOSTILE)
        client.add_video(collection, files / "blue.mp4")
        results = list(client.iter_search_results(collection, "a red thing"))
        client.delete_video(collection, results[1]["video"]["id"])
        shown = strip(client, results)
        assert [thumbnail is None for thumbnail in shown.thumbnails] == [False, True]
        assert "<script" not in shown._repr_html_()
        assert "&quot;&gt;&lt;script&gt;" in shown._repr_html_()
        assert "\x1b" not in repr(shown)
        assert repr(strip(client, [])) == "No results"

    async def at_once() -> Strip:
        async with AsyncClient(str(running.client.base_url)) as client:
            return await strip_async(client, await client.search(palette, "a red thing"))

    assert len(pictures(asyncio.run(at_once()))) == 3
