"""The asynchronous client with a real service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.media_files import write_color_video
from tests.service.conftest import COLORS
from tests.service.running import Running
from vitascope import AsyncClient


def test_concurrent_calls_run_in_parallel(
    running: Running, collection: str, files: Path, incoming: Path, tmp_path: Path
) -> None:
    write_color_video(incoming / "yellow.mp4", (240, 240, 10))
    (incoming / "broken.mp4").write_text("no film at all")

    async def work() -> None:
        async with AsyncClient(str(running.client.base_url)) as client:
            uploads = [client.add_video(collection, files / f"{color}.mp4") for color in COLORS]
            begun, *added = await asyncio.gather(client.create_job(collection, incoming.name), *uploads)
            assert [video["title"] for video in added] == list(COLORS)

            job, *searches = await asyncio.gather(
                client.wait_for_job(collection, begun["id"]),
                *(client.search(collection, f"a {color} thing", rerank=3) for color in COLORS),
            )
            assert (job["counts"]["succeeded"], job["counts"]["failed"]) == (1, 1)
            assert [found["results"][0]["video"]["title"] for found in searches] == list(COLORS)
            assert {video["title"] async for video in client.iter_videos(collection)} == {*COLORS, "yellow"}
            failed = [item async for item in client.iter_job_items(collection, job["id"], state="failed")]
            assert [Path(item["path"]).name for item in failed] == ["broken.mp4"]

            told = [event async for event in client.iter_job_events(collection, job["id"], after=0)]
            assert told[-1]["data"] == job
            await client.backup(collection, tmp_path / "backup")
            assert (await client.list_operations())["operations"] == []

    asyncio.run(work())
    assert (tmp_path / "backup").stat().st_size > 0
