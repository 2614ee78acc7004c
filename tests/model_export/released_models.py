"""Small random files of weights with the names and shapes of those that the authors of CLIP-ViP, HD-VILA and SOHO
released, and their tokenizers.

Letters: D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.model_export.public_models import bert_tokenizer, clip_tokenizer

GRID = (2, 3)
"""Rows and columns of the small HD-VILA."""
IMAGE_SIZE = (120, 180)
"""Height and width of the small SOHO's images."""
WIDTH = 128
"""Two heads."""
ANSWERS = ["red", "green", "blue", "two", "yes"]
_RESNET18 = (64, 128, 256, 512)


@dataclass
class RandomWeights:
    """Random weights, all from one generator."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def values(self, name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        self.weights[name] = mean + scale * torch.randn(shape, generator=self.generator)

    def linear(self, name: str, out: int, into: int, *, bias: bool = True) -> None:
        self.values(f"{name}.weight", out, into, scale=into**-0.5)
        if bias:
            self.values(f"{name}.bias", out)

    def norm(self, name: str, width: int) -> None:
        self.values(f"{name}.weight", width, mean=1.0)
        self.values(f"{name}.bias", width)

    def batch_norm(self, name: str, width: int) -> None:
        self.norm(name, width)
        self.values(f"{name}.running_mean", width, scale=0.1)
        self.weights[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.generator)
        self.weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def convolution(self, name: str, out: int, into: int, side: int) -> None:
        self.values(f"{name}.weight", out, into, side, side, scale=(into * side * side) ** -0.5)

    def resnet18(self, prefix: str, seed: int) -> None:
        """Add a ResNet-18, made once per seed."""
        self.weights |= {f"{prefix}.{name}": values for name, values in _resnet18(seed).items()}

    def add_resnet18(self, prefix: str) -> None:
        self.convolution(f"{prefix}.conv1", 64, 3, 7)
        self.batch_norm(f"{prefix}.bn1", 64)
        into = 64
        for stage, out in enumerate(_RESNET18, start=1):
            for block in (0, 1):
                at = f"{prefix}.layer{stage}.{block}"
                self.convolution(f"{at}.conv1", out, into, 3)
                self.batch_norm(f"{at}.bn1", out)
                self.convolution(f"{at}.conv2", out, out, 3)
                self.batch_norm(f"{at}.bn2", out)
                if into != out:
                    self.convolution(f"{at}.downsample.0", out, into, 1)
                    self.batch_norm(f"{at}.downsample.1", out)
                into = out

    def bert(self, prefix: str, vocabulary: int, layers: int) -> None:
        self.values(f"{prefix}.embeddings.word_embeddings.weight", vocabulary, WIDTH, scale=1.0)
        self.values(f"{prefix}.embeddings.position_embeddings.weight", 120, WIDTH)
        self.values(f"{prefix}.embeddings.token_type_embeddings.weight", 2, WIDTH)
        self.norm(f"{prefix}.embeddings.LayerNorm", WIDTH)
        for number in range(layers):
            at = f"{prefix}.encoder.layer.{number}"
            for part in ("query", "key", "value"):
                self.linear(f"{at}.attention.self.{part}", WIDTH, WIDTH)
            self.linear(f"{at}.attention.output.dense", WIDTH, WIDTH)
            self.norm(f"{at}.attention.output.LayerNorm", WIDTH)
            self.linear(f"{at}.intermediate.dense", 160, WIDTH)
            self.linear(f"{at}.output.dense", WIDTH, 160)
            self.norm(f"{at}.output.LayerNorm", WIDTH)


@cache
def _resnet18(seed: int) -> dict[str, Tensor]:
    d = RandomWeights(generator=torch.Generator().manual_seed(seed))
    d.add_resnet18("at")
    return {name.removeprefix("at."): values for name, values in d.weights.items()}


def clip_vip() -> dict[str, Tensor]:
    """Four frames of 16 patches, three proxies; positions are stored among the weights, as older libraries did."""
    d, at = RandomWeights(), "clipmodel.vision_model"
    d.values(f"{at}.embeddings.class_embedding", WIDTH)
    d.values(f"{at}.embeddings.added_cls", 3, WIDTH)
    d.values(f"{at}.embeddings.temporal_embedding", 1, 4, WIDTH)
    d.convolution(f"{at}.embeddings.patch_embedding", WIDTH, 3, 8)
    d.values(f"{at}.embeddings.position_embedding.weight", 17, WIDTH)
    d.weights[f"{at}.embeddings.position_ids"] = torch.arange(17)[None]
    d.norm(f"{at}.pre_layrnorm", WIDTH)
    d.norm(f"{at}.post_layernorm", WIDTH)
    _clip_layers(d, at, 2, WIDTH)
    at, text = "clipmodel.text_model", 64
    d.values(f"{at}.embeddings.token_embedding.weight", len(clip_tokenizer()), text, scale=1.0)
    d.values(f"{at}.embeddings.position_embedding.weight", 77, text)
    d.norm(f"{at}.final_layer_norm", text)
    _clip_layers(d, at, 1, text)
    d.linear("clipmodel.visual_projection", 24, WIDTH, bias=False)
    d.linear("clipmodel.text_projection", 24, text, bias=False)
    d.weights["clipmodel.logit_scale"] = torch.tensor(4.2)
    return d.weights


def _clip_layers(d: RandomWeights, prefix: str, layers: int, width: int) -> None:
    for number in range(layers):
        at = f"{prefix}.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            d.linear(f"{at}.self_attn.{part}", width, width)
        d.norm(f"{at}.layer_norm1", width)
        d.norm(f"{at}.layer_norm2", width)
        d.linear(f"{at}.mlp.fc1", 96, width)
        d.linear(f"{at}.mlp.fc2", width, 96)


def hd_vila() -> dict[str, Tensor]:
    """Pre-trained in stage 2: five frames, and two text layers of which the second also reads the video."""
    d = _hd_vila()
    for number in (1, 2):
        d.linear(f"transformer.bert.pooler{number}.dense", WIDTH, WIDTH)
    _visual_embeddings(d)
    d.linear("transformer.t_proj", WIDTH, WIDTH)
    d.linear("transformer.v_proj", WIDTH, WIDTH)
    d.linear("transformer.cls.seq_relationship", 2, WIDTH)
    d.values("transformer.cls.predictions.bias", 7)
    return d.weights


def hd_vila_answers() -> dict[str, Tensor]:
    """Fine-tuned for questions."""
    d = _hd_vila()
    for number in (1, 2):
        d.linear(f"transformer.bert.pooler{number}.dense", WIDTH, WIDTH)
    _visual_embeddings(d)
    d.linear("transformer.classifier.0", 2 * WIDTH, WIDTH)
    d.linear("transformer.classifier.2", len(ANSWERS), 2 * WIDTH)
    return d.weights


def _hd_vila() -> RandomWeights:
    d = RandomWeights()
    d.resnet18("cnn", 1)
    d.resnet18("cnn_low", 2)
    d.convolution("grid_encoder.0", WIDTH, 512, 1)
    d.convolution("grid_encoder_low.0", WIDTH, 256, 1)
    d.convolution("grid_encoder_combine.0", WIDTH, 2 * WIDTH, 1)
    d.values("timesformer.pos_embed", 1, GRID[0] * GRID[1], WIDTH)
    d.values("timesformer.time_embed", 1, 5, WIDTH)
    d.norm("timesformer.norm", WIDTH)
    for number in (0, 1):
        at = f"timesformer.blocks.{number}"
        for part in ("norm1", "norm2", "temporal_norm1"):
            d.norm(f"{at}.{part}", WIDTH)
        for part in ("attn", "temporal_attn"):
            d.linear(f"{at}.{part}.qkv", 3 * WIDTH, WIDTH)
            d.linear(f"{at}.{part}.proj", WIDTH, WIDTH)
        d.linear(f"{at}.temporal_fc", WIDTH, WIDTH)
        d.linear(f"{at}.mlp.fc1", 4 * WIDTH, WIDTH)
        d.linear(f"{at}.mlp.fc2", WIDTH, 4 * WIDTH)
    d.bert("transformer.bert", len(bert_tokenizer()), 2)
    return d


def _visual_embeddings(d: RandomWeights) -> None:
    at = "transformer.bert.visual_embeddings"
    d.values(f"{at}.position_embeddings.weight", 120, WIDTH)
    d.values(f"{at}.row_position_embeddings.weight", 9, WIDTH)
    d.values(f"{at}.col_position_embeddings.weight", 9, WIDTH)
    d.values(f"{at}.token_type_embeddings.weight", 1, WIDTH)
    d.norm(f"{at}.LayerNorm", WIDTH)


def soho() -> dict[str, Tensor]:
    """Pre-trained: a visual dictionary of 16 entries with its gate, and a matching head."""
    d = _soho()
    d.values("neck.vq.embed", 16, WIDTH, scale=1.0)
    d.values("neck.vq.embed_avg", 16, WIDTH)
    for name in ("cluster_size", "cluster_sum"):
        d.values(f"neck.vq.{name}", 16)
    d.linear("neck.pos_line", WIDTH, WIDTH)
    d.convolution("neck.gate_fc.conv", 2, 2 * WIDTH, 1)
    d.batch_norm("neck.gate_fc.bn", 2)
    d.values("neck.mask_emb.weight", 1, WIDTH)
    d.linear("head.match_class", 2, WIDTH, bias=False)
    d.weights["mask_l_fc.weight"] = d.weights["language.bert.embeddings.word_embeddings.weight"].clone()
    return d.weights


def soho_answers() -> dict[str, Tensor]:
    """Fine-tuned for questions, without a dictionary."""
    d = _soho()
    d.linear("head.vqa.0", 4 * WIDTH, WIDTH)
    d.linear("head.vqa.3", len(ANSWERS), 4 * WIDTH)
    return d.weights


def _soho() -> RandomWeights:
    d = RandomWeights()
    d.resnet18("backbone", 1)
    d.convolution("neck.conv.conv", WIDTH, 512, 1)
    d.batch_norm("neck.conv.bn", WIDTH)
    d.norm("neck.ln", WIDTH)
    d.bert("language.bert", len(bert_tokenizer()), 2)
    return d


RELEASED: dict[str, tuple[Callable[[], dict[str, Tensor]], Callable[[], Any]]] = {
    "clip-vip": (clip_vip, clip_tokenizer),
    "hd-vila": (hd_vila, bert_tokenizer),
    "hd-vila-answers": (hd_vila_answers, bert_tokenizer),
    "soho": (soho, bert_tokenizer),
    "soho-answers": (soho_answers, bert_tokenizer),
}
"""Weights and tokenizer by name."""


def write_folder(name: str, folder: Path) -> Path:
    """Write the weights as safetensors and the tokenizer."""
    make, tokenizer = RELEASED[name]
    folder.mkdir(parents=True)
    save_file({key: values.contiguous() for key, values in make().items()}, folder / "weights.safetensors")
    tokenizer().save_pretrained(folder)
    return folder
