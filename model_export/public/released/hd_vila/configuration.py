"""The published configuration with the numbers that a file's shapes tell, and what is guessed where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_export.public.released.hd_vila.layout import BERT
from model_export.public.released.shapes import count_of, heads_of, resnet_of, size_of
from model_export.public.released.weights import Weights
from training.models.hd_vila.config import HdVilaConfig, base
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

GRID = (10, 16)
"""Rows and columns of the published grid; the file tells their product alone."""
DETAIL = 4
"""A side of the high-resolution frame over that of its neighbours."""
TEXT_LENGTH, QUESTION_LENGTH = 50, 100
"""Tokens that the authors cut at, in retrieval and in question answering."""
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


def configuration_of(
    folder: Path, weights: Weights, grid: tuple[int, int], answers: int
) -> tuple[HdVilaConfig, list[str]]:
    """The published configuration with the numbers that the shapes tell, and what they do not tell."""

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, name, axis)

    width, layers = size("grid_encoder_low.0.weight"), count_of(weights, f"{BERT}.encoder.layer")
    heads, of_video = heads_of(folder, "space-time Transformer", width)
    text_width = size(f"{BERT}.embeddings.word_embeddings.weight", 1)
    if text_width != width:
        raise InvalidInput(f"model: {folder}: words are {text_width} wide; {width}, as the video's maps, was expected")
    text_heads, of_text = heads_of(folder, "text Transformer", text_width)
    backbone, frames = resnet_of(folder, weights, "cnn"), size("timesformer.time_embed", 1)
    both = f"{BERT}.visual_embeddings.LayerNorm.weight" in weights
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
        "text_intermediate": size(f"{BERT}.encoder.layer.0.intermediate.dense.weight"),
        "vocabulary": size(f"{BERT}.embeddings.word_embeddings.weight"),
        "max_positions": size(f"{BERT}.embeddings.position_embeddings.weight"),
        "vector_width": width if answers else size("transformer.v_proj.weight"),
        "answers": answers,
        "answer_hidden": size("transformer.classifier.0.weight") if answers else 1,
    }
    numbers["text_length"] = min(QUESTION_LENGTH if answers else TEXT_LENGTH, numbers["max_positions"])
    cfg = HdVilaConfig.model_validate(base().model_dump() | numbers)
    high, low = wider_streams(cfg)
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


def wider_streams(cfg: HdVilaConfig) -> list[FrameStream]:
    """An eighth larger than what is cut out of them, each way."""
    return [
        FrameStream.model_validate(
            stream.model_dump() | {"height": stream.height * 9 // 8, "width": stream.width * 9 // 8}
        )
        for stream in cfg.streams()
    ]
