"""Speech and screen text over HTTP: settings of collections and jobs, uploads, operations, and what is loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from service import lifespan
from tests.index.jobs.recognition_worker import MODULE
from tests.media_files import write_color_video
from tests.service.conftest import settings_for
from tests.service.jobs import finished_job, start_job
from tests.service.running import problem_of, serving
from tests.service.test_operations import start_operation, wait_until_finished
from tests.waiting import wait_for
from vitascope.sandbox.recognizers import Recognizers


def test_a_service_recognises_by_its_settings(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifespan, "Recognizers", partial(Recognizers, module=MODULE))
    models = {"speech_model": "quick", "text_reader": "missing"}
    settings = settings_for(small_bundle, tmp_path / "data", allow_unauthenticated=True, **models)
    folder = tmp_path / "data" / "allowed" / "talks"
    folder.mkdir(parents=True)
    talk = write_color_video(folder / "talk.mp4", (220, 10, 10), 2.0, sound_seconds=2.0)
    with serving(settings) as running:
        client = running.client
        wait_for(lambda: client.get("/readyz").json()["recognizers"] == {"speech": "ready", "screen_text": "failed"})
        error = "model: 'missing'; a folder with a model was expected"
        assert client.get("/v1/models").json()["recognizers"] == [
            {"kind": "speech", "name": "fake/quick", "state": "ready", "error": None},
            {"kind": "screen_text", "name": "missing", "state": "failed", "error": error},
        ]
        assert 'vitascope_recognizers_loaded{kind="speech"} 1.0' in client.get("/metrics").text

        # An upload follows its collection: it is searchable at once, and recognised afterwards.
        body = {"name": "uploads", "transcribe": "fake/quick"}
        assert client.post("/v1/collections", json=body).json()["transcribe"] == "fake/quick"
        path = "/v1/collections/uploads"
        added = client.post(f"{path}/videos", files={"file": ("talk.mp4", talk.read_bytes())})
        assert added.status_code == 201
        job = finished_job(client, f"{path}/jobs/1")
        assert (job["state"], job["recognitions"]) == ("succeeded", {"speech": {"done": 1, "failed": 0}})
        video = client.get(f"{path}/videos/{added.json()['id']}").json()
        assert [span["text"] for span in video["spans"]] == ["brown foxes"]

        # Speech is recognised first where its sentences become the clips: by the request, or by the worker.
        segmentation = {"segmentation": '{"rule": "subtitles"}'}
        for number, seconds, prefer in ((2, 12.0, "handling=strict"), (3, 13.0, "respond-async")):
            write_color_video(talk, (10, 10, 220), seconds, rate=2, sound_seconds=12.0)
            upload = {"data": segmentation, "files": {"file": ("talk.mp4", talk.read_bytes())}}
            sent = client.post(f"{path}/videos", headers={"Prefer": prefer}, **upload)
            job = finished_job(client, f"{path}/jobs/{number}")
            assert (sent.status_code, job["recognitions"]["speech"]["done"]) == ({2: 201, 3: 202}[number], 1)
            video_id = client.get(f"{path}/jobs/{number}/items").json()["items"][0]["video_id"]
            clips = client.get(f"{path}/videos/{video_id}").json()["spans"]
            assert [clip["text"] for clip in clips] == ["Brown foxes jump.", "They rest."]
        assert client.patch(path, json={"transcribe": False, "read_text": 2}).json()["read_text"] == 2.0

        # A job may name what is recognised; without a reader, its videos are searchable all the same.
        client.post("/v1/collections", json={"name": "talks"})
        new_job = {"folder": str(folder), "transcribe": "large"}
        problem = problem_of(client.post("/v1/collections/talks/jobs", json=new_job), 422, "invalid_input")
        assert "transcribe: 'large'; 'fake/quick' was expected" in problem["detail"]
        url = start_job(client, "talks", source={"kind": "folder", "folder": str(folder)}, read_text=True)
        assert finished_job(client, url)["counts"]["succeeded"] == 1
        assert client.get(f"{url}/items").json()["items"][0]["reason"] == f"no screen text: missing: {error}"

        operation = wait_until_finished(client, start_operation(client, "transcribe", "talks"))
        assert (operation["state"], operation["videos"]) == ("succeeded", {"recognized": 1, "failed": 0})
        operation = wait_until_finished(client, start_operation(client, "read_text", "talks", interval=2))
        assert (operation["state"], operation["error"]) == ("failed", f"missing: {error}")
