"""Files that are damaged under a service at work: it serves on as before, and does not start with them again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from index.vectors.snapshot import SNAPSHOT_NAME
from service.lifespan import open_service
from tests.service.conftest import COLORS, settings_for
from tests.service.running import JSON, Running, serving
from tests.small_bundle import make_small_bundle
from vitascope.errors import BundleCorrupt


def answers(running: Running, files: Path) -> list[JSON]:
    """What the service says where every graph, the tokenizer and the answer vocabulary are needed."""
    search = {"text": "a red thing", "rerank": 3}
    found: JSON = running.client.post("/v1/collections/videos/search", json=search).json()
    video = {"collection": "videos", "video_id": found["results"][0]["video"]["id"]}
    asked = running.client.post("/v1/answers", json={**video, "question": "which colour is it"})
    assert asked.status_code == 200, asked.text
    upload = {"file": ("blue.mp4", (files / "blue.mp4").read_bytes())}
    again = running.client.post("/v1/collections/videos/videos", files=upload)
    assert again.status_code in (200, 201), again.text
    return [found, asked.json()]


def test_a_service_goes_on_with_the_bundle_that_it_opened(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", external_data=True)
    whole = {file.name: file.read_bytes() for file in bundle.iterdir()}
    moment = random.Random(4)
    settings = settings_for(bundle, tmp_path / "data")
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "videos"}).status_code == 201
        for name in COLORS:
            upload = {"file": (f"{name}.mp4", (files / f"{name}.mp4").read_bytes())}
            assert running.client.post("/v1/collections/videos/videos", files=upload).status_code == 201
        before = answers(running, files)
        for name, content in whole.items():
            damaged = bytearray(content)
            for _ in range(20):
                damaged[moment.randrange(len(damaged))] ^= 1 << moment.randrange(8)
            (bundle / name).write_bytes(damaged)
        snapshot = tmp_path / "data" / "collections" / "videos" / SNAPSHOT_NAME
        (tmp_path / "noise").write_bytes(moment.randbytes(5000))
        shutil.move(tmp_path / "noise", snapshot)
        assert answers(running, files) == before
        assert running.client.get("/readyz").status_code == 200
    for name, content in whole.items():
        (bundle / name).write_bytes(content)
    with serving(settings) as running:  # the index is made anew
        assert answers(running, files) == before
    damaged = bytearray(whole["weights.bin"])
    damaged[7] ^= 1
    (bundle / "weights.bin").write_bytes(damaged)
    with pytest.raises(BundleCorrupt, match=r"weights\.bin: its SHA-256"):
        open_service(settings)
