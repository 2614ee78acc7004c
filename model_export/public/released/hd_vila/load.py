"""HD-VILA (Xue et al., CVPR 2022) from a file that its authors released."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import PublicModel
from model_export.public.released.answers import answers_of
from model_export.public.released.fused import FUSED_AXES, FusedHead
from model_export.public.released.hd_vila.configuration import GRID, configuration_of, wider_streams
from model_export.public.released.hd_vila.layout import ANSWERING, BERT, TOWERS, fused_layers
from model_export.public.released.hd_vila.modules import Answering, TextGraph, TokenGraph, Towers, VectorGraph
from model_export.public.released.original import ALONE, TorchAnswers, TorchTowers
from model_export.public.released.shapes import size_of
from model_export.public.released.table import Layout, load_released
from model_export.public.released.weights import Weights
from model_export.public.released.words import open_words
from model_export.public.towers import TEXT_AXES
from training.models.hd_vila.config import HdVilaConfig
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

TEMPERATURE = 0.05
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


def load_hd_vila(folder: Path, weights: Weights, grid: tuple[int, int] = GRID) -> PublicModel:
    """HD-VILA of a released file: of either stage, fine-tuned for retrieval, or for answering. Raises InvalidInput."""
    if "transformer.classifier.0.weight" in weights:
        return _answering(folder, weights, grid)
    cfg, guesses = configuration_of(folder, weights, grid, answers=0)
    words = open_words(folder, "bert", cfg.vocabulary)
    model = Towers(cfg)
    layout = Layout(TOWERS.rules, [*TOWERS.unread, *fused_layers(weights, cfg)])
    unread = load_released(folder, model, weights, layout)
    text, video, streams = TextGraph(model), VectorGraph(model), wider_streams(cfg)
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
    cfg, guesses = configuration_of(folder, weights, grid, answers=count)
    words, answers = open_words(folder, "bert", cfg.vocabulary), answers_of(folder, count)
    places = f"{BERT}.visual_embeddings"
    rows, columns = (
        size_of(folder, weights, f"{places}.{axis}_position_embeddings.weight", 0) for axis in ("row", "col")
    )
    model = Answering(cfg, (rows, columns))
    unread = load_released(folder, model, weights, ANSWERING)
    video, streams = TokenGraph(model), wider_streams(cfg)
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


def _stated(cfg: HdVilaConfig, streams: list[FrameStream]) -> dict[str, Any]:
    return {
        "frame_streams": streams,
        "vocabulary": cfg.vocabulary,
        "text_length": cfg.text_length,
        "versions": {"transformers": version("transformers"), "timm": version("timm")},
        "config": {"layout": "hd-vila"} | cfg.model_dump(mode="json"),
    }
