"""HD-VILA (Xue et al., CVPR 2022) as released by its authors, built from the modules of `training.models.hd_vila`.

The modules are adapted where the released program differs: only the middle frame represents the video, the space-time
Transformer has no final norm, and the combining convolution has no bias and reads the high resolution first.

Shape letters: B videos or texts, C clips, N = B * C, F frames, H height, W width, V = Y * X visual tokens on a grid
of Y rows and X columns, L tokens, D width.
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
    TEXT_AXES,
    FusedHead,
    PublicModel,
    TorchAnswers,
    TorchTowers,
)
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
from training.models.fusion import text_transformer
from training.models.hd_vila.config import HdVilaConfig, base
from training.models.hd_vila.model import VideoEncoder
from training.models.text import masked_mean
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

GRID = (10, 16)
"""Rows and columns of the published grid; the file determines their product only."""
RESOLUTION_RATIO = 4
"""Side of the high-resolution frame over that of the low-resolution ones."""
TEXT_LENGTH, QUESTION_LENGTH = 50, 100
"""Tokens at which the authors truncate in retrieval and in question answering."""
TEMPERATURE = 0.05
BERT = "transformer.bert"
GRID_NOTE = "Visual tokens form a grid of {rows} rows and {columns} columns: a guess from their number, {tokens}."
FRAMES_NOTE = (
    "A clip is its middle frame in high resolution and {low} low-resolution neighbors at the centers of equal "
    "parts; the authors take neighbors a fixed number of frames apart, and several such clips of a video."
)
RESIZE_NOTE = (
    "Frames are stretched to {width}x{height} pixels, the middle one to {high_width}x{high_height}, and "
    "center-cropped to {crop_width}x{crop_height} and {crop_high_width}x{crop_high_height}, as in the authors' "
    "evaluation. Resizing is bicubic instead of nearest-neighbor. For small videos, the authors upscaled the middle"
    " frame from low resolution."
)
TEXT_NOTE = (
    "A text's embedding is made from the mean of its states, as in all published configurations (`bert_mean`); a "
    "configuration that uses the first state cannot be recognized from the weights."
)
TEMPERATURE_NOTE = (
    "The temperature is that of pre-training, 0.05 (0.08 in fine-tuning for retrieval): a guess, as the weights "
    "contain none; it does not affect the order of results."
)
LAYERS_NOTE = "Of {layers} text layers the first {text} read text only and the others text and video, as published."
CLIPS_NOTE = "Visual tokens of several clips are averaged; the authors add the exponentials of answers over clips."
_MLM_ONLY = "Part of the layers that read text and video, which were trained for masked language modeling only."
_VIDEO_RULES = [
    *resnet_rules("video.high", "cnn"),
    *resnet_rules("video.low", "cnn_low"),
    ("video.high_grid", "grid_encoder.0"),
    ("video.low_grid", "grid_encoder_low.0"),
    ("video.combine", "grid_encoder_combine.0"),
    ("video.hybrid.position", "timesformer.pos_embed"),
    ("video.hybrid.time", "timesformer.time_embed"),
    ("video.hybrid.blocks.{n}.temporal_norm", "timesformer.blocks.{n}.temporal_norm1"),
    ("video.hybrid.blocks.{n}.temporal_attention", "timesformer.blocks.{n}.temporal_attn"),
    ("video.hybrid.blocks.{n}.temporal_out", "timesformer.blocks.{n}.temporal_fc"),
    ("video.hybrid.blocks.{n}.spatial_norm", "timesformer.blocks.{n}.norm1"),
    ("video.hybrid.blocks.{n}.spatial_attention", "timesformer.blocks.{n}.attn"),
    ("video.hybrid.blocks.{n}.mlp_norm", "timesformer.blocks.{n}.norm2"),
    ("video.hybrid.blocks.{n}.mlp.0", "timesformer.blocks.{n}.mlp.fc1"),
    ("video.hybrid.blocks.{n}.mlp.2", "timesformer.blocks.{n}.mlp.fc2"),
    ("text.bert", BERT),
]
_NEVER_APPLIED = [
    ("timesformer.norm", "The released program never applies this norm."),
    ("cnn_low.layer4", "Only three stages of the low-resolution ResNet are run."),
]
RETRIEVAL_LAYOUT = Layout(
    rules=[
        *_VIDEO_RULES,
        ("text_pool", f"{BERT}.pooler1.dense"),
        ("text_project", "transformer.t_proj"),
        ("video_project", "transformer.v_proj"),
    ],
    unused=[
        *_NEVER_APPLIED,
        ("transformer.cls", "Heads of pre-training; the matching head was never trained."),
        (f"{BERT}.visual_embeddings", _MLM_ONLY),
        (f"{BERT}.pooler2", _MLM_ONLY),
    ],
)
ANSWERING_LAYOUT = Layout(
    rules=[
        *_VIDEO_RULES,
        ("place.row", f"{BERT}.visual_embeddings.row_position_embeddings"),
        ("place.column", f"{BERT}.visual_embeddings.col_position_embeddings"),
        ("place.kind", f"{BERT}.visual_embeddings.token_type_embeddings"),
        ("place.norm", f"{BERT}.visual_embeddings.LayerNorm"),
        ("head.0", f"{BERT}.pooler2.dense"),
        ("head.2", "transformer.classifier.0"),
        ("head.4", "transformer.classifier.2"),
    ],
    unused=[
        *_NEVER_APPLIED,
        (f"{BERT}.pooler1", "Pooling for text embeddings, which question answering does not use."),
        (f"{BERT}.visual_embeddings.position_embeddings", "One-dimensional positions, which are never added."),
    ],
)


class RetrievalModel(nn.Module):
    """Embeddings of videos and texts in one space."""

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__()
        self.video, self.text = _video_encoder(cfg), text_transformer(cfg)
        self.text_pool = nn.Linear(cfg.text_width, cfg.text_width)
        self.text_project = nn.Linear(cfg.text_width, cfg.vector_width)
        self.video_project = nn.Linear(cfg.visual_width, cfg.vector_width)


class AnsweringModel(nn.Module):
    """A question fused with visual tokens, and a classifier of answers."""

    def __init__(self, cfg: HdVilaConfig, positions: tuple[int, int]) -> None:
        super().__init__()
        self.video, self.text = _video_encoder(cfg), text_transformer(cfg)
        self.place = GridPositions(cfg, *positions)
        self.head = nn.Sequential(
            nn.Linear(cfg.text_width, cfg.text_width),
            nn.Tanh(),
            nn.Linear(cfg.text_width, cfg.answer_hidden),
            nn.ReLU(),
            nn.Linear(cfg.answer_hidden, cfg.answers),
        )


class HighResolutionFirst(nn.Conv2d):
    """Convolution of the maps (N, 2 * D, Y, X) of middle and high-resolution frame, with a kernel for the other
    order."""

    def forward(self, maps: Tensor) -> Tensor:
        middle, high = maps.chunk(2, dim=1)
        return super().forward(torch.cat([high, middle], dim=1))


class GridPositions(nn.Module):
    """Add row, column and type embeddings to visual tokens (B, V, D) and normalize. Tables can exceed the grid."""

    def __init__(self, cfg: HdVilaConfig, rows: int, columns: int) -> None:
        super().__init__()
        self.grid = (cfg.grid_height, cfg.grid_width)
        self.row = nn.Embedding(rows, cfg.text_width)
        self.column = nn.Embedding(columns, cfg.text_width)
        self.kind = nn.Embedding(1, cfg.text_width)
        self.norm = nn.LayerNorm(cfg.text_width, eps=1e-12)

    def forward(self, visual: Tensor) -> Tensor:
        rows, columns = self.grid
        positions = (self.row.weight[:rows, None] + self.column.weight[None, :columns]).flatten(0, 1)
        output: Tensor = self.norm(visual + positions + self.kind.weight)
        return output


class ClipEncoder(nn.Module):
    """Streams high (B, C, 1, H, W, 3) and low (B, C, F - 1, H', W', 3) uint8, center-cropped -> visual tokens (B, V,
    D), averaged over clips."""

    def __init__(self, video: VideoEncoder) -> None:
        super().__init__()
        self.video = video

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        cfg, (batch, clips) = self.video.cfg, high.shape[:2]
        frames = {
            "high": _center_crop(high.flatten(0, 1), cfg.high_height, cfg.high_width),
            "low": _center_crop(low.flatten(0, 1), cfg.low_height, cfg.low_width),
        }
        tokens: Tensor = self.video(frames)
        return tokens.reshape(batch, clips, *tokens.shape[1:]).mean(dim=1)


class EmbeddingGraph(nn.Module):
    """Streams -> vector (B, D), L2-normalized, and the same as one visual token (B, 1, D)."""

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.encoder, self.project = ClipEncoder(model.video), model.video_project

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        vector = normalize(self.project(self.encoder(*streams).mean(dim=1)), dim=-1)
        return vector, vector[:, None]


class TokenGraph(nn.Module):
    """Streams -> vector (B, D), not comparable with texts, and visual_tokens (B, V, D)."""

    def __init__(self, model: AnsweringModel) -> None:
        super().__init__()
        self.encoder = ClipEncoder(model.video)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encoder(*streams)
        return normalize(tokens.mean(dim=1), dim=-1), tokens


class TextGraph(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.text, self.pool, self.project = model.text, model.text_pool, model.text_project

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.text.encode(input_ids, attention_mask)
        return normalize(self.project(torch.tanh(self.pool(masked_mean(states, attention_mask)))), dim=-1)


def _video_encoder(cfg: HdVilaConfig) -> VideoEncoder:
    """Return the video encoder of `training.models.hd_vila`, adapted to the released program."""
    video = VideoEncoder(cfg)
    video.hybrid.norm = nn.Identity()  # type: ignore[assignment]
    for module in video.hybrid.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    video.combine = HighResolutionFirst(2 * cfg.hybrid_width, cfg.hybrid_width, 1, bias=False)
    return video


def _center_crop(frames: Tensor, height: int, width: int) -> Tensor:
    """(N, F, H, W, 3) -> (N, F, height, width, 3)."""
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]


def load_hd_vila(folder: Path, weights: Weights, grid: tuple[int, int] = GRID) -> PublicModel:
    """Load HD-VILA from a released file: pre-trained, or fine-tuned for retrieval or question answering.

    Raises InvalidInput.
    """
    if "transformer.classifier.0.weight" in weights:
        return _load_answering(folder, weights, grid)
    cfg, guesses = _infer_config(folder, weights, grid, answers=0)
    tokenizer = open_released_tokenizer(folder, "bert", cfg.vocabulary)
    model = RetrievalModel(cfg)
    layers = range(cfg.text_layers, count_layers(weights, f"{BERT}.encoder.layer"))
    fused_layers = [(f"{BERT}.encoder.layer.{index}", _MLM_ONLY) for index in layers]
    layout = Layout(RETRIEVAL_LAYOUT.rules, [*RETRIEVAL_LAYOUT.unused, *fused_layers])
    unused = load_weights(folder, model, weights, layout)
    text, video, streams = TextGraph(model), EmbeddingGraph(model), uncropped_streams(cfg)
    return PublicModel(
        tasks=["retrieval"],
        specs=[video_spec(video, streams), GraphSpec("text", text, TEXT_AXES, ("vector",))],
        reference=TorchTowers(video, streams, tokenizer.library, cfg.text_length, text, 1.0 / TEMPERATURE),
        vector_width=cfg.vector_width,
        visual_tokens=1,
        visual_width=cfg.vector_width,
        temperature=TEMPERATURE,
        notes=[*guesses, TEXT_NOTE, TEMPERATURE_NOTE, *tokenizer.notes, *unused, REFERENCE_NOTE],
        tokenizer_json=tokenizer.json,
        **_common_fields(cfg, streams),
    )


def _load_answering(folder: Path, weights: Weights, grid: tuple[int, int]) -> PublicModel:
    count = size_of(folder, weights, "transformer.classifier.2.weight", 0)
    if count == 1:
        raise InvalidInput(
            f"model: {folder}: its classifier scores one option of a question, as after fine-tuning for multiple "
            "choice; a classifier of answers was expected"
        )
    cfg, guesses = _infer_config(folder, weights, grid, answers=count)
    tokenizer = open_released_tokenizer(folder, "bert", cfg.vocabulary)
    answers = read_vocabulary(folder, count)
    rows, columns = (
        size_of(folder, weights, f"{BERT}.visual_embeddings.{axis}_position_embeddings.weight", 0)
        for axis in ("row", "col")
    )
    model = AnsweringModel(cfg, (rows, columns))
    unused = load_weights(folder, model, weights, ANSWERING_LAYOUT)
    video, streams = TokenGraph(model), uncropped_streams(cfg)
    head = FusedHead(model.text, model.place, model.head)
    layers_note = LAYERS_NOTE.format(layers=cfg.text_layers + cfg.fused_layers, text=cfg.text_layers)
    return PublicModel(
        tasks=["answering"],
        specs=[video_spec(video, streams), GraphSpec("answer", head, FUSED_AXES, ("answer_logits",))],
        reference=TorchAnswers(video, streams, tokenizer.library, cfg.text_length, head),
        vector_width=cfg.visual_width,
        visual_tokens=cfg.visual_tokens,
        visual_width=cfg.visual_width,
        temperature=1.0,
        answers=answers,
        notes=[*guesses, layers_note, CLIPS_NOTE, *tokenizer.notes, *unused, REFERENCE_NOTE],
        tokenizer_json=tokenizer.json,
        **_common_fields(cfg, streams),
    )


def _common_fields(cfg: HdVilaConfig, streams: list[FrameStream]) -> dict[str, Any]:
    return {
        "architecture": "hd-vila",
        "frame_streams": streams,
        "vocabulary": cfg.vocabulary,
        "text_length": cfg.text_length,
        "versions": {"transformers": version("transformers"), "timm": version("timm")},
        "config": {"layout": "hd-vila"} | cfg.model_dump(mode="json"),
    }


def _infer_config(
    folder: Path, weights: Weights, grid: tuple[int, int], answers: int
) -> tuple[HdVilaConfig, list[str]]:
    """Infer the configuration from shapes and the published one; returns it with notes on guesses."""

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, name, axis)

    width, layers = size("grid_encoder_low.0.weight"), count_layers(weights, f"{BERT}.encoder.layer")
    heads, video_note = guess_heads(folder, "space-time Transformer", width)
    text_width = size(f"{BERT}.embeddings.word_embeddings.weight", 1)
    if text_width != width:
        raise InvalidInput(f"model: {folder}: words are {text_width} wide; {width}, as the video's maps, was expected")
    text_heads, text_note = guess_heads(folder, "text Transformer", text_width)
    backbone, frames = detect_resnet(folder, weights, "cnn"), size("timesformer.time_embed", 1)
    has_fusion = f"{BERT}.visual_embeddings.LayerNorm.weight" in weights
    rows, columns = grid
    sizes: dict[str, Any] = {
        "size": "released",
        "backbone": backbone,
        "grid_height": rows,
        "grid_width": columns,
        "low_height": 16 * rows,
        "low_width": 16 * columns,
        "high_height": 16 * RESOLUTION_RATIO * rows,
        "high_width": 16 * RESOLUTION_RATIO * columns,
        "low_frames": frames - 1,
        "centre_weight": 1.0,
        "hybrid_width": width,
        "hybrid_heads": heads,
        "hybrid_layers": count_layers(weights, "timesformer.blocks"),
        "text_width": text_width,
        "text_heads": text_heads,
        "text_layers": layers // 2 if has_fusion else layers,
        "fused_layers": layers - layers // 2 if answers else 0,
        "text_intermediate": size(f"{BERT}.encoder.layer.0.intermediate.dense.weight"),
        "vocabulary": size(f"{BERT}.embeddings.word_embeddings.weight"),
        "max_positions": size(f"{BERT}.embeddings.position_embeddings.weight"),
        "vector_width": width if answers else size("transformer.v_proj.weight"),
        "answers": answers,
        "answer_hidden": size("transformer.classifier.0.weight") if answers else 1,
    }
    sizes["text_length"] = min(QUESTION_LENGTH if answers else TEXT_LENGTH, sizes["max_positions"])
    cfg = HdVilaConfig.model_validate(base().model_dump() | sizes)
    high, low = uncropped_streams(cfg)
    resize_note = RESIZE_NOTE.format(
        width=low.width,
        height=low.height,
        high_width=high.width,
        high_height=high.height,
        crop_width=cfg.low_width,
        crop_height=cfg.low_height,
        crop_high_width=cfg.high_width,
        crop_high_height=cfg.high_height,
    )
    grid_note = GRID_NOTE.format(rows=rows, columns=columns, tokens=size("timesformer.pos_embed", 1))
    return cfg, [video_note, text_note, grid_note, FRAMES_NOTE.format(low=cfg.low_frames), resize_note]


def uncropped_streams(cfg: HdVilaConfig) -> list[FrameStream]:
    """Return the streams before center-cropping: an eighth larger in each dimension."""
    return [
        FrameStream.model_validate(
            stream.model_dump() | {"height": stream.height * 9 // 8, "width": stream.width * 9 // 8}
        )
        for stream in cfg.streams()
    ]
