"""The systems by name: what a recipe, a checkpoint or a bundle means by `hd-vila`, `soho` or `visual-parsing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.models import hd_vila, soho, visual_parsing
from training.models.config import FusedConfig
from training.models.fusion import FusedModel


@dataclass(frozen=True)
class System:
    """One system's configuration and model, and its two sizes (each takes the number of answers)."""

    config: type[FusedConfig]
    model: Callable[[Any], FusedModel]
    sizes: Mapping[str, Callable[[int], FusedConfig]]


SYSTEMS: Mapping[str, System] = {
    "hd-vila": System(hd_vila.HdVilaConfig, hd_vila.HdVila, {"tiny": hd_vila.tiny, "base": hd_vila.base}),
    "soho": System(soho.SohoConfig, soho.Soho, {"tiny": soho.tiny, "base": soho.base}),
    "visual-parsing": System(
        visual_parsing.VisualParsingConfig,
        visual_parsing.VisualParsing,
        {"tiny": visual_parsing.tiny, "base": visual_parsing.base},
    ),
}


def read_config(values: Mapping[str, Any]) -> FusedConfig:
    """A stored configuration; those from before there were several systems are HD-VILA's.

    Raises ValueError naming an unknown system, and pydantic.ValidationError.
    """
    name = values.get("system", "hd-vila")
    if name not in SYSTEMS:
        raise ValueError(f"system: {name!r}; one of {sorted(SYSTEMS)} was expected")
    return SYSTEMS[name].config.model_validate(values)


def build(config: FusedConfig) -> FusedModel:
    """A model with fresh weights, drawn from torch's generator."""
    return SYSTEMS[config.system].model(config)
