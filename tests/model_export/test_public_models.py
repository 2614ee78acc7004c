"""A public model becomes a bundle that gives what the model gives in its own library: vectors, order, logits."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from torch.nn.functional import normalize

from model_export.public import export as public_export
from model_export.public import probes
from model_export.public.export import export_public
from model_export.public.families import open_public
from model_export.public.hub import Found
from model_export.public.texts import open_tokenizer
from tests.chaos import rounds
from tests.media_files import moving_shot, write_picture, write_video
from tests.model_export.public_models import MAKERS, make_clip, make_siglip, write_pieces
from tests.service.conftest import settings_for
from tests.service.running import serving
from training.data.scenes.generate import example_of
from training.data.scenes.render import render
from vitascope.command import main
from vitascope.errors import InvalidInput
from vitascope.media.decode import read_frames
from vitascope.media.sample import clip_times
from vitascope.model import Model
from vitascope.tokenise import Tokenizer

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
    """A family's small model and its bundle, made once."""
    made: dict[str, Exported] = {}

    def export(family: str) -> Exported:
        if family not in made:
            root, said = tmp_path_factory.mktemp(family), list[str]()
            source = MAKERS[family](root / "source")
            bundle = export_public(Found(source, "them/small"), root / "bundle", seed=1, frames=4, say=said.append)
            made[family] = Exported(source, bundle, said)
        return made[family]

    return export


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rendered scenes and a tall panorama, as JPEG and PNG of several shapes."""
    folder = tmp_path_factory.mktemp("photographs")
    found = []
    for number in range(3):
        world, _ = example_of(5, "val", number)
        frame = next(iter(render(world)))
        found.append(folder / f"{number}.jpg")
        frame.convert("RGB").resize((333 + 40 * number, 250)).save(found[-1], quality=90)
    found.append(write_picture(folder / "tall.png", np.concatenate(moving_shot(9, 5))))
    return found


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result: np.ndarray = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return result


def library_of(family: str, source: Path) -> tuple[Any, Any]:
    """The model and the processor as a user of transformers opens them."""
    from transformers import AutoModel, AutoProcessor

    return AutoModel.from_pretrained(source).eval(), AutoProcessor.from_pretrained(source)


@pytest.mark.parametrize("family", ["clip", "siglip", *(["siglip2"] if rounds(0, 1) else [])])
def test_texts_and_pictures_are_those_of_the_original(
    family: str, exported: Callable[[str], Exported], photographs: list[Path]
) -> None:
    one = exported(family)
    model, processor = library_of(family, one.source)
    runtime = Model.open(one.bundle, threads=1)
    padding = "max_length" if family != "clip" else True
    inputs = processor(text=TEXTS, images=opened(photographs), return_tensors="pt", padding=padding, truncation=True)
    with torch.no_grad():
        texts = model.get_text_features(**{k: v for k, v in inputs.items() if k != "pixel_values"}).pooler_output
        pictures = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        logits = model(**inputs).logits_per_image.numpy()
    said = runtime.embed_text(TEXTS)
    seen = np.concatenate([runtime.embed_file(path).vectors for path in photographs])
    assert cosines(said, texts.numpy()).min() >= 0.99999
    assert cosines(seen, pictures.numpy()).min() >= 0.99999
    stated = runtime.bundle.manifest
    found = seen @ said.T / stated.temperature + stated.logit_bias
    np.testing.assert_allclose(found, logits, atol=0.02)
    assert found.argmax(axis=0).tolist() == logits.argmax(axis=0).tolist()
    assert found.argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()


def test_a_clip_is_the_mean_of_its_frames(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    one = exported("clip")
    model, processor = library_of("clip", one.source)
    runtime = Model.open(one.bundle, threads=1)
    (stream,) = runtime.streams
    assert (stream.frames, stream.placement, stream.resample, stream.fit) == (4, "uniform", "bicubic", "crop")
    film = write_video(tmp_path / "film.mp4", [f for seed in (1, 2) for f in moving_shot(seed, 40)])
    span = (0.4, 3.0)
    frames = [Image.fromarray(frame) for frame in read_frames(film, clip_times(stream, *span))]
    with torch.no_grad():
        pixels = processor(images=frames, return_tensors="pt")["pixel_values"]
        wanted = normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1).mean(dim=0)
    (vector,) = runtime.embed_file(film, [span]).vectors
    assert cosines(vector[None], wanted.numpy()[None])[0] >= 0.99999
    assert any("mean of the unit vectors of 4 frames" in line for line in one.said)
    stated = runtime.bundle.manifest.extra["public_model"]
    assert stated["source"] == "them/small"
    assert "mean of the unit vectors of 4 frames" in stated["chosen"][0]


def test_it_fills_a_served_collection_and_finds_in_it(
    exported: Callable[[str], Exported], photographs: list[Path], tmp_path: Path
) -> None:
    one = exported("clip")
    model, processor = library_of("clip", one.source)
    with serving(settings_for(one.bundle, tmp_path / "data")) as service:
        client = service.client
        assert client.post("/v1/collections", json={"name": "mine"}).status_code == 201
        film = write_video(tmp_path / "film.mp4", moving_shot(3, 50))
        for path in [*photographs, film]:
            answer = client.post("/v1/collections/mine/videos", files={"file": (path.name, path.read_bytes())})
            assert answer.status_code == 201, answer.text
        found = client.post("/v1/collections/mine/search", json={"text": TEXTS[0], "limit": 10}).json()["results"]
    inputs = processor(text=TEXTS[:1], images=opened(photographs), return_tensors="pt", padding=True)
    with torch.no_grad():
        result = model(**inputs)
    wanted = dict(
        zip([p.stem for p in photographs], (result.image_embeds @ result.text_embeds[0]).tolist(), strict=True)
    )
    similarities = {hit["video"]["title"]: hit["similarity"] for hit in found}
    assert "film" in similarities
    for name, cosine in wanted.items():
        assert similarities[name] == pytest.approx(cosine, abs=1e-3)
    order = [hit["video"]["title"] for hit in found if hit["video"]["title"] != "film"]
    assert order == sorted(wanted, key=lambda name: -wanted[name])


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


def test_siglip_keeps_its_bias_and_its_one_length(exported: Callable[[str], Exported]) -> None:
    """Its probability of a pair is what the manifest's numbers make of a similarity; padding changes no vector."""
    runtime = Model.open(exported("siglip").bundle, threads=1)
    stated = runtime.bundle.manifest
    assert (stated.text_length, stated.logit_bias) == (64, pytest.approx(-9.5))
    assert stated.temperature == pytest.approx(np.exp(-2.9))
    similarity = np.array([0.4, 0.9])
    wanted = 1 / (1 + np.exp(-(similarity / stated.temperature + stated.logit_bias)))
    np.testing.assert_allclose(runtime.fused(similarity, np.zeros(2)), wanted, atol=1e-6)
    (stream,) = runtime.streams
    assert (stream.fit, stream.resample, stream.shortest_edge) == ("stretch", "bicubic", None)
    np.testing.assert_allclose(
        runtime.embed_text([TEXTS[0], TEXTS[4]])[0], runtime.embed_text([TEXTS[0]])[0], atol=1e-6
    )


