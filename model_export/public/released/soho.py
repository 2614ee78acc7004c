"""SOHO (Huang et al., CVPR 2021) as released by its authors, built from the modules of `training.models.soho`.

It has no embeddings: a text is read together with an image, for matching or question answering.

Shape letters: B videos or texts, C clips, N = B * C, H height, W width, V visual tokens, D width.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import (
    FUSED_AXES,
    REFERENCE_NOTE,
    FusedHead,
    PublicModel,
    TorchAnswers,
    TorchMatch,
)
from model_export.public.preprocessing import STREAM_NAME
from model_export.public.tokenization import open_released_tokenizer
from model_export.public.weights import (
    Layout,
    Weights,
    count_layers,
    detect_resnet,
    guess_heads,
    load_weights,
    read_vocabulary,
    resnet_rules,
    size_of,
)
from training.models.config import IMAGENET
from training.models.fusion import text_transformer
from training.models.soho import SineEmbeddings, SohoConfig, VideoEncoder, base
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

IMAGE_SIZE = (563, 1000)
"""Height and width to which a frame of 16:9 is resized."""
_MULTIPLE = 32
"""Pixels: sides are padded to multiples of it, at the bottom and right."""
TEXT_LENGTH = 16
"""Tokens at which the authors truncate."""
_MATCH_WEIGHT, _ANSWER_WEIGHT = "head.match_class.weight", "head.vqa.3.weight"
LAYOUT = Layout(
    rules=[
        *resnet_rules("video.cnn", "backbone"),
        ("video.neck.0", "neck.conv.conv"),
        ("video.neck.1", "neck.conv.bn"),
        ("video.dictionary.entries", "neck.vq.embed"),
        ("video.dictionary.sizes", "neck.vq.cluster_size"),
        ("video.dictionary.sums", "neck.vq.embed_avg"),
        ("video.entry", "neck.pos_line"),
        ("video.gate.0", "neck.gate_fc.conv"),
        ("video.gate.1", "neck.gate_fc.bn"),
        ("place.norm", "neck.ln"),
        ("text.bert", "language.bert"),
        ("head.scores", "head.match_class"),
        ("head.0", "head.vqa.0"),
        ("head.2", "head.vqa.3"),
    ],
    unused=[
        ("neck.vq.cluster_sum", "Counts of the visual dictionary, used in training only."),
        ("neck.mask_emb", "The mask token of visual tokens, used in training only."),
        ("mask_l_fc", "The head of masked language modeling, used in training only."),
    ],
)

FRAMES_NOTE = (
    "A clip is its middle frame; visual tokens of several clips are averaged, as the model reads single images."
)
RESIZE_NOTE = (
    "Frames are stretched to {width}x{height} pixels, the authors' size for a frame of 16:9, and padded to "
    "{padded_width}x{padded_height}; the authors keep other aspect ratios, up to 1000x600. Resizing is bicubic "
    "instead of bilinear."
)
LENGTH_NOTE = "Texts are truncated at {length} tokens, as by the authors."
EMBEDDING_NOTE = (
    "The model has no text embeddings, so videos cannot be searched by text. The video embedding is the normalized "
    "mean of its visual tokens; the model itself has none."
)
MATCH_NOTE = "Match probabilities are the model's own. It has no temperature; 1 is stated instead."
ANSWER_NOTE = (
    "Answer probabilities are a softmax over logits that were trained with separate sigmoids; they rank. The model "
    "has no temperature; 1 is stated instead."
)
DICTIONARY_NOTE = "The file has no visual dictionary, as after the authors' fine-tuning for question answering."


class ImageTextModel(nn.Module):
    """Visual tokens of an image and the words of a text in one Transformer, and a head on its first state."""

    def __init__(self, cfg: SohoConfig, head: nn.Module) -> None:
        super().__init__()
        self.video = VideoEncoder(cfg)
        self.place = SineEmbeddings(
            width=cfg.text_width, rows=cfg.grid_height, columns=cfg.grid_width, dropout=cfg.dropout
        )
        self.text = text_transformer(cfg)
        self.head = head


class MatchHead(nn.Module):
    """First states (B, D) -> match logits (B,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, 2, bias=False)

    def forward(self, first: Tensor) -> Tensor:
        scores = self.scores(first)
        logit: Tensor = scores[:, 1] - scores[:, 0]
        return logit


class ImageGraph(nn.Module):
    """A stream (B, C, 1, H, W, 3) uint8 -> vector (B, D), not comparable with texts, and visual_tokens (B, V, D)."""

    mean: Tensor

    def __init__(self, video: VideoEncoder) -> None:
        super().__init__()
        self.video = video
        # Zero after normalization: the authors pad normalized images with zeros.
        self.register_buffer("mean", torch.tensor(IMAGENET["image_mean"]), persistent=False)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (frames,) = streams
        batch, clips = frames.shape[:2]
        tokens = self.video({"high": self._pad(frames.flatten(0, 1).float())})
        tokens = tokens.reshape(batch, clips, *tokens.shape[1:]).mean(dim=1)
        return normalize(tokens.mean(dim=1), dim=-1), tokens

    def _pad(self, frames: Tensor) -> Tensor:
        """Pad both sides to multiples: (N, 1, H, W, 3) -> (N, 1, H', W', 3)."""
        count, _, height, width, _ = frames.shape
        if bottom := padded_size(height) - height:
            frames = torch.cat([frames, self.mean.expand(count, 1, bottom, width, 3)], dim=2)
        if right := padded_size(width) - width:
            frames = torch.cat([frames, self.mean.expand(count, 1, padded_size(height), right, 3)], dim=3)
        return frames


