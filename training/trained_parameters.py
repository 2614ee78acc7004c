"""The parameters that a stage trains, and their learning rates."""

from __future__ import annotations

from torch import nn

from training.models.config import ConvConfig
from training.models.fusion import AUDIO_BACKBONE, TOKEN_PREFIXES, FusedModel
from training.recipe import CACHED_FEATURES, TRAINED_PARTS, Stage


def freeze(model: FusedModel, stage: Stage) -> None:
    """Set which parameters of the model a stage trains, and put frozen parts into evaluation mode.

    Parameters are frozen if the stage's `frozen` includes them, if their learning rate is 0, or if they belong to
    backbone stages that the architecture always freezes.
    """
    model.encoders_frozen = stage.frozen in ("encoders", "embeddings")
    part = TRAINED_PARTS.get(stage.frozen)
    model.only_trained = part and part.module
    model.visual_frozen = stage.frozen in CACHED_FEATURES and not model.only_trained
    text_lr_mults = (stage.text_lr_mult, stage.fused_lr_mult) if model.cfg.vector_from_fused else (stage.text_lr_mult,)
    model.text_frozen = bool(model.only_trained) or (stage.frozen == "visual" and not any(text_lr_mults))
    model.backbones_frozen = stage.backbone_lr_mult == 0.0
    encoders = set(model.encoder_parameters()) if model.encoders_frozen else set()
    if stage.frozen == "embeddings":
        encoders = {name for name in encoders if not name.startswith(model.details)}
    frozen = model.cfg.frozen_stages if isinstance(model.cfg, ConvConfig) else 0
    always = {f"{backbone}stages.{i}." for backbone in model.backbones for i in range(frozen)} | {*model.never_trained}
    if stage.locked_text_layers:
        always |= {"text.bert.embeddings."} | {f"text.bert.encoder.layer.{i}." for i in range(stage.locked_text_layers)}
    for name, parameter in model.named_parameters():
        in_frozen_part = name.startswith(tuple(always)) or (
            model.visual_frozen and name.startswith("video.") and not name.startswith(model.after_features)
        )
        in_frozen_part |= bool(model.only_trained) and not name.startswith(f"{model.only_trained}.")
        parameter.requires_grad_(not in_frozen_part and name not in encoders and _lr_mult(model, stage, name) > 0.0)
        parameter.grad = None  # otherwise gradients of the previous stage would contribute to the gradient norm
    model.train()


def _lr_mult(model: FusedModel, stage: Stage, parameter: str) -> float:
    """Return the learning rate of a parameter, relative to the stage's learning rate."""
    fused = range(model.cfg.text_layers, model.cfg.text_layers + model.cfg.fused_layers)
    by_prefix = {
        **dict.fromkeys((*model.backbones, AUDIO_BACKBONE), stage.backbone_lr_mult),
        **{f"text.bert.encoder.layer.{i}.": stage.fused_lr_mult for i in fused},
        "text.": stage.text_lr_mult,
        "answer_head.": stage.answer_lr_mult,
        **dict.fromkeys((*model.details, *TOKEN_PREFIXES), stage.token_lr_mult),
        **dict.fromkeys(("text_pool.", "text_project.", "video_project."), stage.projection_lr_mult),
    }
    return next((mult for prefix, mult in by_prefix.items() if parameter.startswith(prefix)), 1.0)


def parameter_groups(model: FusedModel, stage: Stage) -> list[dict[str, object]]:
    """Return the parameter groups of the optimizer, by learning rate; biases and scales have no weight decay."""
    by_mult: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_mult.setdefault((_lr_mult(model, stage, name), parameter.ndim > 1), []).append(parameter)
    groups: list[dict[str, object]] = []
    for (mult, decays), parameters in by_mult.items():
        group: dict[str, object] = {"params": parameters, "lr_mult": mult, "lr": 0.0}
        groups.append(group if decays else group | {"weight_decay": 0.0})
    return groups
