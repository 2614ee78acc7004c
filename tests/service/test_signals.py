"""Search by signals over HTTP, with the client, the command and an assistant's tools, as in docs/usage.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_audio, write_color_video, write_picture
from tests.service.conftest import COLORS, settings_for
from tests.service.running import Running, problem_of, serving
from tests.small_bundle import TONES, make_small_bundle
from vitascope.cli.main import main
from vitascope.client import Client

RATE = 8000


def tone(colour: str) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONES[colour] * np.arange(2 * RATE) / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red picture, a silent green video, and grey pictures with the tone of blue."""
    folder = tmp_path_factory.mktemp("sounds")
    write_picture(folder / "red.png", solid(COLORS["red"]))
    write_color_video(folder / "green.mp4", COLORS["green"])
    write_audio(folder / "blue.mkv", tone("blue")[None], RATE, "flac", with_video=True)
    return folder


@pytest.fixture(scope="module")
def hearing(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of a model with sound, with these files in the collection `films`."""
    root = tmp_path_factory.mktemp("hearing")
    bundle = make_small_bundle(root / "bundle", tasks=("retrieval", "audio_retrieval", "matching"))
    with serving(settings_for(bundle, root / "data")) as running, Client(str(running.client.base_url)) as client:
        client.create_collection("films")
        for file in sorted(sounds.iterdir()):
            client.add_video("films", file)
        yield running


def test_a_sound_is_a_query(
    hearing: Running,
    sounds: Path,
    running: Running,
    palette: str,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sound of a file without pictures, and on request that of a video, on every surface."""
    red = write_audio(tmp_path / "tone.ogg", tone("red")[None], RATE, "libopus")
    with Client(str(hearing.client.base_url)) as client:
        first = client.search("films", file=red, limit=1)
        assert first["results"][0]["video"]["title"] == "red"
        second = client.search("films", query=[{"kind": "file"}], limit=1, cursor=first["next_cursor"])
        assert second["results"][0]["video"]["title"] != "red"
        client.create_collection("colours")
        client.add_video("colours", write_picture(tmp_path / "blue.png", solid(COLORS["blue"])))
        client.add_video("colours", write_picture(tmp_path / "grey.png", solid((99, 99, 99))))
        for signal, title in (("visual", "grey"), ("audio", "blue")):
            query = [{"kind": "file", "signal": signal}]
            page = client.search("colours", query=query, file=sounds / "blue.mkv")
            assert page["results"][0]["video"]["title"] == title
    search = ["search", "--collection", "colours", "--like", str(sounds / "blue.mkv"), "--signal", "audio", "--json"]
    for backend in (
        ["--server", str(hearing.client.base_url)],
        ["--data", str(hearing.settings.data_dir), "--bundle", str(hearing.settings.bundle)],
    ):
        assert main([*search, *backend]) == 0
        assert json.loads(capsys.readouterr().out)["results"][0]["video"]["title"] == "blue"
    with red.open("rb") as file:
        response = running.client.post(f"/v1/collections/{palette}/search", files={"file": ("bark.ogg", file)})
    detail = "bark.ogg: sound alone; a file with pictures was expected, as bundle small-colours 1 embeds no sound"
    assert problem_of(response, 422, "invalid_input")["detail"] == detail
    assert (
        main(
            [
                "search",
                "--like",
                str(red),
                "--data",
                str(running.settings.data_dir),
                "--bundle",
                str(small_bundle),
                "--collection",
                palette,
            ]
        )
        == 2
    )
    assert "embeds no sound" in capsys.readouterr().err