def test_siglip_pieces_become_its_tokeniser(tmp_path: Path) -> None:
    """A folder that has only the SentencePiece model gives the numbers of the same pieces in tokenizer.json."""
    folder = make_siglip(tmp_path / "siglip")
    wanted = open_tokenizer(folder).library
    write_pieces(folder)
    tokens = open_tokenizer(folder)
    runtime = Tokenizer(tokenizers.Tokenizer.from_str(tokens.written), 64)
    for text in [*TEXTS, *probes.TEXTS, "tabs\tand, marks!?", "under_score"]:
        ids, _ = runtime.encode([text])
        assert ids[0].tolist() == wanted(text, truncation=True, max_length=64)["input_ids"], text


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
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor]], None], said: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    folder = changed(exported("clip").source, tmp_path / "changed", change)
    with pytest.raises(InvalidInput, match=said):
        open_public(folder, 4, allow_pickle=False)


def test_pickles_are_read_only_where_that_is_asked_for(tmp_path: Path) -> None:
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
        ("preprocessor_config.json", {"crop_size": {"height": 24, "width": 24}}, r"makes 24x24 pixels; 32x32"),
        ("preprocessor_config.json", {"do_center_crop": False}, "shortest_edge with a crop"),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused(
    file: str, stated: dict[str, Any], said: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    folder = changed(exported("clip").source, tmp_path / "changed", lambda _: None)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | stated))
    with pytest.raises(InvalidInput, match=said):
        open_public(folder, 4, allow_pickle=False)


def test_a_name_that_cannot_be_fetched_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert main(["export", "openai/no-such-model", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "'openai/no-such-model' is no folder here" in said
    assert "no route to the hub. Without a network, give the folder" in said
