"""HD-VILA (Xue et al., CVPR 2022) as its authors released it, on the parts that ``training.models.hdvila`` trains.

Where the released program differs from those, it is followed here: the middle frame alone is the video, the space-time
Transformer ends without a norm, and the combining convolution has no bias and takes the high resolution first.

Shape letters: B videos or texts, C clips, N = B * C, F frames, H height, W width, V = Y * X visual tokens on a grid of
Y rows and X columns, L tokens, D width.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import PublicModel
from model_export.public.released.answers import answers_of
from model_export.public.released.fused import FUSED_AXES, FusedHead
from model_export.public.released.original import ALONE, TorchAnswers, TorchTowers
from model_export.public.released.shapes import count_of, heads_of, resnet_of, resnet_rules, size_of
from model_export.public.released.table import Layout, load_released
from model_export.public.released.weights import Weights
from model_export.public.released.words import open_words
from model_export.public.towers import TEXT_AXES
from training.models.fused import text_transformer
from training.models.hdvila.config import HdVilaConfig, base
from training.models.hdvila.video import VideoEncoder
from training.models.text import masked_mean
from vitascope.errors import InvalidInput
from vitascope.manifest import FrameStream

GRID = (10, 16)
"""Rows and columns of the published grid; the file tells their product alone."""
DETAIL = 4
"""A side of the high-resolution frame over that of its neighbours."""
TEMPERATURE = 0.05
TEXT_LENGTH, QUESTION_LENGTH = 50, 100
"""Tokens that the authors cut at, in retrieval and in question answering."""
_BERT = "transformer.bert"
_MASKED_WORDS = "Of the layers that read text and video, whose only trained task is masked words."
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
    ("text.bert", _BERT),
]
_NEVER_APPLIED = [
    ("timesformer.norm", "The released program never applies this norm."),
    ("cnn_low.layer4", "Of the neighbours' ResNet three stages are run."),
]
TOWERS = Layout(
    rules=[
        *_VIDEO_RULES,
        ("text_pool", f"{_BERT}.pooler1.dense"),
        ("text_project", "transformer.t_proj"),
        ("video_project", "transformer.v_proj"),
    ],
    unread=[
        *_NEVER_APPLIED,
        ("transformer.cls", "Heads of pre-training; that of matching was never trained."),
        (f"{_BERT}.visual_embeddings", _MASKED_WORDS),
        (f"{_BERT}.pooler2", _MASKED_WORDS),
    ],
)
ANSWERING = Layout(
    rules=[
        *_VIDEO_RULES,
        ("place.row", f"{_BERT}.visual_embeddings.row_position_embeddings"),
        ("place.column", f"{_BERT}.visual_embeddings.col_position_embeddings"),
        ("place.kind", f"{_BERT}.visual_embeddings.token_type_embeddings"),
        ("place.norm", f"{_BERT}.visual_embeddings.LayerNorm"),
        ("head.0", f"{_BERT}.pooler2.dense"),
        ("head.2", "transformer.classifier.0"),
        ("head.4", "transformer.classifier.2"),
    ],
    unread=[
        *_NEVER_APPLIED,
        (f"{_BERT}.pooler1", "Of the text's vector, which question answering does not use."),
        (
            f"{_BERT}.visual_embeddings.position_embeddings",
            "Places in one row, which the released program never adds.",
        ),
    ],
)

GRID_GUESS = (
    "Visual tokens lie on a grid of {rows} rows and {columns} columns: a guess, the weights tell only that they are "
    "{tokens}."
)
FRAMES = (
    "A clip is its middle frame in high resolution and {low} neighbours at the centres of equal parts; the authors "
    "take neighbours a fixed number of frames apart, and several such clips of a video."
)
PICTURES = (
    "Frames are stretched to {width}x{height} pixels, the middle one to {wide}x{high}, and the middle of {cut_width}x"
    "{cut_height} ({cut_wide}x{cut_high}) is looked at, as in the authors' evaluation; they resize "
    "by the nearest pixel, here the decoder does, bicubically. Where they had small videos, the middle frame was an "
    "enlarged small one."
)
TEXT_GUESS = (
    "A text's vector is made of the mean of its states, as all published configurations have it (`bert_mean`); a "
    "configuration that takes the first state instead would not show in the weights."
)
TEMPERATURE_GUESS = (
    "The temperature is the one that pre-training kept fixed, 0.05 (0.08 in fine-tuning for retrieval): a guess, the "
    "weights hold none, and no order depends on it."
)
STAGES = "Of {layers} text layers the first {text} read text alone and the others text and video, as published."
CLIPS = "Visual tokens of several clips are averaged; the authors add up the answers' exponentials over clips."


class Towers(nn.Module):
    """Two vectors of one space."""

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__()
        self.video, self.text = (
            published_video(cfg),
            text_transformer(cfg),
        )
        self.text_pool = nn.Linear(cfg.text_width, cfg.text_width)
        self.text_project = nn.Linear(cfg.text_width, cfg.vector_width)
        self.video_project = nn.Linear(cfg.visual_width, cfg.vector_width)


class Answering(nn.Module):
    """A question read together with visual tokens, and a classifier over the answers."""

    def __init__(self, cfg: HdVilaConfig, places: tuple[int, int]) -> None:
        super().__init__()
        self.video, self.text = (
            published_video(cfg),
            text_transformer(cfg),
        )
        self.place = Places(cfg, *places)
        self.head = nn.Sequential(
            nn.Linear(cfg.text_width, cfg.text_width),
            nn.Tanh(),
            nn.Linear(cfg.text_width, cfg.answer_hidden),
            nn.ReLU(),
            nn.Linear(cfg.answer_hidden, cfg.answers),
        )


class DetailFirst(nn.Conv2d):
    """Maps (N, 2 * D, Y, X) of the sequence's middle frame and of the high-resolution frame, which the released kernel
    takes the other way round."""

    def forward(self, maps: Tensor) -> Tensor:
        middle, detail = maps.chunk(2, dim=1)
        return super().forward(torch.cat([detail, middle], dim=1))


class Places(nn.Module):
    """Visual tokens (B, V, D) with row, column and kind, normalised. The tables may have more places than the grid."""

    def __init__(self, cfg: HdVilaConfig, rows: int, columns: int) -> None:
        super().__init__()
        self.grid = (cfg.grid_height, cfg.grid_width)
        self.row = nn.Embedding(rows, cfg.text_width)
        self.column = nn.Embedding(columns, cfg.text_width)
        self.kind = nn.Embedding(1, cfg.text_width)
        self.norm = nn.LayerNorm(cfg.text_width, eps=1e-12)

    def forward(self, visual: Tensor) -> Tensor:
        rows, columns = self.grid
        place = (self.row.weight[:rows, None] + self.column.weight[None, :columns]).flatten(0, 1)
        out: Tensor = self.norm(visual + place + self.kind.weight)
        return out


class ClipEyes(nn.Module):
    """Streams high (B, C, 1, H, W, 3) and low (B, C, F - 1, H', W', 3), uint8, of which the middle is cut out
    -> visual tokens (B, V, D), the mean over clips."""

    def __init__(self, video: VideoEncoder) -> None:
        super().__init__()
        self.video = video

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        cfg, (batch, clips) = self.video.cfg, high.shape[:2]
        frames = {
            "high": _middle(high.flatten(0, 1), cfg.high_height, cfg.high_width),
            "low": _middle(low.flatten(0, 1), cfg.low_height, cfg.low_width),
        }
        tokens: Tensor = self.video(frames)
        return tokens.reshape(batch, clips, *tokens.shape[1:]).mean(dim=1)


class VectorGraph(nn.Module):
    """Streams -> vector (B, D), L2-normalised, and it again as one visual token (B, 1, D)."""

    def __init__(self, model: Towers) -> None:
        super().__init__()
        self.eyes, self.project = ClipEyes(model.video), model.video_project

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        vector = normalize(self.project(self.eyes(*streams).mean(dim=1)), dim=-1)
        return vector, vector[:, None]


class TokenGraph(nn.Module):
    """Streams -> a vector (B, D) that no text has its like of, and visual_tokens (B, V, D)."""

    def __init__(self, model: Answering) -> None:
        super().__init__()
        self.eyes = ClipEyes(model.video)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.eyes(*streams)
        return normalize(tokens.mean(dim=1), dim=-1), tokens


class TextGraph(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalised."""

    def __init__(self, model: Towers) -> None:
        super().__init__()
        self.text, self.pool, self.project = model.text, model.text_pool, model.text_project

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.text.encode(input_ids, attention_mask)
        return normalize(self.project(torch.tanh(self.pool(masked_mean(states, attention_mask)))), dim=-1)


