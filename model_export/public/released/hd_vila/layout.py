"""The keys of a released HD-VILA file: what is read under which name, and what is not read and why."""

from __future__ import annotations

from model_export.public.released.shapes import count_of, resnet_rules
from model_export.public.released.table import Layout
from model_export.public.released.weights import Weights
from training.models.hd_vila.config import HdVilaConfig

BERT = "transformer.bert"
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
    ("text.bert", BERT),
]
_NEVER_APPLIED = [
    ("timesformer.norm", "The released program never applies this norm."),
    ("cnn_low.layer4", "Of the neighbours' ResNet three stages are run."),
]
TOWERS = Layout(
    rules=[
        *_VIDEO_RULES,
        ("text_pool", f"{BERT}.pooler1.dense"),
        ("text_project", "transformer.t_proj"),
        ("video_project", "transformer.v_proj"),
    ],
    unread=[
        *_NEVER_APPLIED,
        ("transformer.cls", "Heads of pre-training; that of matching was never trained."),
        (f"{BERT}.visual_embeddings", _MASKED_WORDS),
        (f"{BERT}.pooler2", _MASKED_WORDS),
    ],
)
ANSWERING = Layout(
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
    unread=[
        *_NEVER_APPLIED,
        (f"{BERT}.pooler1", "Of the text's vector, which question answering does not use."),
        (
            f"{BERT}.visual_embeddings.position_embeddings",
            "Places in one row, which the released program never adds.",
        ),
    ],
)


def fused_layers(weights: Weights, cfg: HdVilaConfig) -> list[tuple[str, str]]:
    layers = range(cfg.text_layers, count_of(weights, f"{BERT}.encoder.layer"))
    return [(f"{BERT}.encoder.layer.{number}", _MASKED_WORDS) for number in layers]
