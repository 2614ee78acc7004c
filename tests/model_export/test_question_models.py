"""A model that reads a text beside a picture becomes a bundle that matches or answers as it does in its own library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image

from model_export.public.answers import read_answers
from model_export.public.blip import MAX_SCORED_ANSWERS, NOT_SCORED
from model_export.public.export import export_public
from model_export.public.families import open_public
from model_export.public.folder import ModelSource
from model_export.public.model import PublicModel
from tests.chaos import only_by_chaos
from tests.model_export.question_models import ANSWERS, MAKERS, library_says, make_blip_answers, make_vilt_matches
from tests.model_export.test_public_models import SPANS, TEXTS, cosines, looked_at
from tests.service.conftest import settings_for
from tests.service.running import serving
from vitascope.errors import InvalidInput
from vitascope.media.frame import top_left_size
from vitascope.media.sampling import sample_streams
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

FRAMES = 4
QUESTIONS = TEXTS[2:]
"""The awkward ones."""


def encoded(model: PublicModel, texts: list[str]) -> list[torch.Tensor]:
    """(ids, mask) as the runtime makes them."""
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(model.tokenizer_json), model.text_length)
    return [torch.from_numpy(array) for array in tokenizer.encode(texts)]


def assert_said(found: np.ndarray, given: np.ndarray) -> None:
    """Logits (T, P, N): cosines of at least 0.99999, and the same answer, or the same text and clip, comes first."""
    last = given.shape[2] if given.shape[2] > 1 else given.shape[1]
    assert cosines(found.reshape(-1, last), given.reshape(-1, last)).min() >= 0.99999
    spread = given.std(axis=(0, 1) if given.shape[2] == 1 else 2).max()
    np.testing.assert_allclose(found, given, rtol=0, atol=0.05 * spread)
    for axis in (2,) if given.shape[2] > 1 else (0, 1):
        reached = np.take_along_axis(given, np.expand_dims(found.argmax(axis=axis), axis), axis).squeeze(axis)
        np.testing.assert_allclose(reached, given.max(axis=axis), atol=0.02 * spread)


@pytest.mark.parametrize("family", MAKERS)
def test_modules_score_like_the_library(family: str, photographs: list[Path], film: Path, tmp_path: Path) -> None:
    """What is exported, run by torch on what the runtime's own tokenizer and decoder make of texts and files."""
    source = MAKERS[family](tmp_path / family)
    model = open_public(source, FRAMES, allow_pickle=False)
    modules = {spec.name: spec.module for spec in model.specs}
    streams = model.streams()
    clips = [(path, (0.0, 0.0)) for path in photographs] + [(film, span) for span in SPANS]
    sampled = [sample_streams(path, streams, [span]) for path, span in clips]
    inputs = [torch.from_numpy(np.stack([one[stream.name] for one in sampled])) for stream in streams]
    read = encoded(model, QUESTIONS)
    given = [one.expand(len(QUESTIONS), -1, -1) for one in encoded(model, ANSWERS)] if family == "blip_answers" else []
    with torch.no_grad():
        tokens = modules["video"](*inputs)
        head = modules["match" if family == "vilt_matches" else "answer"]
        logits = [head(*read, one.expand(len(QUESTIONS), -1, -1), *given) for one in tokens]
        twice = modules["video"](*[torch.cat([one, one], dim=1) for one in inputs])
    found = torch.stack(logits, dim=1).reshape(len(QUESTIONS), len(clips), -1).numpy()
    assert tuple(tokens.shape[1:]) == (model.visual_tokens, model.visual_width)
    assert twice.shape == tokens.shape
    seen = looked_at(streams[:1], photographs, film)
    assert_said(found, library_says(family, source, QUESTIONS, seen))


def test_images_are_resized_as_by_the_processor(tmp_path: Path) -> None:
    from transformers import ViltImageProcessor

    processor = ViltImageProcessor()
    for size in ((640, 480), (480, 640), (384, 384), (100, 90), (1333, 800), (800, 1334), (401, 97), (30, 300)):
        expected = processor(Image.new("RGB", size), return_tensors="pt")["pixel_values"].shape[2:]
        assert top_left_size(*size, 384, 639, 32)[::-1] == tuple(expected), size


def blip_module(tmp_path: Path) -> tuple[Any, Callable[[int, int], list[torch.Tensor]], PublicModel]:
    """The graph that answers, and inputs of it for so many answers and as much padding of the question."""
    model = open_public(make_blip_answers(tmp_path / "blip"), 1, allow_pickle=False)
    (module,) = [spec.module for spec in model.specs if spec.name == "answer"]
    random = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, model.visual_tokens, model.visual_width, generator=random)
    many = torch.randint(5, model.vocabulary, (1, 400, 4), generator=random)

    def inputs(answers: int, padding: int) -> list[torch.Tensor]:
        ids, mask = encoded(model, ["what colour is it?"])
        wider = torch.cat([ids, torch.full((1, padding), 7)], 1), torch.cat([mask, torch.zeros(1, padding).long()], 1)
        return [*wider, tokens, many[:, :answers], torch.ones_like(many[:, :answers])]

    return module, inputs, model


def test_answers_with_the_likeliest_first_tokens_are_scored(tmp_path: Path) -> None:
    module, inputs, _ = blip_module(tmp_path)
    with torch.no_grad():
        many = module(*inputs(400, 0))[0]
        pieces = torch.cat(
            [
                module(*(x[:, n : n + 100] if x.ndim == 3 and x.shape[1] == 400 else x for x in inputs(400, 0)))[0]
                for n in range(0, 400, 100)
            ]
        )
        first = module(*(x[:, :, :2] if x.ndim == 3 and x.shape[1] == 400 else x for x in inputs(400, 0)))[0]
    weighed = many > NOT_SCORED
    assert weighed.sum() == MAX_SCORED_ANSWERS
    torch.testing.assert_close(many[weighed], pieces[weighed])
    assert first[weighed].min() >= first[~weighed].max() - 1e-5 or not (~weighed).any()