def published_video(cfg: HdVilaConfig) -> VideoEncoder:
    """The trained encoder's parts, as the released program runs them."""
    video = VideoEncoder(cfg)
    video.hybrid.norm = nn.Identity()  # type: ignore[assignment]
    for part in video.hybrid.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    video.combine = DetailFirst(2 * cfg.hybrid_width, cfg.hybrid_width, 1, bias=False)
    return video


def load_hd_vila(folder: Path, weights: Weights, grid: tuple[int, int] = GRID) -> PublicModel:
    """HD-VILA of a released file: of either stage, fine-tuned for retrieval, or for answering. Raises InvalidInput."""
    if "transformer.classifier.0.weight" in weights:
        return _answering(folder, weights, grid)
    cfg, guesses = _configuration(folder, weights, grid, answers=0)
    words = open_words(folder, "bert", cfg.vocabulary)
    model = Towers(cfg)
    layout = Layout(TOWERS.rules, [*TOWERS.unread, *_fused_layers(weights, cfg)])
    unread = load_released(folder, model, weights, layout)
    text, video, streams = TextGraph(model), VectorGraph(model), _streams(cfg)
    return PublicModel(
        architecture="hd-vila",
        tasks=["retrieval"],
        specs=[video_spec(video, streams), GraphSpec("text", text, TEXT_AXES, ("vector",))],
        original=TorchTowers(video, streams, words.library, cfg.text_length, text, 1.0 / TEMPERATURE),
        vector_width=cfg.vector_width,
        visual_tokens=1,
        visual_width=cfg.vector_width,
        temperature=TEMPERATURE,
        notes=[*guesses, TEXT_GUESS, TEMPERATURE_GUESS, *words.notes, *unread, ALONE],
        tokenizer_json=words.written,
        **_stated(cfg, streams),
    )


