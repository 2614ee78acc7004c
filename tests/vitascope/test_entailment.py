"""Visual entailment: classes of sentences about clips and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_audio, write_picture
from tests.small_bundle import AUDIO, TONES, make_small_bundle
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.errors import TaskMissing
from vitascope.model import Model

TEXTS = ["a red thing", "a blue thing", "a dog"]
TASKS = ("retrieval", "matching", "entailment")


def test_a_sentence_is_entailed_contradicted_or_neutral(tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path / "bundle", tasks=TASKS), threads=1, device="cpu")
    picture = write_picture(tmp_path / "red.png", solid((255, 0, 0)))
    tokens = model.embed_video_file(picture).visual_tokens.repeat(3, axis=0)
    result = model.classify_entailment(TEXTS, tokens)
    assert result.labels == ["entailed", "contradicted", "neutral"]
    assert result.probabilities.shape == (3, 3)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1.0, atol=1e-6)
    plain = make_small_bundle(tmp_path / "plain", tasks=TASKS[:2])
    assert Bundle.open(plain).fingerprint == model.bundle.fingerprint, "a bundle can gain the task without a new index"
    with pytest.raises(TaskMissing, match="no graph 'entailment', so no entailment"):
        Model.open(plain, threads=1, device="cpu").classify_entailment(TEXTS, tokens)


def test_the_command_reads_pictures_and_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=(*TASKS, "audio_retrieval"), audio={**AUDIO, "fused": True})
    tone = 0.5 * np.sin(2 * np.pi * TONES["blue"] * np.arange(8000) / 8000).astype(np.float32)
    song = write_audio(tmp_path / "song.mkv", tone[None], 8000, "flac", with_video=True)
    command = ["entailment", str(song), *TEXTS, "--bundle", str(bundle)]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["modalities"] == ["visual", "audio"]
    red, blue, dog = (each["probabilities"] for each in result["results"])
    assert blue["entailed"] > red["entailed"]
    assert max(dog, key=dog.get) == "neutral"
    assert main(command) == 0
    assert "neutral" in capsys.readouterr().out
