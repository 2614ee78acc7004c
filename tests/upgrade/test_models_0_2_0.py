"""Bundles, checkpoints and packed corpora of version 0.2.0, opened by this version."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.upgrade.archives import JSON, unpack, vitascope
from training.data.packed import open_packed
from training.initialization import load_initial_model
from vitascope.errors import InvalidInput
from vitascope.model import Model

TOLERANCE = 1e-4
SYSTEMS = ["hd-vila", "soho", "visual-parsing"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive; read-only."""
    folder = tmp_path_factory.mktemp("models")
    unpack("models", folder)
    return folder


@pytest.fixture(scope="module")
def recorded(stored: Path) -> JSON:
    found: JSON = json.loads((stored / "recorded.json").read_text())
    return found


def test_a_signed_bundle_verifies(stored: Path, recorded: JSON) -> None:
    result = vitascope("bundle", "verify", stored / "bundles" / "exported", "--key", stored / "signer.pub")
    assert result["verified"]
    assert [each["valid"] for each in result["signatures"]] == [True]
    assert result["fingerprint"] == recorded["bundle"]["fingerprint"]


def test_a_secret_key_signs_again(stored: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(stored / "bundles" / "exported", tmp_path / "bundle")
    (bundle / "manifest.json.sig").unlink()
    vitascope("bundle", "sign", bundle, "--key", stored / "signer.key")
    assert vitascope("bundle", "verify", bundle, "--key", stored / "signer.pub")["verified"]


def test_a_bundle_answers_as_before(stored: Path, recorded: JSON) -> None:
    model = Model.open(stored / "bundles" / "exported", threads=1, device="cpu")
    expected, texts = recorded["bundle"], recorded["texts"]
    np.testing.assert_allclose(model.embed_text(texts), expected["text_embeddings"], atol=TOLERANCE)
    video = model.embed_video_file(stored / "picture.png")
    np.testing.assert_allclose(video.vectors[0], expected["video_embedding"], atol=TOLERANCE)
    tokens = video.visual_tokens.repeat(len(texts), axis=0)
    match = model.match(texts, tokens)
    np.testing.assert_allclose(match.probabilities, expected["match_probabilities"], atol=TOLERANCE)
    answers = model.answer(texts[-1:], tokens[:1], top=len(expected["answers"]))[0]
    assert {each.text: each.probability for each in answers} == pytest.approx(expected["answers"], abs=TOLERANCE)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_computes_what_it_did(stored: Path, recorded: JSON, system: str) -> None:
    check_forward(stored, stored / "runs" / system / "checkpoint", recorded["forward"][system], recorded["texts"])


def test_training_needs_the_checkpoint_of_a_bundle(stored: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no checkpoint.*vitascope export .* --checkpoint CHECKPOINT"):
        load_initial_model(stored / "bundles" / "exported")


def check_forward(stored: Path, folder: Path, expected: JSON, texts: list[str]) -> None:
    """The model in ``folder`` has the recorded configuration and outputs."""
    model, answers, tokenizer_file, _ = load_initial_model(folder)
    model.eval()
    assert answers == expected["answers"]
    config = model.cfg.model_dump(mode="json")
    assert {name: config[name] for name in expected["config"]} == expected["config"]
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    ids = torch.tensor([each.ids for each in encoded])
    mask = torch.tensor([each.attention_mask for each in encoded])
    streams = {}
    for stream in model.cfg.streams():
        frames = torch.from_numpy(np.load(stored / "packed" / "squares" / "val" / f"{stream.name}.npy"))
        streams[stream.name] = frames[:, None].expand(-1, -1, stream.frames, -1, -1, -1)
    with torch.no_grad():
        videos, tokens = model.encode_video(streams)
        embeddings, states = model.encode_text(ids, mask)
        seen = model.prepare_visual(tokens[:1].repeat(len(texts), 1, 1))
        outputs = {
            "video_embeddings": videos,
            "text_embeddings": embeddings,
            "match_logits": model.match_logits(states, mask, seen),
            "answer_logits": model.answer_logits(states, mask, seen),
        }
    for name, values in outputs.items():
        np.testing.assert_allclose(values.numpy(), expected[name], atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


def test_a_stopped_run_goes_on_as_it_would_have(
    stored: Path, recorded: JSON, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the optimizer's moments, the schedule and the visual tokens that it had kept."""
    run = shutil.copytree(stored / "runs" / "hd-vila", tmp_path / "run")
    monkeypatch.chdir(stored)
    vitascope("train", stored / "recipe.toml", "--data", stored / "packed", "--out", run)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses, expected = (
        [{name: value for name, value in row.items() if name.startswith("loss/") or name == "step"} for row in rows]
        for rows in (log, recorded["log"])
    )
    renamed = {"match": "itm", "masked_words": "mlm", "answer": "vqa", "contrastive": "itc"}
    # Rows of the stored log keep the names that 0.2.0 gave the objectives.
    losses, expected = (
        [{re.sub(r"(?<=loss/)\w+", lambda m: renamed.get(m[0], m[0]), k): v for k, v in row.items()} for row in rows]
        for rows in (losses, expected)
    )
    assert [row["step"] for row in losses] == list(range(8))
    for row, known in zip(losses, expected, strict=True):
        assert row == pytest.approx(known, abs=1e-3)


def test_a_packed_corpus_opens(stored: Path) -> None:
    packed = open_packed(stored / "packed" / "squares" / "val")
    assert [(each.key, each.captions) for each in packed.examples] == [
        (f"val-{color}", (f"a {color} square",)) for color in ("red", "green", "blue", "yellow")
    ]
    assert {name: array.shape for name, array in packed.arrays.items()} == {
        "high": (4, 1, 64, 64, 3),
        "low": (4, 1, 32, 32, 3),
    }
