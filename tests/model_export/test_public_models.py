"""A public model becomes a bundle that gives what the model gives in its own library: vectors, order, logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model_export.public import export as public_export
from model_export.public import library_parity
from model_export.public.export import export_public
from model_export.public.families import open_public
from model_export.public.folder import ModelSource
from model_export.public.tokenization import open_tokenizer
from tests.chaos import is_chaos
from tests.model_export.public_libraries import Given, library_gives
from tests.model_export.public_models import MAKERS, make_clip, make_siglip, write_pieces
from tests.once import made_once
from tests.service.conftest import settings_for
from tests.service.running import serving
from vitascope.bundle.manifest import FrameStream
from vitascope.cli.main import main
from vitascope.errors import InvalidInput
from vitascope.media.decode import read_frames
from vitascope.media.sampling import clip_times, sample_streams
from vitascope.model import Model
from vitascope.scoring import fused_score
from vitascope.tokenizer import Tokenizer

TEXTS = [
    "a red square moves left",
    "Two GREEN circles, and a blue triangle!",
    "红色的正方形向左移动",
    "🎉 a party 🐕‍🦺 with   a dog 👩‍👩‍👧",
    "many " * 1000,
]


@dataclass(frozen=True)
class Exported:
    source: Path
    bundle: Path
    said: list[str]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A family's small model and its bundle, made once for all test workers."""

    def export(family: str) -> Exported:
        def make(folder: Path) -> None:
            said = list[str]()
            source = MAKERS[family](folder / "source")
            export_public(ModelSource(source, "them/small"), folder / "bundle", seed=1, frames=4, log=said.append)
            (folder / "said.json").write_text(json.dumps(said))

        folder = made_once(tmp_path_factory, f"public-{family}", make)
        return Exported(folder / "source", folder / "bundle", json.loads((folder / "said.json").read_text()))

    return export


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result: np.ndarray = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return result


SPANS = ((0.4, 3.0), (1.2, 1.7))


def looked_at(streams: Sequence[FrameStream], photographs: list[Path], film: Path) -> list[list[Image.Image]]:
    """The frames of each photograph and of two clips of the film, whole, as the bundle looks at them."""
    (stream,) = streams
    stills = [[picture] * stream.frames for picture in opened(photographs)]
    moving = [[Image.fromarray(frame) for frame in read_frames(film, clip_times(stream, *span))] for span in SPANS]
    return [*stills, *moving]


def assert_given(given: Given, texts: np.ndarray, clips: np.ndarray, logits: np.ndarray) -> None:
    """Cosines of at least 0.99999 and the same first hit, both ways."""
    assert cosines(texts, given.texts).min() >= 0.99999
    assert cosines(clips, given.clips).min() >= 0.99999
    np.testing.assert_allclose(logits, given.logits, rtol=0.02, atol=0.05)
    for axis in (0, 1):
        best, selected = given.logits.max(axis=axis), logits.argmax(axis=axis)
        reached = np.take_along_axis(given.logits, np.expand_dims(selected, axis), axis).squeeze(axis)
        np.testing.assert_allclose(reached, best, atol=1e-3)  # the same, or one that the library puts beside it


@pytest.mark.parametrize("family", MAKERS)
def test_modules_equal_the_library(family: str, photographs: list[Path], film: Path, tmp_path: Path) -> None:
    """What is exported, run by torch on what the runtime's own tokenizer and decoder make of texts and files."""
    source = MAKERS[family](tmp_path / family)
    model = open_public(source, 4, allow_pickle=False)
    modules = {spec.name: spec.module for spec in model.specs}
    sampled = [sample_streams(path, model.streams(), [(0.0, 0.0)])["frames"] for path in photographs]
    sampled += [sample_streams(film, model.streams(), [span])["frames"] for span in SPANS]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(model.tokenizer_json), model.text_length)
    ids, mask = (torch.from_numpy(array) for array in tokenizer.encode(TEXTS))
    with torch.no_grad():
        clips, tokens = modules["video"](torch.from_numpy(np.stack(sampled)))
        texts = modules["text"](ids, mask)
        logits = texts @ clips.T / model.temperature + model.logit_bias
        if "match" in modules:
            columns = [modules["match"](ids, mask, one.expand(len(TEXTS), -1, -1)) for one in tokens]
            logits = torch.stack(columns, dim=1)
    given = library_gives(family, source, TEXTS, looked_at(model.streams(), photographs, film))
    assert_given(given, texts.numpy(), clips.numpy(), logits.numpy())


