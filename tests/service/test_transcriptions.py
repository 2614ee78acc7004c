"""Transcriptions of uploaded files, for OpenAI's client, the Python client and the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.media_files import ONE_TO_FIVE, write_color_video
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.vitascope.speech_models import make_speech_model
from vitascope.cli.main import main
from vitascope.client import Client
from vitascope.media.subtitles import parse_subtitles


@pytest.fixture(scope="module")
def transcribing(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("transcribing")
    model = make_speech_model(folder / "hello")
    with serving(settings_for(small_bundle, folder / "data", speech_model=str(model))) as running:
        yield running


def url_of(running: Running) -> str:
    return str(running.client.base_url).rstrip("/")


def test_openais_client_gets_transcriptions(transcribing: Running) -> None:
    import openai  # takes a second

    with openai.OpenAI(base_url=f"{url_of(transcribing)}/v1", api_key="none", max_retries=0) as client:
        create = client.audio.transcriptions.create
        plain = create(model="hello", file=ONE_TO_FIVE)
        assert plain.text.startswith("HELLO WORLD")
        verbose = create(
            model="sherpa-onnx/hello",
            file=ONE_TO_FIVE,
            language="en",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        assert verbose.text == plain.text
        assert (verbose.language, verbose.duration) == ("en", pytest.approx(2.17, abs=0.01))
        assert verbose.segments
        assert verbose.words
        assert (verbose.words[0].word, verbose.words[1].word) == ("HELLO", "WORLD")
        assert 0 <= verbose.segments[0].start < verbose.segments[0].end <= verbose.duration
        for name in ("srt", "vtt"):
            text = create(model="hello", file=ONE_TO_FIVE, response_format=name)
            assert parse_subtitles(str(text), name, vtt=name == "vtt")[0].text.startswith("HELLO WORLD")
        assert str(create(model="hello", file=ONE_TO_FIVE, response_format="text")).strip() == plain.text
        with pytest.raises(openai.NotFoundError, match="'whisper-1'; 'sherpa-onnx/hello' was expected"):
            create(model="whisper-1", file=ONE_TO_FIVE)


def test_invalid_files_and_fields_are_problems(transcribing: Running, running: Running, tmp_path: Path) -> None:
    def post(path: Path, status: int, code: str, **fields: str) -> str:
        with path.open("rb") as file:
            response = transcribing.client.post("/v1/transcriptions", files={"file": file}, data=fields)
        return str(problem_of(response, status, code)["detail"])

    mute = write_color_video(tmp_path / "mute.mp4", (9, 9, 9), 1.0)
    assert post(mute, 415, "media_unsupported") == "mute.mp4: no audio track; a file with sound was expected"
    assert "language" in post(ONE_TO_FIVE, 422, "validation_failed", language="English")
    words = {"timestamp_granularities[]": "word"}
    assert "'verbose_json' was expected" in post(ONE_TO_FIVE, 422, "invalid_input", **words)
    (notes := tmp_path / "notes.txt").write_text("no media")
    assert post(notes, 415, "media_unsupported").startswith("notes.txt: ")
    response = running.client.post("/v1/transcriptions")  # rejected before a body is read
    assert "speech_model" in problem_of(response, 409, "task_missing")["detail"]


def test_the_python_client_and_the_command_transcribe_on_a_service(
    transcribing: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(url_of(transcribing)) as client:
        transcription = client.transcribe(ONE_TO_FIVE, granularities=("word",))
    assert transcription["model"] == "sherpa-onnx/hello"
    assert transcription["segments"] is None
    assert transcription["words"]
    assert main(["transcribe", str(ONE_TO_FIVE), "--server", url_of(transcribing)]) == 0
    assert capsys.readouterr().out.strip() == transcription["text"]
