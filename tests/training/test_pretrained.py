"""Published backbones: loaded from the user's files or from the cache of huggingface_hub, and what is missing named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining, BertModel

from tests.training.small_run import MODEL, recipe, write_corpus, write_tokenizer
from tests.training.test_visual_parsing import small_config
from training.initialization import load_or_initialize
from training.models import hd_vila, pretrained, soho, visual_parsing
from training.models.architectures import build
from training.models.config import FusedConfig
from training.models.pretrained import PublishedModel, starts_of
from training.recipe import Recipe
from vitascope.errors import InvalidInput

SMALL_BERT: dict[str, Any] = {
    "vocab_size": MODEL["vocabulary"],
    "hidden_size": MODEL["text_width"],
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": MODEL["text_intermediate"],
    "max_position_embeddings": MODEL["max_positions"],
}


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small models under the published names, no network, and an empty cache, whose folder is returned."""
    monkeypatch.setattr(pretrained, "BACKBONES", {"test_resnet": PublishedModel("ResNet-50", "resnet50.tv_in1k")})
    monkeypatch.setattr(pretrained, "BERTS", {(48, 2): PublishedModel("BERT-base", "bert-base-uncased")})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "data", tmp_path, copies=1)
    return tmp_path / "data"


def random_backbone() -> nn.Module:
    torch.manual_seed(1)
    made: nn.Module = timm.create_model("test_resnet")  # with its classifier, as published
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    return made


def write_bert(folder: Path, **changes: object) -> BertForPreTraining:
    torch.manual_seed(2)
    made = BertForPreTraining(BertConfig(**SMALL_BERT | changes))
    made.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return made


