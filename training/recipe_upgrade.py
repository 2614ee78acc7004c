"""Renaming of the recipe keys of version 0.2, so that files and runs of that version can be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_OBJECTIVES = {
    "contrastive": "itc",
    "match": "itm",
    "masked_words": "mlm",
    "masked_visual": "mvm",
    "answer": "vqa",
    "names": "class_names",
}
_DATASET_KEYS = {
    "batch": "batch_size",
    "questions": "questions_per_video",
    "pairs": "captions_per_video",
    "mask_share": "mask_ratio",
    "clips": "clips_per_video",
    "crop": "min_crop",
    "widen": "zoom_out",
    "scale": "resolution_ratio",
    "tint": "channel_mix",
    "views": "num_views",
}
_STAGE_KEYS = {
    "backbone_scale": "backbone_lr_mult",
    "text_scale": "text_lr_mult",
    "fused_scale": "fused_lr_mult",
    "final_scale": "min_lr_ratio",
    "planned_steps": "schedule_steps",
    "sources": "datasets",
}
_RECIPE_KEYS = {"system": "architecture", "start": "init", "clip_norm": "max_grad_norm"}


def upgrade_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of version 0.2 in a recipe (TOML, or `recipe.json` of a checkpoint) to the current keys.

    Values are not validated.
    """
    recipe = _renamed(values, _RECIPE_KEYS)
    recipe["stages"] = _upgrade_each(recipe.get("stages", []), _upgrade_stage)
    return recipe


def _upgrade_stage(values: Mapping[str, Any]) -> dict[str, Any]:
    stage = _renamed(values, _STAGE_KEYS)
    frozen = stage.get("frozen", "none")
    stage["frozen"] = {"nothing": "none", "stage_one": "encoders"}.get(frozen, frozen)
    stage["datasets"] = _upgrade_each(stage.get("datasets", []), _upgrade_dataset)
    return stage


def _upgrade_dataset(values: Mapping[str, Any]) -> dict[str, Any]:
    dataset = _renamed(values, _DATASET_KEYS)
    if isinstance(objectives := dataset.get("objectives", {}), Mapping):
        dataset["objectives"] = _renamed(objectives, _OBJECTIVES)
    if "text_gradient" in dataset:
        dataset["detach_text"] = not dataset.pop("text_gradient")
    return dataset


def _upgrade_each(tables: Any, upgrade: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """Upgrade the tables of a list. Other values stay unchanged, so that validation reports them."""
    if not isinstance(tables, list):
        return tables
    return [upgrade(table) if isinstance(table, Mapping) else table for table in tables]


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in values.items()}