def test_padding_of_a_question_changes_no_answer(tmp_path: Path) -> None:
    module, inputs, _ = blip_module(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs(20, 9)), module(*inputs(20, 0)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("maker", "file", "stated", "message"),
    [
        (
            make_vilt_matches,
            "config.json",
            {"architectures": ["ViltForMaskedLM"]},
            r"ViltForQuestionAnswering.\] was expected",
        ),
        (make_vilt_matches, "config.json", {"max_image_length": 20}, "max_image_length 20.*at least 54 was expected"),
        (make_vilt_matches, "preprocessor_config.json", {"size_divisor": 8}, "size_divisor 8; 4 was expected"),
        (make_vilt_matches, "preprocessor_config.json", {"do_resize": False}, "does not resize"),
    ],
)
def test_unsupported_settings_are_rejected(
    maker: Callable[[Path], Path], file: str, stated: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = maker(tmp_path / "model")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | stated))
    with pytest.raises(InvalidInput, match=message):
        open_public(folder, FRAMES, allow_pickle=False)


@pytest.mark.parametrize(
    ("answers", "message"),
    [(["red", "blue", "red"], "'red' occurs twice"), (["red", "so " * 20], "tokens long; at most 16 were expected")],
)
def test_invalid_answers_are_rejected(answers: list[str], message: str, tmp_path: Path) -> None:
    folder = make_blip_answers(tmp_path / "blip")
    with pytest.raises(InvalidInput, match=message):
        open_public(folder, FRAMES, allow_pickle=False, answers=answers)
    with pytest.raises(InvalidInput, match="does not score other answers"):
        open_public(make_vilt_matches(tmp_path / "vilt"), FRAMES, allow_pickle=False, answers=["red"])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "cannot be read"),
        ('["red"', "is not JSON"),
        ('{"red": 1}', "a JSON list of strings"),
        ('["red", " "]', "none of them blank"),
        ("[]", "a JSON list of strings"),
    ],
)
def test_a_file_of_answers_is_a_list_of_strings(written: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    if written is not None:
        path.write_text(written)
    with pytest.raises(InvalidInput, match=message):
        read_answers(path)
    path.write_text(json.dumps(ANSWERS))
    assert read_answers(path) == ANSWERS


def assert_weighed(runtime: Model, tokens: np.ndarray) -> None:
    """Of many answers as many as are weighed get what they get among few."""
    many = [
        f"{first} {second}" for first in "abcdefghijklm" for second in ("a", "be", "see", "do", "e", "f", "go", "hi")
    ]
    many += [f"no {answer}" for answer in many]
    (found,) = runtime.answer_logits(TEXTS[:1], tokens, many)
    few = [runtime.answer_logits(TEXTS[:1], tokens, many[n : n + 50])[0] for n in range(0, len(many), 50)]
    weighed = found > NOT_SCORED
    assert weighed.sum() == MAX_SCORED_ANSWERS < len(many)
    np.testing.assert_allclose(found[weighed], np.concatenate(few)[weighed], atol=1e-4)


@only_by_chaos
@pytest.mark.parametrize("family", MAKERS)
def test_the_bundle_scores_like_the_library(family: str, photographs: list[Path], film: Path, tmp_path: Path) -> None:
    source = MAKERS[family](tmp_path / "source")
    answers = ANSWERS if family == "blip_answers" else None
    bundle = export_public(
        ModelSource(source, "them/small"), tmp_path / "bundle", seed=1, frames=FRAMES, answers=answers
    )
    runtime = Model.open(bundle, threads=1)
    files = [(path, None) for path in photographs] + [(film, [span]) for span in SPANS]
    seen = [runtime.embed_file(path, spans) for path, spans in files]
    assert seen[0].vectors.shape == (1, 0)
    given = library_says(family, source, TEXTS, looked_at(runtime.streams[:1], photographs, film))
    rows = [np.repeat(one.visual_tokens, len(TEXTS), 0) for one in seen]
    if family == "vilt_matches":
        found = np.stack([runtime.match(TEXTS, tokens).logits for tokens in rows], axis=1)[..., None]
    else:
        found = np.stack([runtime.answer_logits(TEXTS, tokens, answers) for tokens in rows], axis=1)
    assert_said(found, given)
    if family == "blip_answers":
        assert_weighed(runtime, seen[0].visual_tokens)
    with serving(settings_for(bundle, tmp_path / "data")) as service:
        client = service.client
        refused = client.post("/v1/collections", json={"name": "mine"})
        assert (refused.status_code, refused.json()["code"]) == (409, "task_missing")
        with photographs[0].open("rb") as file:
            upload = {"file": (photographs[0].name, file.read())}
        if family == "vilt_matches":
            told = client.post("/v1/caption-scores", files=upload, data={"captions": TEXTS[:4]}).json()["scores"]
            wanted = 1 / (1 + np.exp(-given[:4, 0, 0]))
            assert [one["match"] for one in told] == pytest.approx(wanted.tolist(), abs=5e-3)
            assert {one["similarity"] for one in told} == {None}
        else:
            told = client.post("/v1/answers", files=upload, data={"question": TEXTS[0], "top": "5"}).json()
            shares = np.exp(given[0, 0]) / np.exp(given[0, 0]).sum()
            assert {one["text"]: one["probability"] for one in told["answers"]} == pytest.approx(
                dict(zip(ANSWERS, shares.tolist(), strict=True)), abs=5e-3
            )