def cached(hub: Path, repository: str) -> Path:
    """Return the folder where the cache has the files of a repository."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40)


def base_recipe(**changes: object) -> Recipe:
    plain = recipe(Path("none")).model_dump() | {"tokenizer": None, "init": "pretrained"}
    return Recipe.model_validate(plain | changes)


def loaded(corpus: Path, made: Recipe) -> Any:
    return load_or_initialize(made, corpus, corpus.parent / "run" / "checkpoint", None)


def check_equal(model: Any, backbone: nn.Module, bert: BertForPreTraining) -> None:
    stages = pretrained.backbone_stages(backbone)
    for encoder, count in ((model.video.high, 5), (model.video.low, 4)):
        assert len(encoder.stages) == count
        for own, published in zip(encoder.stages, stages, strict=False):
            assert_equal(own.state_dict(), published.state_dict())
    assert_equal(model.text.bert.state_dict(), {k: v for k, v in bert.bert.state_dict().items() if "pooler" not in k})


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in actual)


def old_file(folder: Path, state: dict[str, Tensor]) -> Path:
    """A file as early torchvision wrote it, without the number of batches."""
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, folder / "resnet.pth")
    return folder / "resnet.pth"


def hub_folder(folder: Path, state: dict[str, Tensor]) -> Path:
    (folder / "resnet").mkdir()
    save_file(state, folder / "resnet" / "model.safetensors")
    return folder / "resnet"


@pytest.mark.parametrize("write", [old_file, hub_folder])
def test_a_recipe_can_name_files_of_weights(
    small_published: Path, corpus: Path, tmp_path: Path, write: Callable[[Path, dict[str, Tensor]], Path]
) -> None:
    backbone, bert = random_backbone(), write_bert(tmp_path / "bert")
    weights = write(tmp_path, dict(backbone.state_dict()))
    actual = loaded(corpus, base_recipe(backbone_weights=str(weights), text_weights=str(tmp_path / "bert")))
    check_equal(actual.model, backbone, bert)
    assert actual.tokenizer == tmp_path / "bert" / "tokenizer.json"
    assert actual.sources == ("squares", "ResNet-50", "BERT-base")


def test_published_weights_come_from_the_cache_without_a_network(small_published: Path, corpus: Path) -> None:
    backbone = random_backbone()
    save_file(dict(backbone.state_dict()), cached(small_published, "timm/resnet50.tv_in1k") / "model.safetensors")
    bert = write_bert(cached(small_published, "bert-base-uncased"))
    actual = loaded(corpus, base_recipe())
    check_equal(actual.model, backbone, bert)
    assert actual.tokenizer.read_bytes()
    assert actual.sources == ("squares", "ResNet-50", "BERT-base")


def test_weights_that_are_neither_cached_nor_reachable_are_named(
    small_published: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"^bert-base-uncased: not in the cache .* `text_weights` in the recipe"):
        loaded(corpus, base_recipe())
    write_bert(cached(small_published, "bert-base-uncased"))
    with pytest.raises(InvalidInput, match=r"^resnet50\.tv_in1k: not in the cache .* `backbone_weights` in the recipe"):
        loaded(corpus, base_recipe())
    assert loaded(corpus, base_recipe(init="text")).sources == ("squares", "BERT-base")


def write_wrong_weights(folder: Path, kind: str) -> None:
    state = dict(random_backbone().state_dict())
    if kind == "lacking":
        state.pop("layer4.0.conv1.weight")
    elif kind == "unknown":
        state["layer5.weight"] = torch.zeros(1)
    elif kind == "shape":
        state["bn1.weight"] = torch.zeros(1)
    torch.save(state, folder / "resnet.pth")
    if kind == "damaged":
        (folder / "resnet.pth").write_bytes(b"nothing")
    elif kind == "missing":
        (folder / "resnet.pth").unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lacking", r"resnet\.pth: lacks layer4\.0\.conv1\.weight \(1 in all\)"),
        ("unknown", r"resnet\.pth: has the unknown layer5\.weight \(1 in all\)"),
        ("shape", r"resnet\.pth: has other shapes of bn1\.weight \(1 in all\)"),
        ("damaged", r"backbone_weights: .*resnet\.pth: .*; weights in safetensors or PyTorch format were expected"),
        ("missing", r"backbone_weights: .*resnet\.pth: no weights; a file .* or a folder with one was expected"),
    ],
)
def test_weights_of_another_backbone_are_refused(
    small_published: Path, corpus: Path, tmp_path: Path, kind: str, message: str
) -> None:
    write_bert(tmp_path / "bert")
    write_wrong_weights(tmp_path, kind)
    weights = {"backbone_weights": str(tmp_path / "resnet.pth"), "text_weights": str(tmp_path / "bert")}
    with pytest.raises(InvalidInput, match=message):
        loaded(corpus, base_recipe(**weights))


def test_a_text_encoder_of_another_size_or_of_a_missing_folder_is_refused(
    small_published: Path, corpus: Path, tmp_path: Path
) -> None:
    write_bert(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(
        InvalidInput, match=r"deep: has the unknown encoder\.layer\.2\..*weights of the configured Bert"
    ):
        loaded(corpus, base_recipe(init="text", text_weights=str(tmp_path / "deep")))
    with pytest.raises(InvalidInput, match=r"text_weights: .*nowhere: .*; a folder with the config\.json"):
        loaded(corpus, base_recipe(init="text", text_weights=str(tmp_path / "nowhere")))


def test_a_backbone_without_published_weights_is_refused(corpus: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"backbone: 'test_resnet' .*one of resnet50, resnet101, tf_efficientnet_lite0"
    ):
        pretrained.load_cnn(nn.Module(), "test_resnet")


def as_authors_wrote(state: dict[str, Tensor]) -> dict[str, Any]:
    """The file of a Swin as its authors published it: grids are halved at the end of a level, not at the start."""
    named = {}
    for name, values in state.items():
        level = name.split(".")[1]
        if ".downsample." in name:
            name = name.replace(f"layers.{level}.", f"layers.{int(level) - 1}.")
        named[name.replace("head.fc.", "head.")] = values
    named["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    return {"model": named}


@pytest.mark.parametrize("by_authors", [False, True])
def test_a_swin_starts_with_weights_of_timm_or_of_its_authors(tmp_path: Path, by_authors: bool) -> None:
    cfg = small_config(backbone="")
    torch.manual_seed(3)
    published = timm.models.swin_transformer.SwinTransformer(
        img_size=64, patch_size=4, embed_dim=8, depths=(1, 2, 2), num_heads=(1, 2, 4), window_size=4, num_classes=10
    )
    state = dict(published.state_dict())
    torch.save(as_authors_wrote(state) if by_authors else state, tmp_path / "swin.pth")
    model: Any = build(cfg)
    pretrained.load_swin(model.video.swin, tmp_path / "swin.pth")
    actual = model.video.swin.state_dict()
    assert_equal(actual, {name: values for name, values in state.items() if not name.startswith("head.")})


def test_a_base_starts_with_its_published_parts_and_a_tiny_swin_with_a_file_only() -> None:
    bases: list[FusedConfig] = [hd_vila.base(), soho.base(), visual_parsing.base()]
    assert [starts_of(cfg, "pretrained") for cfg in bases] == [
        ("ResNet-50", "BERT-large"),
        ("ResNet-101", "BERT-base"),
        ("Swin", "BERT-base"),
    ]
    assert [starts_of(cfg, "text") for cfg in bases] == [("BERT-large",), ("BERT-base",), ("BERT-base",)]
    pixels = visual_parsing.tiny().model_copy(update={"backbone": ""})
    assert starts_of(pixels, "pretrained") == ("all-MiniLM-L6-v2",)
    assert starts_of(pixels, "pretrained", "swin.pth") == ("Swin", "all-MiniLM-L6-v2")


def shapes(module: nn.Module, left_out: str = "-") -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in module.state_dict().items() if not name.startswith(left_out)}


def test_a_base_has_the_layers_of_the_published_models() -> None:
    """Names and shapes, without weights: a ResNet of torchvision, a Swin of timm, BERT by its published numbers."""
    with torch.device("meta"):
        for name in pretrained.BACKBONES:
            assert shapes(timm.create_model(name)) == shapes(torchvision.models.get_model(name))
        swin: Any = build(visual_parsing.base())
        published = timm.create_model(pretrained.SWIN.name, num_classes=0)
        assert shapes(swin.video.swin) == shapes(published)
        bert = {"vocab_size": 30522, "max_position_embeddings": 512}
        base = BertConfig(**bert)
        assert shapes(swin.text.bert) == shapes(BertModel(base, add_pooling_layer=False))
        large = BertConfig(
            **bert, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        )
        video_language: Any = build(hd_vila.base())
        assert shapes(video_language.text.bert) == shapes(BertModel(large, add_pooling_layer=False))


@pytest.mark.parametrize(
    ("key", "init"), [("backbone_weights", "text"), ("backbone_weights", "scratch"), ("text_weights", "scratch")]
)
def test_weights_that_would_not_be_used_are_refused(key: str, init: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}: 'file' with init = '{init}'"):
        base_recipe(**{key: "file", "init": init})
