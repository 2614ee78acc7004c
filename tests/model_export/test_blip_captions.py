"""Export of BLIP captioning: the bundle's captions equal those of `generate` of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from model_export.parity.checks import ParityError
from model_export.public.blip_captions import BlipCaptionsReference
from model_export.public.export import export_public
from model_export.public.families import ModelSource
from model_export.public.library_parity import LIBRARY, check_library_parity, draw_images
from tests.model_export.public_models import make_blip_captions
from tests.service.conftest import settings_for
from tests.service.running import serving
from vitascope.bundle.graph_specs import LOGITS, PAST_KEYS, PAST_VALUES, PRESENT_KEYS, PRESENT_VALUES, Array
from vitascope.captions import CaptionOptions, generate_captions
from vitascope.cli.main import main
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

PROMPT = "a picture of"
IMAGES = draw_images()[1:]


@dataclass
class Models:
    """The bundle, the files of IMAGES, and the model, prompts (I, L) and pixels (I, 3, H, W) of its own library."""

    bundle: Path
    runtime: Model
    files: list[Path]
    library: Any
    tokenizer: Any
    processor: Any
    prompts: torch.Tensor
    pixels: torch.Tensor

    def generate(self, beams: int, max_tokens: int) -> list[list[int]]:
        """Return the tokens of each picture's caption by the library, without a caption of no words."""
        rows = self.library.generate(
            self.pixels,
            self.prompts.clone(),
            num_beams=beams,
            max_new_tokens=max_tokens,
            **{"min_new_tokens": 1, "renormalize_logits": True, "do_sample": False},
        )
        end = self.library.config.text_config.sep_token_id
        generated = [row[self.prompts.shape[1] - 1 :] for row in rows.tolist()]
        return [row[: row.index(end) + 1] if end in row else row for row in generated]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessor

    folder = tmp_path_factory.mktemp("blip-captions")
    source = make_blip_captions(folder / "source")
    bundle = export_public(ModelSource(source, "authors/small"), folder / "bundle", seed=1)
    files = [folder / f"{index}.png" for index in range(len(IMAGES))]
    for file, image in zip(files, IMAGES, strict=True):
        image.save(file)
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    processor = BlipImageProcessor.from_pretrained(source)
    return Models(
        bundle=bundle,
        runtime=Model.open(bundle, threads=1, device="cpu"),
        files=files,
        library=BlipForConditionalGeneration.from_pretrained(source).eval(),
        tokenizer=tokenizer,
        processor=processor,
        prompts=tokenizer([PROMPT] * len(IMAGES), return_tensors="pt")["input_ids"],
        pixels=processor(IMAGES, return_tensors="pt")["pixel_values"],
    )


class TokenIds:
    """Model whose captions are their token ids."""

    def __init__(self, model: Model) -> None:
        self.batch_size, self.run_graph = model.batch_size, model.run_graph
        self.tasks, self.calibration, self.match = model.tasks, model.calibration, model.match

    @property
    def tokenizer(self) -> Tokenizer:
        return cast(Tokenizer, self)

    def decode(self, ids: Sequence[int]) -> str:
        return json.dumps(list(ids))


@pytest.mark.parametrize("max_tokens", [2, 16])
@pytest.mark.parametrize("beams", [1, 3])
def test_token_ids_equal_those_of_generate(models: Models, beams: int, max_tokens: int) -> None:
    tokens = np.concatenate([models.runtime.embed_video_file(file).visual_tokens for file in models.files])
    decoder = models.runtime.caption_decoder
    options = CaptionOptions(beams=beams, max_tokens=max_tokens)
    captions = generate_captions(TokenIds(models.runtime), decoder, {"visual_tokens": tokens}, options)
    expected = models.generate(beams, max_tokens)
    assert [json.loads(row[0].text) for row in captions] == [
        ids[:-1] if ids[-1] == decoder.end_id else ids for ids in expected
    ]
    assert len({len(ids) for ids in expected}) > 1 or max_tokens < 3


def test_logits_equal_those_of_the_library(models: Models) -> None:
    """Of all words at once, and word by word with the keys and values of those before."""
    ids = torch.randint(5, 190, (len(IMAGES), 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = models.library(pixel_values=models.pixels, input_ids=ids).logits.numpy()
    tokens = np.concatenate([models.runtime.embed_video_file(file).visual_tokens for file in models.files])
    visual = models.runtime.run_graph("caption_prefill", {"visual_tokens": tokens})
    decoder = models.runtime.caption_decoder
    empty = np.zeros((len(IMAGES), decoder.layers, decoder.heads, 0, decoder.head_width), np.float32)

    def run(new: torch.Tensor, keys: Array, values: Array) -> dict[str, Array]:
        inputs = {"input_ids": new.numpy(), PAST_KEYS: keys, PAST_VALUES: values} | visual
        return models.runtime.run_graph("caption_step", inputs)

    keys = values = empty
    for position in range(ids.shape[1]):
        outputs = run(ids[:, position : position + 1], keys, values)
        keys, values = outputs[PRESENT_KEYS], outputs[PRESENT_VALUES]
        assert _cosine(outputs[LOGITS], expected[:, position]) >= 0.99999
    assert _cosine(run(ids, empty, empty)[LOGITS], expected[:, -1]) >= 0.99999


def _cosine(a: Array, b: Array) -> float:
    """Return the smallest cosine of the rows of two arrays (n, N)."""
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_captions_are_written_by_the_command_and_the_service(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = models.runtime.bundle.manifest
    assert (manifest.tasks, manifest.vector_width, set(manifest.graphs)) == (
        ["captioning"],
        0,
        {"video", "caption_prefill", "caption_step"},
    )
    assert f'"{PROMPT}"' in (models.bundle / "MODEL_CARD.md").read_text()
    texts = [models.tokenizer.decode(ids, skip_special_tokens=True) for ids in models.generate(3, 9)]
    arguments = ["--max-tokens", "9", "--bundle", str(models.bundle), "--json"]
    assert main(["caption", *map(str, models.files), *arguments]) == 0
    results = json.loads(capsys.readouterr().out)["files"]
    assert [result["clips"][0]["captions"][0]["text"] for result in results] == texts
    with serving(settings_for(models.bundle, tmp_path)) as service:
        upload = {"file": ("picture.png", models.files[1].read_bytes())}
        response = service.client.post("/v1/captions", files=upload, data={"max_tokens": "9"})
        assert response.status_code == 200, response.text
        assert response.json()["clips"][0]["captions"][0]["text"] == texts[1]
        rejection = service.client.post("/v1/collections", json={"name": "mine"})
        assert (rejection.status_code, rejection.json()["code"]) == (409, "task_missing")


def test_a_bundle_that_differs_from_the_library_is_rejected(models: Models) -> None:
    reference = BlipCaptionsReference(models.library, models.tokenizer, models.processor, 60)
    check_library_parity(models.runtime, reference, "float32", LIBRARY, images=IMAGES[:1])
    weight = models.library.text_decoder.bert.encoder.layer[1].crossattention.self.key.weight
    with torch.no_grad():
        weight.mul_(1.5)
    try:
        with pytest.raises(ParityError, match="was expected, as in the original"):
            check_library_parity(models.runtime, reference, "float32", LIBRARY, images=IMAGES[:1])
    finally:
        with torch.no_grad():
            weight.div_(1.5)