@pytest.mark.parametrize("family", ["clip", "blip", *(sorted(set(MAKERS) - {"clip", "blip"}) if is_chaos() else [])])
def test_the_bundle_equals_the_library(
    family: str, exported: Callable[[str], Exported], photographs: list[Path], film: Path
) -> None:
    one = exported(family)
    runtime = Model.open(one.bundle, threads=1)
    seen = [runtime.embed_file(path) for path in photographs] + [runtime.embed_file(film, [span]) for span in SPANS]
    texts, clips = runtime.embed_text(TEXTS), np.concatenate([each.vectors for each in seen])
    stated = runtime.bundle.manifest
    logits = texts @ clips.T / stated.temperature + stated.logit_bias
    if "matching" in runtime.tasks:
        judged = [runtime.match(TEXTS, np.repeat(each.visual_tokens, len(TEXTS), 0)).logits for each in seen]
        logits = np.stack(judged, axis=1)
    given = library_gives(family, one.source, TEXTS, looked_at(runtime.streams, photographs, film))
    assert_given(given, texts, clips, logits)


def test_notes_are_printed_and_stored(exported: Callable[[str], Exported]) -> None:
    one = exported("clip")
    assert any("mean of the embeddings of 4 frames" in line for line in one.said)
    manifest = Model.open(one.bundle).bundle.manifest
    stated = manifest.extra["public_model"]
    assert stated["source"] == "them/small"
    assert "mean of the embeddings of 4 frames" in stated["chosen"][0]
    assert stated["chosen"][0] in (one.bundle / manifest.model_card).read_text()


@pytest.mark.parametrize("family", ["clip", "blip"])
def test_a_served_collection_is_searched_as_by_the_library(
    family: str, exported: Callable[[str], Exported], photographs: list[Path], film: Path, tmp_path: Path
) -> None:
    """Uploaded, searched for and, by the fusion model, reranked: in the order of the original's own scores."""
    one = exported(family)
    rerank = 10 if family == "blip" else 0
    with serving(settings_for(one.bundle, tmp_path / "data")) as service:
        client = service.client
        assert client.post("/v1/collections", json={"name": "mine"}).status_code == 201
        for path in [*photographs, film]:
            answer = client.post("/v1/collections/mine/videos", files={"file": (path.name, path.read_bytes())})
            assert answer.status_code == 201, answer.text
        asked = {"text": TEXTS[0], "limit": 50, "rerank": rerank}
        found = client.post("/v1/collections/mine/search", json=asked).json()["results"]
    streams = Model.open(one.bundle).streams
    given = library_gives(family, one.source, TEXTS[:1], looked_at(streams, photographs, film)[: len(photographs)])
    titles = [path.stem for path in photographs]
    cosine = dict(zip(titles, (given.clips @ given.texts[0]).tolist(), strict=True))
    assert {hit["video"]["title"] for hit in found} == {*titles, "film"}
    hits = {hit["video"]["title"]: hit for hit in found if hit["video"]["title"] != "film"}
    for title in titles:
        assert hits[title]["similarity"] == pytest.approx(cosine[title], abs=1e-3)
    scores = dict(zip(titles, given.logits[0].tolist(), strict=True)) if rerank else cosine
    assert list(hits) == sorted(titles, key=lambda title: -scores[title])
    if rerank:
        for title in titles:
            assert hits[title]["match"] == pytest.approx(1 / (1 + np.exp(-scores[title])), abs=5e-3)


