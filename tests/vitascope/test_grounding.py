"""Grounding with the small bundle, which locates each colour of a picture at its right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media_files import solid, write_video
from tests.small_bundle import BOX, COLOURS, make_small_bundle
from tests.vitascope.test_captions import tokens_of
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import BOX as BOX_OUTPUT
from vitascope.bundle.graph_specs import HEAT_LOGITS
from vitascope.cli.main import main
from vitascope.errors import BundleCorrupt, InvalidInput, TaskMissing
from vitascope.model import Model

TASKS = ("retrieval", "matching", "captioning", "grounding")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_bundle(tmp_path_factory.mktemp("bundle"), tasks=TASKS, external_data=True)


def test_a_phrase_has_a_box_and_a_point_where_the_heat_map_is_largest(bundle: Path) -> None:
    model = Model.open(bundle, threads=1, device="cpu")
    phrases = ["red", "a big red thing on the left", "blue", "blue"]
    red, also_red, absent, blue = model.ground(phrases, tokens_of(model, "red", "red", "red", "blue"))
    assert min(place.score for place in (red, also_red, blue)) > 0.9 > 0.1 > absent.score
    assert red.box == BOX
    assert red.point == pytest.approx((0.645, 0.644), abs=0.001), "the cells beside the largest value count"
    assert red.heat_map.shape == (2, 4)
    assert red.box.in_pixels(320, 180) == {"left": 160, "top": 45, "right": 280, "bottom": 135}
    with pytest.raises(InvalidInput, match="visual_tokens: float32 of shape"):
        model.ground(["red"], tokens_of(model, "red", "red"))


@pytest.mark.filterwarnings("error")
def test_large_negative_heat_logits_do_not_overflow(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.open(bundle, threads=1, device="cpu")
    outputs = {HEAT_LOGITS: np.array([[[-100, -2]]], np.float32), BOX_OUTPUT: np.array([[0, 0, 1, 1]], np.float32)}
    monkeypatch.setattr(model, "run_graph", lambda *_: outputs)
    (place,) = model.ground(["red"], tokens_of(model, "red"))
    assert place.heat_map.ravel().tolist() == pytest.approx([0.0, 1 / (1 + np.exp(2))])


def test_adding_the_task_needs_no_new_index_and_its_weights_are_its_own(bundle: Path, tmp_path: Path) -> None:
    without = make_small_bundle(tmp_path / "without", tasks=TASKS[:-1], external_data=True)
    assert Bundle.open(bundle).fingerprint == Bundle.open(without).fingerprint
    with pytest.raises(TaskMissing, match="no graph 'grounding', so no grounding"):
        Model.open(without).ground(["red"], np.zeros((1, 2, 16), np.float32))
    manifest = json.loads((bundle / "manifest.json").read_text())
    shared = {**manifest, "grounding": {**manifest["grounding"], "weights": "weights.bin"}}
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(shared))
    with pytest.raises(BundleCorrupt, match=r"reads weights from 'weights\.bin'; only grounding may read them"):
        Bundle.open(tmp_path)


def test_the_command_finds_a_phrase_in_the_middle_frame_and_draws_it(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [solid(tuple(255 * value for value in COLOURS[name]), 64, 48) for name in ("red",) * 10 + ("blue",) * 10]
    video, drawn = write_video(tmp_path / "film.mp4", frames, rate=5), tmp_path / "drawn.png"
    command = ["ground", str(video), "a blue thing", "--bundle", str(bundle), "--json"]
    assert main([*command, "--start", "2.4", "--picture", str(drawn)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["time"], result["pixels"]) == (3.2, {"left": 32, "top": 12, "right": 56, "bottom": 36})
    assert result["score"] > 0.9
    with Image.open(drawn) as picture:
        assert picture.size == (64, 48)
        corner, warm, cold = (picture.getpixel(place) for place in ((32, 12), (40, 31), (2, 2)))
    assert corner == (0, 230, 255)
    assert isinstance(warm, tuple)
    assert isinstance(cold, tuple)
    assert warm[0] > cold[0] + 60, "the heat map is over the object"
    assert main([*command[:-1], "--end", "1"]) == 0
    assert " 0.0" in capsys.readouterr().out
    before = video.read_bytes()
    for path, message in (
        (tmp_path, "not a regular file; a regular file was expected"),
        (video, "the input file; another file was expected"),
        (video / "a.png", "Not a directory"),
    ):
        assert main([*command, "--picture", str(path)]) == 2
        assert f"--picture: {path}: {message}" in capsys.readouterr().err
    assert video.read_bytes() == before