def padded_size(side: int) -> int:
    return -(-side // _MULTIPLE) * _MULTIPLE


def load_soho(folder: Path, weights: Weights, image_size: tuple[int, int] = IMAGE_SIZE) -> PublicModel:
    """Load SOHO from a released file, pre-trained (matching) or fine-tuned for question answering.

    Raises InvalidInput.
    """
    is_matching, is_answering = _MATCH_WEIGHT in weights, _ANSWER_WEIGHT in weights
    if is_matching == is_answering:
        heads = "both" if is_matching else "neither"
        raise InvalidInput(f"model: {folder} has {heads} of {_MATCH_WEIGHT} and {_ANSWER_WEIGHT}; one was expected")
    cfg, guesses = _infer_config(folder, weights, image_size)
    tokenizer = open_released_tokenizer(folder, "bert", cfg.vocabulary)
    answers = read_vocabulary(folder, size_of(folder, weights, _ANSWER_WEIGHT, 0)) if is_answering else []
    head = _answer_head(folder, weights, cfg) if is_answering else MatchHead(cfg.text_width)
    model = ImageTextModel(cfg, head)
    unused = load_weights(folder, model, weights, LAYOUT)
    video, fused_head = ImageGraph(model.video), FusedHead(model.text, model.place, model.head)
    height, width = image_size
    stream = FrameStream(name=STREAM_NAME, frames=1, height=height, width=width, placement="middle")
    reference_class = TorchAnswers if is_answering else TorchMatch
    return PublicModel(
        architecture="soho",
        tasks=["answering"] if is_answering else ["matching"],
        specs=[
            video_spec(video, [stream]),
            GraphSpec("answer", fused_head, FUSED_AXES, ("answer_logits",))
            if is_answering
            else GraphSpec("match", fused_head, FUSED_AXES, ("match_logit",)),
        ],
        reference=reference_class(video, [stream], tokenizer.library, cfg.text_length, fused_head),
        frame_streams=[stream],
        vocabulary=cfg.vocabulary,
        text_length=cfg.text_length,
        vector_width=cfg.visual_width,
        visual_tokens=cfg.visual_tokens,
        visual_width=cfg.visual_width,
        temperature=1.0,
        answers=answers,
        tokenizer_json=tokenizer.json,
        notes=[
            *guesses,
            FRAMES_NOTE,
            *([] if cfg.entries else [DICTIONARY_NOTE]),
            EMBEDDING_NOTE,
            ANSWER_NOTE if is_answering else MATCH_NOTE,
            *tokenizer.notes,
            *unused,
            REFERENCE_NOTE,
        ],
        versions={"transformers": version("transformers"), "timm": version("timm")},
        config={"layout": "soho"} | cfg.model_dump(mode="json"),
    )


def _answer_head(folder: Path, weights: Weights, cfg: SohoConfig) -> nn.Module:
    hidden, answers = (size_of(folder, weights, name, 0) for name in ("head.vqa.0.weight", _ANSWER_WEIGHT))
    return nn.Sequential(nn.Linear(cfg.text_width, hidden), nn.ReLU(), nn.Linear(hidden, answers))


def _infer_config(folder: Path, weights: Weights, image_size: tuple[int, int]) -> tuple[SohoConfig, list[str]]:
    """Infer the configuration from shapes and the published one; returns it with notes on guesses."""

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, name, axis)

    width = size("language.bert.embeddings.word_embeddings.weight", 1)
    heads, heads_note = guess_heads(folder, "Transformer", width)
    padded_height, padded_width = (padded_size(side) for side in image_size)
    sizes: dict[str, Any] = {
        "size": "released",
        "backbone": detect_resnet(folder, weights, "backbone"),
        "image_height": padded_height,
        "image_width": padded_width,
        "grid_height": padded_height // _MULTIPLE // 2,
        "grid_width": padded_width // _MULTIPLE // 2,
        "entries": size("neck.vq.embed") if any(name.startswith("neck.vq.") for name in weights) else 0,
        "text_width": width,
        "text_heads": heads,
        "text_layers": 0,
        "fused_layers": count_layers(weights, "language.bert.encoder.layer"),
        "text_intermediate": size("language.bert.encoder.layer.0.intermediate.dense.weight"),
        "vocabulary": size("language.bert.embeddings.word_embeddings.weight"),
        "max_positions": size("language.bert.embeddings.position_embeddings.weight"),
        "text_length": TEXT_LENGTH,
        "vector_width": width,
    }
    cfg = SohoConfig.model_validate(base().model_dump() | sizes)
    resize_note = RESIZE_NOTE.format(
        height=image_size[0], width=image_size[1], padded_height=padded_height, padded_width=padded_width
    )
    return cfg, [heads_note, resize_note, LENGTH_NOTE.format(length=TEXT_LENGTH)]