def test_the_command_exports_a_folder(
    exported: Callable[[str], Exported],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = exported("clip").source
    before = Model.open(exported("clip").bundle).bundle
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    # The exporter itself takes seconds.
    monkeypatch.setattr(public_export, "export_graph", lambda spec, _: onnx.load(before.graph_path(spec.name)))
    arguments = ["export", str(source), "--out", str(tmp_path / "mine"), "--frames", "4", "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    bundle = Model.open(tmp_path / "mine").bundle
    assert bundle.manifest.licence == "mit"
    assert printed["precision"] == "float32"
    assert printed["fingerprint"] == bundle.fingerprint == before.fingerprint


def test_siglip_has_its_bias_and_fixed_length(tmp_path: Path) -> None:
    """Its probability of a pair is what the manifest's numbers make of a similarity; padding changes no vector."""
    model = open_public(make_siglip(tmp_path / "siglip"), 4, allow_pickle=False)
    assert (model.text_length, model.logit_bias) == (64, pytest.approx(-9.5))
    assert model.temperature == pytest.approx(np.exp(-2.9))
    similarity = np.array([0.4, 0.9])
    expected = 1 / (1 + np.exp(-(similarity / model.temperature + model.logit_bias)))
    np.testing.assert_allclose(fused_score(model.calibration, similarity, np.zeros(2)), expected, atol=1e-6)
    (stream,) = model.streams()
    assert (stream.fit, stream.resample, stream.shortest_edge) == ("stretch", "bicubic", None)
    (text,) = [spec.module for spec in model.specs if spec.name == "text"]
    ids, mask = torch.tensor([[9, 8, 7, 1]]), torch.ones(1, 4, dtype=torch.int64)
    wider = torch.cat([ids, torch.full((1, 9), 5)], dim=1), torch.cat([mask, torch.zeros(1, 9).long()], dim=1)
    with torch.no_grad():
        np.testing.assert_allclose(text(ids, mask), text(*wider), atol=1e-6)


def test_siglip_pieces_become_its_tokenizer(tmp_path: Path) -> None:
    """A folder that has only the SentencePiece model gives the numbers of the same pieces in tokenizer.json."""
    folder = make_siglip(tmp_path / "siglip")
    expected = open_tokenizer(folder).library
    write_pieces(folder)
    tokens = open_tokenizer(folder)
    runtime = Tokenizer(tokenizers.Tokenizer.from_str(tokens.json), 64)
    for text in [*TEXTS, *library_parity.TEXTS, "tabs\tand, marks!?", "under_score"]:
        ids, _ = runtime.encode([text])
        assert ids[0].tolist() == expected(text, truncation=True, max_length=64)["input_ids"], text


def changed(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model's folder with other weights."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("text_projection.weight"), r"1 missing: text_projection\.weight"),
        (lambda w: w.update(surplus=torch.zeros(2)), "1 unexpected: surplus"),
        (lambda w: w.update({"text_projection.weight": torch.zeros(3, 3)}), "1 of another shape: text_projection"),
    ],
)
def test_mismatched_weights_are_listed(
    change: Callable[[dict[str, torch.Tensor]], None], said: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    folder = changed(exported("clip").source, tmp_path / "changed", change)
    with pytest.raises(InvalidInput, match=said):
        open_public(folder, 4, allow_pickle=False)


def test_pickles_need_an_option(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"pytorch_model\.bin, which are pickles.*--allow-pickle"):
        open_public(folder, 4, allow_pickle=False)
    assert open_public(folder, 4, allow_pickle=True).text_length == 77


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    folder, trace = make_clip(tmp_path / "clip"), tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    torch.save({"logit_scale": Code()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="its weights cannot be read"):
        open_public(folder, 4, allow_pickle=True)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "stated", "said"),
    [
        ("config.json", {"model_type": "llama"}, "model_type 'llama'; one of clip"),
        ("preprocessor_config.json", {"do_resize": False}, "does not resize"),
        ("preprocessor_config.json", {"resample": 0}, "resamples by"),
        ("preprocessor_config.json", {"crop_size": {"height": 24, "width": 24}}, r"outputs 24x24 pixels; 32x32"),
        ("preprocessor_config.json", {"do_center_crop": False}, "shortest_edge with a crop"),
    ],
)
def test_unsupported_settings_are_rejected(
    file: str, stated: dict[str, Any], said: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    folder = changed(exported("clip").source, tmp_path / "changed", lambda _: None)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | stated))
    with pytest.raises(InvalidInput, match=said):
        open_public(folder, 4, allow_pickle=False)


def test_a_failed_download_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert main(["export", "openai/no-such-model", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "'openai/no-such-model' is not a local folder" in said
    assert "no route to the hub. Without a network, give the folder" in said


@pytest.mark.parametrize(
    ("family", "file", "stated", "said"),
    [
        ("open_clip", "open_clip_config.json", {"model_cfg": {"custom_text": True}}, "custom_text true; a plain CLIP"),
        (
            "open_clip",
            "open_clip_config.json",
            {"model_cfg": {"vision_cfg": {"timm_model_name": "vit"}}},
            r"vision_cfg\.timm_model_name; a plain CLIP",
        ),
        ("open_clip", "open_clip_config.json", {"preprocess_cfg": {"resize_mode": "longest"}}, "shortest or squash"),
        (
            "blip",
            "config.json",
            {"architectures": ["BlipModel"]},
            "BlipForQuestionAnswering.*expected",
        ),
        ("siglip", "config.json", {"model_type": "siglip2"}, "model_type 'siglip2'; one of clip, siglip"),
    ],
)
def test_other_models_of_a_family_are_refused(
    family: str, file: str, stated: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = MAKERS[family](tmp_path / family)
    found = json.loads((folder / file).read_text())
    for key, value in stated.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    (folder / file).write_text(json.dumps(found))
    with pytest.raises(InvalidInput, match=said):
        open_public(folder, 4, allow_pickle=False)
