"""`vitascope evaluate` of models with sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.once import made_once
from tests.small_bundle import AUDIO, COLOURS, TONES, make_small_bundle, write_manifest
from tests.training.data.corpus_files import tone, wav
from tests.training.small_run import write_tokenizer
from tests.training.test_audio import LENGTHS, NEEDS, small_model, sounds
from training.data.example import Example, Question
from training.data.packed import EncodedMedia, Media, Origin, PictureWithSound, write_packed
from training.evaluation.report import evaluate
from training.evaluation.torch_encoder import TorchEncoder
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

NAMES = list(COLOURS)[:4]
ORIGIN = Origin("a test", "none needed", "all")


def write_corpora(root: Path) -> None:
    """Write a bundle for 48 kHz, pictures of one colour with the tone of the next, or of the same, and tones alone."""
    audio = {**AUDIO, "sample_rate": 48_000, "fused": True}
    tasks = ("retrieval", "matching", "answering", "audio_retrieval")
    bundle = make_small_bundle(root / "bundle", tasks=tasks, audio=audio, default_rerank=2)
    streams = [stream.model_copy(update={"frames": 1}) for stream in Model.open(bundle).streams]

    def write(corpus: str, items: list[tuple[Example, Media]], frames: list[FrameStream]) -> None:
        write_packed(root / "data" / corpus / "test", frames, items, ORIGIN, audio=True)

    for name in NAMES:
        Image.new("RGB", (64, 64), tuple(255 * x for x in COLOURS[name])).save(root / f"{name}.png")
        (root / f"{name}.wav").write_bytes(wav(tone(TONES[name])))
    scenes: list[tuple[Example, Media]] = []
    stamps: list[tuple[Example, Media]] = []
    for seen, heard in zip(NAMES, [*NAMES[1:], NAMES[0]], strict=True):
        captions = (f"a {seen} thing", f"a {heard} ball", f"{seen} and {heard}")
        questions = (Question("which colour is it", (seen,), "shade", "sight"),)
        scene = Example(seen, captions, questions, still=True, caption_needs=NEEDS)
        scenes.append((scene, PictureWithSound(root / f"{seen}.png", root / f"{heard}.wav")))
        stamps.append(
            (Example(seen, (seen,), still=True), PictureWithSound(root / f"{seen}.png", root / f"{seen}.wav"))
        )
    write("sound_scenes", scenes, streams)
    write("stamp_sounds", stamps, streams)
    write("esc10", [(Example(n, (n,)), EncodedMedia("a.wav", wav(tone(TONES[n])))) for n in NAMES], [])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "sounds-for-48-khz", write_corpora)


def measured(root: Path, corpus: str, **options: Any) -> dict[str, float]:
    return evaluate(root / "bundle", root / "data", corpora=[corpus], **options)[corpus]


def test_a_bundle_with_another_sample_rate_reads_packed_sounds(root: Path) -> None:
    actual = measured(root, "esc10")
    assert (actual["precision@1"], actual["mAP"], actual["name top-1"]) == (100, 100, 100)


def test_clips_are_found_by_the_needed_modality_and_only_by_chance_without_it(root: Path) -> None:
    actual = measured(root, "sound_scenes")
    for need, without in (("sight", " [sight blanked]"), ("sound", " [sound blanked]")):
        other = " [sound blanked]" if need == "sight" else " [sight blanked]"
        assert actual[f"t2v R@1 ({need}){other}"] == actual[f"match R@1 ({need}, top 2){other}"] == 100
        assert actual[f"t2v R@1 ({need}){without}"] < 50
    assert actual["t2v R@1 (both)"] == actual["match R@1 (both, top 2)"] == 100
    assert actual["t2v R@1 (both) [sound blanked]"] < 100
    # The answer of a model that sees and hears two colours is one of them.
    assert actual["exact (sight: shade) [sound blanked]"] == 100
    assert actual["exact (sight: shade) [sight blanked]"] == 0
    assert "match R@1 (sound, top 4)" in measured(root, "sound_scenes", rerank=4)
    with pytest.raises(InvalidInput, match="rerank: 0; at least 1"):
        measured(root, "sound_scenes", rerank=0)
    key = "search R@1 (both, top 2) [sight blanked]"
    assert [measured(root, "sound_scenes", rerank_queries=count)[key] for count in (1, 0)] == [100, 75], "1, and all 4"
    with pytest.raises(InvalidInput, match="rerank_queries: -1; at least 0"):
        measured(root, "sound_scenes", rerank_queries=-1)


def test_clips_are_reranked_as_by_a_service(root: Path, tmp_path: Path) -> None:
    audio = {**AUDIO, "sample_rate": 48_000, "fused": True}
    tasks = ("retrieval", "matching", "audio_retrieval")
    by_sound = {"candidates": 3, "match_weight": 20.0}
    bundle = make_small_bundle(tmp_path, tasks=tasks, audio=audio, default_rerank=2, sound_reranking=by_sound)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["calibration"] |= {"similarity_scale": 4.0, "similarity_bias": -4.0}
    write_manifest(bundle, manifest)
    actual = evaluate(bundle, root / "data", corpora=["sound_scenes"])["sound_scenes"]
    assert actual["reranked R@1 (both, top 3)"] == 100
    assert "match R@1 (both, top 3)" not in actual
    assert "match R@1 (sight, top 3) [sound blanked]" in actual


def test_sounds_and_pictures_with_the_same_label_find_each_other(root: Path) -> None:
    actual = measured(root, "stamp_sounds")
    assert actual["sounds"] == 4
    assert actual["sound to picture R@1"] == actual["picture to sound R@1"] == 100
    assert (actual["chance R@1"], actual["chance R@5"]) == (25, 100)


def test_many_pairs_have_the_scores_and_answers_of_single_pairs(tmp_path: Path) -> None:
    model = small_model()
    torch.nn.init.constant_(model.match_audio_scale, 0.3)
    torch.nn.init.normal_(model.match_head.weight)
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path / "tokenizer.json"), max_length=16)
    encoder = TorchEncoder(model, tokenizer, [f"answer {i}" for i in range(7)])
    audio = model.encode_audio(sounds(), LENGTHS)[1].detach().numpy()
    visual = np.random.default_rng(0).normal(size=(3, 4, 32)).astype(np.float16)
    texts = ["a red square", "is it a blue square ?", "a red square", "a green square", "a red square"]
    rows = [2, 0, 0, 2, 1]
    for heard in (None, audio):
        _, logits = encoder.score_pairs(texts, rows, visual, heard)
        answers = encoder.answer_pairs(texts, rows, visual, heard)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            alone = visual[[row]], None if heard is None else heard[[row]]
            assert logits[i] == pytest.approx(encoder.match([text], *alone).logits[0], abs=1e-5)
            ((expected,),) = encoder.answer([text], alone[0], top=1, audio_tokens=alone[1])
            assert answers[i][0].text == expected.text
            assert answers[i][0].probability == pytest.approx(expected.probability, abs=1e-5)
