"""Export of a caption decoder as two graphs: they equal torch, and no other file changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_export import export
from model_export.graphs import export_graphs, export_specs, graph_specs
from model_export.weights import store
from tests.model_export.conftest import ANSWERS, CONFIG, Graphs
from tests.training.small_run import recipe, write_tokenizer
from tests.training.test_audio import SMALL_AUDIO
from training import checkpoint
from training.checkpoint import Checkpoint
from training.models.hd_vila import HdVila, HdVilaConfig
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import LOGITS, PAST_KEYS, PAST_VALUES, VISUAL_KEYS
from vitascope.bundle.manifest import CAPTION_GRAPHS
from vitascope.captions import CaptionOptions
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.model import Model
from vitascope.tokenizer import Tokenizer

WORDS = [3, 5, 6, 8, 9, 12, 13, 14, 15]
"""Ids of the words that the decoder writes, of a vocabulary of 16,000."""


@pytest.fixture(scope="module")
def captioner(model: HdVila) -> HdVila:
    """The model with an untrained decoder, whose words vary."""
    torch.manual_seed(1)
    captioner = HdVila(CONFIG.model_copy(update={"caption_layers": 2, "caption_words": len(WORDS)}))
    captioner.load_state_dict(model.state_dict(), strict=False)
    decoder = captioner.get_caption_decoder()
    decoder.words = torch.tensor(WORDS)
    with torch.no_grad():
        for values in decoder.parameters():
            values.add_(0.1 * torch.randn_like(values))
        decoder.word_head.transform[2].weight.mul_(20)
    return captioner.eval()


@pytest.fixture(scope="module")
def all_graphs(captioner: HdVila, graphs: Graphs) -> Graphs:
    """The graphs of the model, and those of captions; the first are not exported again."""
    added = [spec for spec in graph_specs(captioner) if spec.name in CAPTION_GRAPHS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.graphs.graph_specs", lambda _: added)
        return graphs | export_graphs(captioner)


@pytest.fixture(scope="module")
def bundle(
    captioner: HdVila, all_graphs: Graphs, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    checkpoint.save(folder / "checkpoint", Checkpoint(captioner, ANSWERS, recipe(tokenizer), tokenizer, step=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graphs", lambda _: all_graphs)
        return export.export_checkpoint(
            folder / "checkpoint", folder / "bundle", precision="float32", data=folders[1], seed=1
        )


def captions_without_a_cache(model: HdVila, tokenizer: Tokenizer, visual_tokens: np.ndarray, length: int) -> list[str]:
    """Return captions of the most probable tokens, each computed from all tokens before it."""
    ids = tokenizer.vocabulary()
    prepared = model.prepare_captions(torch.from_numpy(visual_tokens))
    rows = torch.full((len(visual_tokens), 1), ids["[CLS]"])
    empty = prepared[0][:, :, :, :0]
    for position in range(length):
        logits, *_ = model.next_word_logits(rows, empty, empty, *prepared)
        if not position:
            logits[:, ids["[SEP]"]] = -torch.inf
        rows = torch.cat([rows, logits.argmax(dim=1, keepdim=True)], dim=1)
    return [tokenizer.decode(row[1 : (*row, ids["[SEP]"]).index(ids["[SEP]"])]) for row in rows.tolist()]


def test_captions_equal_those_of_the_checkpoint(captioner: HdVila, bundle: Path) -> None:
    model = Model.open(bundle, threads=1, device="cpu")
    assert model.caption_decoder.max_tokens == CONFIG.text_length - 1
    size = (8, CONFIG.visual_tokens, CONFIG.visual_width)
    tokens = 3 * np.random.default_rng(0).normal(size=size).astype(np.float32)
    with torch.no_grad():
        expected = captions_without_a_cache(captioner, model.tokenizer, tokens, model.caption_decoder.max_tokens)
    captions = model.generate_captions(tokens, options=CaptionOptions(beams=1))
    assert [row[0].text for row in captions] == expected
    assert len(set(expected)) > 1


def test_captions_of_a_clip_without_sound_do_not_depend_on_the_number_of_audio_tokens(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    config = CONFIG.model_dump() | {"audio": SMALL_AUDIO, "caption_layers": 2}
    model = HdVila(HdVilaConfig.model_validate(config)).eval()
    specs = [spec for spec in graph_specs(model) if spec.name in CAPTION_GRAPHS]
    store(export_specs(specs, model.cfg), tmp_path, "float32")
    prefill, step = (OnnxRuntimeEngine(tmp_path / f"{name}.onnx", 1, "cpu") for name in CAPTION_GRAPHS)
    rng = np.random.default_rng(0)
    visual = rng.normal(size=(2, model.cfg.visual_tokens, model.cfg.visual_width)).astype(np.float32)
    ids = rng.integers(1, 100, (2, 4))
    with torch.no_grad():
        prepared = model.prepare_captions(torch.from_numpy(visual))
        none = prepared[0][:, :, :, :0]
        expected, *_ = model.next_word_logits(torch.from_numpy(ids), none, none, *prepared)
    stream = model.cfg.audio_stream()
    assert stream is not None
    for count in (1, 2, stream.tokens):
        audio = np.zeros((2, count, stream.width), np.float32)
        read = prefill.run({"visual_tokens": visual, "audio_tokens": audio})
        assert read[VISUAL_KEYS].shape[3] == model.cfg.visual_tokens + count
        logits = step.run({"input_ids": ids, PAST_KEYS: none.numpy(), PAST_VALUES: none.numpy()} | read)[LOGITS]
        assert np.allclose(logits, expected.numpy(), atol=1e-4)


def test_a_decoder_changes_no_other_file(
    bundle: Path, all_graphs: Graphs, bundles: dict[str, Path], tmp_path: Path
) -> None:
    before, after = Bundle.open(bundles["float32"]), Bundle.open(bundle)
    same = ["weights.bin", *before.manifest.graphs.values()]
    assert [after.manifest.files[name] for name in same] == [before.manifest.files[name] for name in same]
    assert after.fingerprint == before.fingerprint
    assert set(after.manifest.tasks) - set(before.manifest.tasks) == {"captioning"}
    assert '"captions"' not in (before.folder / "manifest.json").read_text()
    card = (bundle / "MODEL_CARD.md").read_text()
    assert f"| captions | at most {CONFIG.text_length - 1} tokens, English |" in card
    store(all_graphs, tmp_path, "int8-weights")
    for name in same:
        assert (tmp_path / name).read_bytes() == (bundles["int8-weights"] / name).read_bytes()
    step = onnx.load(tmp_path / "caption_step.onnx", load_external_data=False)
    external = [{entry.key: entry.value for entry in tensor.external_data} for tensor in step.graph.initializer]
    large = [entries["location"] for entries in external if int(entries.get("length", 0)) > CONFIG.vocabulary * 64]
    assert large == ["weights.bin"], "word embeddings are those of the text graph"