def _answering(folder: Path, weights: Weights, grid: tuple[int, int]) -> PublicModel:
    count = size_of(folder, weights, "transformer.classifier.2.weight", 0)
    if count == 1:
        raise InvalidInput(
            f"model: {folder}: its classifier gives one number to a question with one option, as fine-tuning for "
            "multiple choice leaves it; a classifier over answers was expected"
        )
    cfg, guesses = _configuration(folder, weights, grid, answers=count)
    words, answers = open_words(folder, "bert", cfg.vocabulary), answers_of(folder, count)
    places = f"{_BERT}.visual_embeddings"
    rows, columns = (
        size_of(folder, weights, f"{places}.{axis}_position_embeddings.weight", 0) for axis in ("row", "col")
    )
    model = Answering(cfg, (rows, columns))
    unread = load_released(folder, model, weights, ANSWERING)
    video, streams = TokenGraph(model), _streams(cfg)
    answer = FusedHead(model.text, model.place, model.head)
    layers = STAGES.format(layers=cfg.text_layers + cfg.fused_layers, text=cfg.text_layers)
    return PublicModel(
        architecture="hd-vila",
        tasks=["answering"],
        specs=[video_spec(video, streams), GraphSpec("answer", answer, FUSED_AXES, ("answer_logits",))],
        original=TorchAnswers(video, streams, words.library, cfg.text_length, answer),
        vector_width=cfg.visual_width,
        visual_tokens=cfg.visual_tokens,
        visual_width=cfg.visual_width,
        temperature=1.0,
        answers=answers,
        notes=[*guesses, layers, CLIPS, *words.notes, *unread, ALONE],
        tokenizer_json=words.written,
        **_stated(cfg, streams),
    )


def _configuration(
    folder: Path, weights: Weights, grid: tuple[int, int], answers: int
) -> tuple[HdVilaConfig, list[str]]:
    """The published configuration with the numbers that the shapes tell, and what they do not tell."""

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, name, axis)

    width, layers = size("grid_encoder_low.0.weight"), count_of(weights, f"{_BERT}.encoder.layer")
    heads, of_video = heads_of(folder, "space-time Transformer", width)
    text_width = size(f"{_BERT}.embeddings.word_embeddings.weight", 1)
    if text_width != width:
        raise InvalidInput(f"model: {folder}: words are {text_width} wide; {width}, as the video's maps, was expected")
    text_heads, of_text = heads_of(folder, "text Transformer", text_width)
    backbone, frames = resnet_of(folder, weights, "cnn"), size("timesformer.time_embed", 1)
    both = f"{_BERT}.visual_embeddings.LayerNorm.weight" in weights
    rows, columns = grid
    numbers: dict[str, Any] = {
        "size": "released",
        "backbone": backbone,
        "grid_height": rows,
        "grid_width": columns,
        "low_height": 16 * rows,
        "low_width": 16 * columns,
        "high_height": 16 * DETAIL * rows,
        "high_width": 16 * DETAIL * columns,
        "low_frames": frames - 1,
        "centre_weight": 1.0,
        "hybrid_width": width,
        "hybrid_heads": heads,
        "hybrid_layers": count_of(weights, "timesformer.blocks"),
        "text_width": text_width,
        "text_heads": text_heads,
        "text_layers": layers // 2 if both else layers,
        "fused_layers": layers - layers // 2 if answers else 0,
        "text_intermediate": size(f"{_BERT}.encoder.layer.0.intermediate.dense.weight"),
        "vocabulary": size(f"{_BERT}.embeddings.word_embeddings.weight"),
        "max_positions": size(f"{_BERT}.embeddings.position_embeddings.weight"),
        "vector_width": width if answers else size("transformer.v_proj.weight"),
        "answers": answers,
        "answer_hidden": size("transformer.classifier.0.weight") if answers else 1,
    }
    numbers["text_length"] = min(QUESTION_LENGTH if answers else TEXT_LENGTH, numbers["max_positions"])
    cfg = HdVilaConfig.model_validate(base().model_dump() | numbers)
    high, low = _streams(cfg)
    sizes = {"width": low.width, "height": low.height, "wide": high.width, "high": high.height}
    cut = {"cut_width": cfg.low_width, "cut_height": cfg.low_height, "cut_wide": cfg.high_width}
    guesses = [
        of_video,
        of_text,
        GRID_GUESS.format(rows=rows, columns=columns, tokens=size("timesformer.pos_embed", 1)),
        FRAMES.format(low=cfg.low_frames),
        PICTURES.format(**sizes, **cut, cut_high=cfg.high_height),
    ]
    return cfg, guesses


def _fused_layers(weights: Weights, cfg: HdVilaConfig) -> list[tuple[str, str]]:
    layers = range(cfg.text_layers, count_of(weights, f"{_BERT}.encoder.layer"))
    return [(f"{_BERT}.encoder.layer.{number}", _MASKED_WORDS) for number in layers]


def _streams(cfg: HdVilaConfig) -> list[FrameStream]:
    """An eighth larger than what is cut out of them, each way."""
    return [
        FrameStream.model_validate(
            stream.model_dump() | {"height": stream.height * 9 // 8, "width": stream.width * 9 // 8}
        )
        for stream in cfg.streams()
    ]


def _stated(cfg: HdVilaConfig, streams: list[FrameStream]) -> dict[str, Any]:
    return {
        "frame_streams": streams,
        "vocabulary": cfg.vocabulary,
        "text_length": cfg.text_length,
        "versions": {"transformers": version("transformers"), "timm": version("timm")},
        "config": {"layout": "hd-vila"} | cfg.model_dump(mode="json"),
    }


def _middle(frames: Tensor, height: int, width: int) -> Tensor:
    """(N, F, H, W, 3) -> the middle (N, F, height, width, 3)."""
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]
